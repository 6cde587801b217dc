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
