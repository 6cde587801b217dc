"""Residual quantisation of a batch, level by level, as the training of an RQ-VAE does it.

A level is a product of residuals and codes, and then a launch for the nearest codes; for balanced
ones (``diger.quantizer.Sinkhorn``) a launch for the distances, one an iteration, and one that
chooses.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096  # numbers of float64 that a block holds
LARGE = 4 * TILE  # that it holds at most
LEAST = 16  # rows that a block has room for
PARTS, SOME = 64, 8  # most blocks, each of which reads what all have added up, so many at a time


@triton.jit
def _take(
    residual, book, after, hard, codes, row, there, code, levels,
    D: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write down the code [ROWS, 1] of each row, as a number and one-hot, and what it leaves."""
    d, column = tl.arange(0, WIDE)[None, :], tl.arange(0, WIDTH)[None, :]
    inside = there & (d < D)
    code = tl.minimum(code, K - 1)  # of a row of NaNs it may be one of the padding
    value = tl.load(residual + row * D + d, mask=inside, other=0.0)
    value -= tl.load(book + code * D + d, mask=inside, other=0.0)
    tl.store(after + row * D + d, value, mask=inside)
    tl.store(hard + row * K + column, tl.where(column == code, 1.0, 0.0), mask=there & (column < K))
    tl.store(codes + row * levels, code.to(tl.int64), mask=there)


