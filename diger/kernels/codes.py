"""Codes behind noise."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diger.kernels.draws import draw, tile_of


@triton.jit(do_not_specialize=["n", "of_code"])
def _relax(
    logits, scale, key, soft, hard, tau, n, of_code,
    K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    code = tl.arange(0, WIDTH)[None, :]
    at, there = row * K + code, (row < n) & (code < K)
    value = tl.load(logits + at, mask=there, other=0.0)
    uniform = (draw(at, tl.load(key)).to(tl.float32) + 0.5) * 2.3283064365386963e-10
    uniform = tl.minimum(tl.maximum(uniform, 1e-20), 1 - 1e-7)
    by = tl.load(scale + code * of_code, mask=code < K, other=0.0)
    value = tl.where(code < K, value - by * tl.log(-tl.log(uniform)), float("-inf"))
    chosen = tl.argmax(value, 1)[:, None]
    tl.store(hard + at, tl.where(code == chosen, 1.0, 0.0), mask=there)
    value = tl.exp((value - tl.max(value, 1)[:, None]) / tau)
    tl.store(soft + at, value / tl.sum(value, 1)[:, None], mask=there)


@triton.jit(do_not_specialize=["n"])
def _relax_back(
    grad, soft, out, tau, n, K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    code = tl.arange(0, WIDTH)[None, :]
    at, there = row * K + code, (row < n) & (code < K)
    value = tl.load(grad + at, mask=there, other=0.0)
    share = tl.load(soft + at, mask=there, other=0.0)
    along = tl.sum(value * share, 1)[:, None]
    tl.store(out + at, share * (value - along) / tau, mask=there)


def relax(logits: Tensor, scale: Tensor, key: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """softmax((logits + scale g) / tau) of float32 [n, K], g drawn from Gumbel(0, 1) by the key,
    and the one-hot rows of its largest. scale: a scalar, or of each code, [K]."""
    (n, k), soft, hard = logits.shape, torch.empty_like(logits), torch.empty_like(logits)
    rows, width = tile_of(k)
    _relax[triton.cdiv(n, rows),](
        logits, scale, key, soft, hard, tau, n, int(scale.ndim > 0), K=k, ROWS=rows, WIDTH=width
    )  # fmt: skip
    return soft, hard


def relax_back(grad: Tensor, soft: Tensor, tau: float) -> Tensor:
    """The gradient at the logits of ``relax``, given that at either of its results."""
    (n, k), out, grad = soft.shape, torch.empty_like(soft), grad.contiguous()
    rows, width = tile_of(k)
    _relax_back[triton.cdiv(n, rows),](grad, soft, out, tau, n, K=k, ROWS=rows, WIDTH=width)
    return out
