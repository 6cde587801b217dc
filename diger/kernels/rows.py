"""Passes that need a whole row at once: norms and softmax."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diger.kernels.draws import key_of, tile_of, where_kept

PARTS = 256  # blocks, at most, that share the rows of a sum over rows


@triton.jit(do_not_specialize=["n"])
def _norm(
    x, weight, out, scale, epsilon, n,
    D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * ROWS
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)[None, :]
    at, there = row * D + column, (row < n - first) & (column < D)
    value = tl.load(x + first * D + at, mask=there, other=0.0).to(tl.float32)
    by = 1.0 / tl.sqrt(tl.sum(value * value, 1)[:, None] / D + epsilon)
    weights = tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)
    tl.store(out + first * D + at, value * by * weights, mask=there)
    tl.store(scale + first + row, by, mask=row < n - first)


@triton.jit(do_not_specialize=["n"])
def _drop_add_norm(
    x, y, weight, out, normed, scale, key, factor, epsilon, n,
    CUT: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * ROWS
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)[None, :]
    at, there = row * D + column, (row < n - first) & (column < D)
    value = tl.load(y + first * D + at, mask=there, other=0.0).to(tl.float32)
    base = tl.load(x + first * D + at, mask=there, other=0.0).to(tl.float32)
    place = (first * D).to(tl.uint32) + at.to(tl.uint32)
    value = base + where_kept(value, place, key, CUT) * factor
    tl.store(out + first * D + at, value, mask=there)
    by = 1.0 / tl.sqrt(tl.sum(value * value, 1)[:, None] / D + epsilon)
    weights = tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)
    tl.store(normed + first * D + at, value * by * weights, mask=there)
    tl.store(scale + first + row, by, mask=row < n - first)


@triton.jit(do_not_specialize=["n"])
def _norm_back(
    residual, inner, x, weight, scale, out, by_weight, dropped, key, factor, n,
    AROUND: tl.constexpr, DROPS: tl.constexpr, CUT: tl.constexpr, TILES: tl.constexpr,
    D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * TILES * ROWS
    column = tl.arange(0, WIDTH)[None, :]
    weights = tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for tile in range(TILES):
        row = tile * ROWS + tl.arange(0, ROWS)[:, None]
        at, there = row * D + column, (row < n - first) & (column < D)
        by = tl.load(scale + first + row, mask=row < n - first, other=0.0)
        normed = tl.load(x + first * D + at, mask=there, other=0.0).to(tl.float32) * by
        grad = tl.load(inner + first * D + at, mask=there, other=0.0).to(tl.float32)
        total += grad * normed
        grad *= weights
        along = tl.sum(grad * normed, 1)[:, None] / D
        back = (grad - normed * along) * by
        if AROUND:
            back += tl.load(residual + first * D + at, mask=there, other=0.0).to(tl.float32)
        tl.store(out + first * D + at, back, mask=there)
        if DROPS:
            place = (first * D).to(tl.uint32) + at.to(tl.uint32)
            back = where_kept(back, place, key, CUT) * factor
            tl.store(dropped + first * D + at, back, mask=there)
    column = tl.arange(0, WIDTH)
    tl.store(by_weight + tl.program_id(0) * D + column, tl.sum(total, 0), mask=column < D)


@triton.jit(do_not_specialize=["n"])
def _add_rows(x, out, n, D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.arange(0, ROWS)[:, None]
    column = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)[None, :]
    value = tl.load(x + row * D + column, mask=(row < n) & (column < D), other=0.0)
    column = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    tl.store(out + column, tl.sum(value, 0), mask=column < D)


@triton.jit(do_not_specialize=["n", "t", "heads", "of_row", "of_head", "of_query", "of_key"])
def _softmax(
    scores, bias, weights, out, key, n, heads, t, s,
    of_row, of_head, of_query, of_key,
    CUT: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    at, there = row * s + column, (row < n) & (column < s)
    value = tl.load(scores + at, mask=there, other=0.0).to(tl.float32)
    query, both = row % t, row // t
    place = (both // heads) * of_row + (both % heads) * of_head + query * of_query
    value += tl.load(bias + place + column * of_key, mask=there, other=0.0).to(tl.float32)
    value = tl.where(column < s, value, float("-inf"))
    value = tl.exp(value - tl.max(value, 1)[:, None])
    value = value / tl.sum(value, 1)[:, None]
    tl.store(weights + at, value, mask=there)
    tl.store(out + at, where_kept(value, at, key, CUT), mask=there)


@triton.jit(do_not_specialize=["n"])
def _softmax_back(
    grad, weights, out, key, n, s,
    CUT: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    at, there = row * s + column, (row < n) & (column < s)
    value = tl.load(grad + at, mask=there, other=0.0).to(tl.float32)
    value = where_kept(value, at, key, CUT)
    weight = tl.load(weights + at, mask=there, other=0.0).to(tl.float32)
    value = weight * (value - tl.sum(value * weight, 1)[:, None])
    tl.store(out + at, value, mask=there)


def norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """weight x / rms(x) of the rows of x [N, d], in this type, and 1 / rms(x), float32 [N, 1]."""
    n, d = x.shape
    out, scale = torch.empty_like(x, dtype=dtype), x.new_empty(n, 1, dtype=torch.float32)
    rows, width = tile_of(d)
    _norm[triton.cdiv(n, rows),](
        x, weight, out, scale, epsilon, n, D=d, ROWS=rows, WIDTH=width
    )  # fmt: skip
    return out, scale


def drop_add_norm(
    x: Tensor, y: Tensor, keep: Tensor | None, scale: float, factor: float, weight: Tensor,
    epsilon: float, dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """``drop_add`` of x and y [..., d], and what ``norm`` makes of its rows."""
    x, y, d = x.contiguous(), y.contiguous(), x.shape[-1]
    out, n, (key, cut) = torch.empty_like(x), x.numel() // d, key_of(keep, scale, x)
    normed = x.new_empty(n, d, dtype=dtype)
    by, (rows, width) = x.new_empty(n, 1, dtype=torch.float32), tile_of(d)
    _drop_add_norm[triton.cdiv(n, rows),](
        x, y, weight, out, normed, by, key, factor, epsilon, n,
        CUT=cut, D=d, ROWS=rows, WIDTH=width,
    )  # fmt: skip
    return out, normed, by


def norm_back(
    residual: Tensor | None, inner: Tensor, x: Tensor, weight: Tensor, scale: Tensor,
    drops: tuple[Tensor | None, float, float, torch.dtype] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """residual, if there is one, plus the gradient at x [N, d], and that at the weight [d], given
    the one at what ``norm`` returned.

    Given also what ``drop`` takes, its result for the first of them; else None.
    """
    n, d = x.shape
    rows, width = tile_of(d)
    # A power of 2, since each number is another kernel to compile.
    tiles = triton.next_power_of_2(max(1, triton.cdiv(n, PARTS * rows)))
    blocks = triton.cdiv(n, tiles * rows)
    out = torch.empty_like(x)
    by_weight = x.new_empty(blocks, d, dtype=torch.float32)
    keep, keep_scale, factor, dtype = drops or (None, 1.0, 1.0, x.dtype)
    onwards, (key, cut) = (
        torch.empty_like(x, dtype=dtype) if drops else None,
        key_of(keep, keep_scale, x),
    )
    _norm_back[blocks,](
        inner if residual is None else residual, inner, x, weight, scale, out, by_weight,
        out if onwards is None else onwards, key, factor, n,
        AROUND=residual is not None, DROPS=drops is not None, CUT=cut, TILES=tiles,
        D=d, ROWS=rows, WIDTH=width,
    )  # fmt: skip
    d_weight = torch.empty_like(weight)
    _add_rows[triton.cdiv(d, 16),](by_weight, d_weight, blocks, D=d, ROWS=PARTS, WIDTH=16)
    return out, d_weight, onwards


def softmax(
    scores: Tensor, bias: Tensor, keep: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """softmax(scores + bias) of [B, H, T, S] in the type of the bias, which may be one for all
    rows, heads or queries; and what of it is kept, in the type of the scores."""
    b, heads, t, s = scores.shape
    bias = bias.expand(b, heads, t, s)
    weights, out = torch.empty_like(scores, dtype=bias.dtype), torch.empty_like(scores)
    (key, cut), n, (rows, width) = key_of(keep, scale, scores), b * heads * t, tile_of(s)
    _softmax[triton.cdiv(n, rows),](
        scores, bias, weights, out, key, n, heads, t, s, *bias.stride(),
        CUT=cut, ROWS=rows, WIDTH=width,
    )  # fmt: skip
    return weights, out


def softmax_back(grad: Tensor, weights: Tensor, keep: Tensor | None, scale: float) -> Tensor:
    """The gradient at the scores, given that at what ``softmax`` kept, in its type; both in the
    shape of ``weights``."""
    s, n = weights.shape[-1], weights.numel() // weights.shape[-1]
    out, (key, cut), (rows, width) = torch.empty_like(grad), key_of(keep, scale, grad), tile_of(s)
    _softmax_back[triton.cdiv(n, rows),](
        grad, weights, out, key, n, s, CUT=cut, ROWS=rows, WIDTH=width
    )  # fmt: skip
    return out