@triton.jit(do_not_specialize=["n", "levels"])
def _near(
    products, lengths, residual, book, ends, after, hard, codes, n, levels,
    NEAREST: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    d, column = tl.arange(0, WIDE)[None, :], tl.arange(0, WIDTH)[None, :]
    there = (row < n) & (column < K)
    own = tl.load(residual + row * D + d, mask=(row < n) & (d < D), other=0.0)
    value = tl.sum(own * own, 1)[:, None]
    value -= 2 * tl.load(products + row * K + column, mask=there, other=0.0)
    value += tl.load(lengths + column, mask=column < K, other=0.0)
    value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    away = tl.where(there, value, float("inf"))
    if NEAREST:
        code = tl.argmin(away, 1)[:, None]
        _take(residual, book, after, hard, codes, row, row < n, code, levels, D, WIDE, K, WIDTH)
    else:
        tl.store(products + row * K + column, value, mask=there)
        tl.store(ends + tl.program_id(0), tl.min(tl.min(away, 1), 0))
        largest = tl.max(tl.where(there, value, float("-inf")), 1)
        tl.store(ends + BLOCKS + tl.program_id(0), tl.max(largest, 0))


@triton.jit
def _exponents(value, ends, EPSILON: tl.constexpr, PARTS: tl.constexpr, BLOCKS: tl.constexpr):
    """log of the kernel of the distances, float64."""
    part = tl.arange(0, PARTS)
    low = tl.load(ends + part, mask=part < BLOCKS, other=float("inf"))
    high = tl.load(ends + BLOCKS + part, mask=part < BLOCKS, other=float("-inf"))
    low, high = tl.min(low, 0).to(tl.float64), tl.max(high, 0).to(tl.float64)
    half = tl.maximum((high - low) / 2, 1e-12)
    return -(value.to(tl.float64) - (high + low) / 2) / (half * EPSILON)


@triton.jit
def _columns(
    before, column, K: tl.constexpr, WIDTH: tl.constexpr, SOME: tl.constexpr, BLOCKS: tl.constexpr
):  # fmt: skip
    """K times what the scaled rows of all blocks hold in each column, always in the same order."""
    total = tl.zeros((SOME, WIDTH), tl.float64)
    for part in range(0, BLOCKS, SOME):
        some = part + tl.arange(0, SOME)[:, None]
        there = (some < BLOCKS) & (column < K)
        total += tl.load(before + some * K + column, mask=there, other=0.0)
    return tl.where(column < K, tl.sum(total, 0)[None, :] * K, 1.0)


@triton.jit(do_not_specialize=["n"])
def _balance(
    distances, ends, matrix, before, after, rows, n,
    FIRST: tl.constexpr, EPSILON: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, SOME: tl.constexpr, PARTS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    at, there = row * K + column, (row < n) & (column < K)
    if FIRST:
        value = tl.load(distances + at, mask=there, other=0.0)
        exponent = _exponents(value, ends, EPSILON, PARTS, BLOCKS)
        value = tl.exp(tl.where(there, exponent, float("-inf")))
        tl.store(matrix + at, value, mask=there)
        along = tl.sum(value, 1)[:, None] * n
    else:
        value = tl.load(matrix + at, mask=there, other=0.0)
        by = 1.0 / _columns(before, column, K, WIDTH, SOME, BLOCKS)
        along = tl.sum(value * by, 1)[:, None] * n
    factor = tl.where(row < n, 1.0 / tl.where(row < n, along, 1.0), 0.0)
    tl.store(rows + row, factor, mask=row < n)
    column = tl.arange(0, WIDTH)
    part = tl.sum(value * factor, 0)
    tl.store(after + tl.program_id(0) * K + column, part, mask=column < K)


@triton.jit(do_not_specialize=["n", "levels"])
def _heaviest(
    distances, ends, before, rows, residual, book, after, hard, codes, n, levels,
    EPSILON: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, SOME: tl.constexpr, PARTS: tl.constexpr,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    there = (row < n) & (column < K)
    value = tl.load(distances + row * K + column, mask=there, other=float("inf"))
    plan = _exponents(tl.where(there, value, 0.0), ends, EPSILON, PARTS, BLOCKS)
    plan += tl.log(tl.load(rows + row, mask=row < n, other=1.0))
    plan -= tl.log(_columns(before, column, K, WIDTH, SOME, BLOCKS))
    # Not a number is not below anything: a row with one of those, too, takes its nearest code.
    bounded = tl.where(tl.abs(plan) < float("inf"), 1, 0)
    usable = tl.min(tl.where(there, bounded, 1), 1)[:, None]
    plan = tl.where(there & (usable == 1), plan, float("-inf"))
    code = tl.where(usable == 1, tl.argmax(plan, 1)[:, None], tl.argmin(value, 1)[:, None])
    _take(residual, book, after, hard, codes, row, row < n, code, levels, D, WIDE, K, WIDTH)


class Levels(NamedTuple):
    """residuals: [m + 1, n, D], the first what was given, each next one what a level left over.
    codes: int64 [n, m]. hard: [m, n, K], one-hot."""

    residuals: Tensor
    codes: Tensor
    hard: Tensor


def quantises(n: int, k: int, d: int) -> bool:
    """Whether ``quantise`` has room for so many rows, codes and numbers of each."""
    width, wide = _sizes(k, d)
    widest = max(width, wide)
    return widest <= LARGE // LEAST and _rows(n, widest) * widest <= LARGE


def _sizes(k: int, d: int) -> tuple[int, int]:
    """Columns of a tile of codes, and of one of residuals."""
    return max(16, triton.next_power_of_2(k)), max(16, triton.next_power_of_2(d))


def _rows(n: int, widest: int) -> int:
    """Of a block."""
    return max(TILE // widest, triton.next_power_of_2(triton.cdiv(n, PARTS)))


def quantise(latent: Tensor, codebooks: Tensor, balance: tuple[float, int] | None = None) -> Levels:
    """Residual quantisation of float32 [n, D] by codebooks [m, K, D], with the nearest codes.

    balance: epsilon, whose inverse float64 has room for, and iterations, of codes that are balanced
    instead; a row whose factors leave float64 nevertheless gets its nearest code.
    """
    (n, d), (m, k, _) = latent.shape, codebooks.shape
    width, wide = _sizes(k, d)
    tile = _rows(n, max(width, wide))
    blocks = triton.cdiv(n, tile)
    sizes = {"K": k, "WIDTH": width, "ROWS": tile, "BLOCKS": blocks}
    warps = 8 if tile * max(width, wide) < LARGE else 16
    taken = {"D": d, "WIDE": wide, "num_warps": warps} | sizes
    residuals = latent.new_empty(m + 1, n, d)
    residuals[0].copy_(latent)
    codes, hard = latent.new_empty(n, m, dtype=torch.int64), latent.new_empty(m, n, k)
    lengths, ends = codebooks.square().sum(-1), latent.new_empty(2, blocks)
    for level, book in enumerate(codebooks):
        products = residuals[level] @ book.T
        found = residuals[level], book
        made = residuals[level + 1], hard[level], codes[:, level], n, m
        _near[blocks,](
            products, lengths[level], *found, ends, *made, NEAREST=balance is None, **taken
        )
        if balance is not None:
            epsilon, iterations = balance
            rule = {"EPSILON": epsilon, "SOME": SOME, "PARTS": PARTS}
            sums, rows = _balanced(products, ends, iterations, rule | sizes, warps)
            _heaviest[blocks,](products, ends, sums, rows, *found, *made, **rule, **taken)
    return Levels(residuals, codes, hard)


def _balanced(
    distances: Tensor, ends: Tensor, iterations: int, sizes: dict[str, float], warps: int
) -> tuple[Tensor, Tensor]:
    """The factors of the rows, [n], and what the rows of each block then hold, [blocks, K].

    A launch an iteration: each block scales its rows and adds up what its columns then hold; in the
    next one all blocks add up those sums, in the same order.
    """
    (n, k), blocks = distances.shape, ends.shape[1]
    matrix = distances.new_empty(n, k, dtype=torch.float64)
    sums, rows = matrix.new_empty(2, blocks, k), matrix.new_empty(n)
    for i in range(iterations):
        _balance[blocks,](
            distances, ends, matrix, sums[(i + 1) % 2], sums[i % 2], rows, n,
            FIRST=i == 0, **sizes, num_warps=warps,
        )  # fmt: skip
    return sums[(iterations + 1) % 2], rows
