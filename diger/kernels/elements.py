"""Passes that look at every number by itself."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diger.kernels import draws
from diger.kernels.draws import key_of, where_kept


@triton.jit(do_not_specialize=["n"])
def _drop(x, out, key, factor, n, CUT: tl.constexpr, SIZE: tl.constexpr):
    # Here and below: what may pass 2^31 is a block's first place; within it 32 bits are enough.
    first, i = tl.program_id(0).to(tl.int64) * SIZE, tl.arange(0, SIZE)
    there = i < n - first
    value = tl.load(x + first + i, mask=there, other=0.0).to(tl.float32)
    value = where_kept(value, first.to(tl.uint32) + i.to(tl.uint32), key, CUT)
    tl.store(out + first + i, value * factor, mask=there)


@triton.jit(do_not_specialize=["n"])
def _drop_add(
    x, y, out, key, factor, n, CUT: tl.constexpr, SIZE: tl.constexpr
):  # fmt: skip
    first, i = tl.program_id(0).to(tl.int64) * SIZE, tl.arange(0, SIZE)
    there = i < n - first
    value = tl.load(y + first + i, mask=there, other=0.0).to(tl.float32)
    base = tl.load(x + first + i, mask=there, other=0.0).to(tl.float32)
    value = where_kept(value, first.to(tl.uint32) + i.to(tl.uint32), key, CUT)
    tl.store(out + first + i, base + value * factor, mask=there)


@triton.jit(do_not_specialize=["n"])
def _relu_drop(x, key, n, CUT: tl.constexpr, SIZE: tl.constexpr):
    first, i = tl.program_id(0).to(tl.int64) * SIZE, tl.arange(0, SIZE)
    there = i < n - first
    value = tl.load(x + first + i, mask=there, other=0.0).to(tl.float32)
    value = tl.where(value < 0, 0.0, value)  # which leaves what is not a number as it is
    value = where_kept(value, first.to(tl.uint32) + i.to(tl.uint32), key, CUT)
    tl.store(x + first + i, value, mask=there)


@triton.jit(do_not_specialize=["n"])
def _adamw(
    weight, grad, first_moment, second_moment, steps, rate, decay, epsilon, n,
    BETA1: tl.constexpr, BETA2: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    first, i = tl.program_id(0).to(tl.int64) * SIZE, tl.arange(0, SIZE)
    there = i < n - first
    # One minus a power close to one: in float32 it would keep half of its digits.
    one = tl.full((), 1, tl.float64)
    beta1, beta2 = tl.full((), BETA1, tl.float64), tl.full((), BETA2, tl.float64)
    count = tl.load(steps).to(tl.float64)
    unbiased1 = one - tl.exp(count * tl.log(beta1))
    unbiased2 = one - tl.exp(count * tl.log(beta2))
    lr = tl.load(rate)
    by = (lr.to(tl.float64) / unbiased1).to(tl.float32)
    root = tl.sqrt(unbiased2).to(tl.float32)
    g = tl.load(grad + first + i, mask=there, other=0.0)
    w = tl.load(weight + first + i, mask=there, other=0.0)
    m = tl.load(first_moment + first + i, mask=there, other=0.0)
    v = tl.load(second_moment + first + i, mask=there, other=0.0)
    m += (g - m) * (one - beta1).to(tl.float32)
    v = v * beta2.to(tl.float32) + g * g * (one - beta2).to(tl.float32)
    w = w * (1 - lr * decay) - by * m / (tl.sqrt(v) / root + epsilon)
    tl.store(first_moment + first + i, m, mask=there)
    tl.store(second_moment + first + i, v, mask=there)
    tl.store(weight + first + i, w, mask=there)


def drop(x: Tensor, keep: Tensor | None, scale: float, factor: float, dtype: torch.dtype) -> Tensor:
    """x times factor where it is kept, else 0, in this type."""
    x = x.contiguous()
    out, (key, cut), n = torch.empty_like(x, dtype=dtype), key_of(keep, scale, x), x.numel()
    _drop[triton.cdiv(n, draws.TILE),](x, out, key, factor, n, CUT=cut, SIZE=draws.TILE)
    return out


def drop_add(x: Tensor, y: Tensor, keep: Tensor | None, scale: float, factor: float) -> Tensor:
    """x + y times factor where it is kept, in the type of x."""
    x, y = x.contiguous(), y.contiguous()
    out, (key, cut), n = torch.empty_like(x), key_of(keep, scale, x), x.numel()
    _drop_add[triton.cdiv(n, draws.TILE),](x, y, out, key, factor, n, CUT=cut, SIZE=draws.TILE)
    return out


def relu_drop_(x: Tensor, keep: Tensor | None, scale: float) -> Tensor:
    """In place, x where it is above 0 and kept, else 0; x is contiguous."""
    (key, cut), n = key_of(keep, scale, x), x.numel()
    _relu_drop[triton.cdiv(n, draws.TILE),](x, key, n, CUT=cut, SIZE=draws.TILE)
    return x


def adamw_(
    weight: Tensor,
    grad: Tensor,
    moments: tuple[Tensor, Tensor],
    steps: Tensor,
    rate: Tensor,
    betas: tuple[float, float],
    decay: float,
    epsilon: float,
) -> None:
    """A step of AdamW, in place (Loshchilov and Hutter, "Decoupled Weight Decay Regularization",
    ICLR 2019). Torch's own gives a block of threads 65,536 numbers, so that a small model is a few
    blocks' work.

    All [n], float32. moments: means of the gradient and of its square. steps: a scalar, this one
    counted. rate: float32, a scalar.
    """
    n = weight.numel()
    _adamw[triton.cdiv(n, draws.TILE),](
        weight, grad, *moments, steps, rate, decay, epsilon, n,
        BETA1=betas[0], BETA2=betas[1], SIZE=draws.TILE,
    )  # fmt: skip
