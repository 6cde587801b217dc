"""Passes of the tokenizer: codes behind noise, and balanced assignment."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diger.kernels.draws import draw, tile_of

TILE = 8192  # numbers of float64 that a block holds
PARTS, SOME = 64, 8  # most blocks, each of which reads what all have added up, so many at a time


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


@triton.jit(do_not_specialize=["n"])
def _balance(
    matrix, before, after, rows, n,
    D: tl.constexpr, PARTS: tl.constexpr, SOME: tl.constexpr, ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, WIDTH)[None, :]
    total = tl.zeros((SOME, WIDTH), tl.float64)
    for part in range(0, PARTS, SOME):
        some = part + tl.arange(0, SOME)[:, None]
        total += tl.load(before + some * D + column, mask=column < D, other=0.0)
    by = 1.0 / tl.where(column < D, tl.sum(total, 0)[None, :] * D, 1.0)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    there = (row < n) & (column < D)
    value = tl.load(matrix + row * D + column, mask=there, other=0.0)
    along = tl.sum(value * by, 1)[:, None] * n
    factor = tl.where(row < n, 1.0 / tl.where(row < n, along, 1.0), 0.0)
    tl.store(rows + row, factor, mask=row < n)
    column = tl.arange(0, WIDTH)
    part = tl.sum(value * factor, 0)
    tl.store(after + tl.program_id(0) * D + column, part, mask=column < D)


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


def balances(n: int, k: int) -> bool:
    """Whether ``balance`` has room for these."""
    width = max(16, triton.next_power_of_2(k))
    return width <= TILE and triton.cdiv(n, TILE // width) <= PARTS


def balance(matrix: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Factors of the rows [n] and columns [k] of a float64 matrix that bring their sums to 1/n and
    1/k in turn, so many times.

    A launch an iteration: each block scales its rows, adds up what its columns then hold, and in
    the next one all blocks add up those sums, in the same order.
    """
    n, k = matrix.shape
    width = max(16, triton.next_power_of_2(k))
    tile = TILE // width
    blocks = triton.cdiv(n, tile)
    parts = triton.cdiv(blocks, SOME) * SOME
    sums = matrix.new_zeros(2, parts, k)
    sums[1, 0] = 1 / k  # columns as they are
    rows = matrix.new_empty(n)
    for i in range(iterations):
        _balance[blocks,](
            matrix, sums[(i + 1) % 2], sums[i % 2], rows, n,
            D=k, PARTS=parts, SOME=SOME, ROWS=tile, WIDTH=width, num_warps=8,
        )  # fmt: skip
    return rows, 1 / (sums[(iterations + 1) % 2].sum(0) * k)
