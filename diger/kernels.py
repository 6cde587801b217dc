"""Passes over the numbers of a training step on a GPU, one Triton kernel each where torch takes
several: what ``diger.loops`` is on a CPU.

A step of a small model is launches: two thousand kernels of a few microseconds, most of which read
what the one before wrote. Tensors are contiguous, on the GPU, and float32 or bfloat16; sums are
float32. No sum is left to the order in which blocks finish: the same input gives the same bits.
With TRITON_INTERPRET=1 they run on a CPU, slowly, which is how they are tested.

Dropout: element i is kept where ``draw(i, key) >= CUT``; CUT / 2^32 is the probability that it is
not, and a CUT of 0 keeps all and reads no key. See ``diger.keep``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diger import keep as rule

FIRST, SECOND, THIRD = (tl.constexpr(c) for c in (rule.FIRST, rule.SECOND, rule.THIRD))
TILE = 2048  # numbers that a block of threads works on
FUSED_TYPES = (torch.bfloat16,)  # in float32 a block would multiply in tf32
KEYS, MEMORIES = 256, 256  # most of a block in self- and cross-attention, which holds all scores
WHOLE, PART = 64, 32  # of so many keys a block has all queries, of more only a part of them
ROWS_ASKED = 64  # queries of a row in cross-attention, all heads together
HEADS, WIDTHS = (16, 32, 64, 128), (16, 32, 64, 128)  # of what it holds beside them
LONGEST_SUM = 4096  # numbers of float64 that a block adds up at once
PARTS = 256  # blocks, at most, that share the rows of a sum over rows


# Of what is compiled only constants have types: Triton reads annotations as if they were code.


@triton.jit
def draw(i, key):
    """uint32; see ``diger.keep.draws``."""
    x = i.to(tl.uint32) ^ key.to(tl.uint32)
    x = x ^ (x >> 17)
    x = x * tl.full((), FIRST, tl.uint32)
    x = x ^ (x >> 11) ^ (key >> 32).to(tl.uint32)
    x = x * tl.full((), SECOND, tl.uint32)
    x = x ^ (x >> 15)
    x = x * tl.full((), THIRD, tl.uint32)
    return x ^ (x >> 14)


@triton.jit
def where_kept(x, i, key, CUT: tl.constexpr):
    if CUT > 0:
        x = tl.where(draw(i, tl.load(key)) >= tl.full((), CUT, tl.uint32), x, 0.0)
    return x


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
def _norm_back(
    residual, inner, x, weight, scale, out, by_weight, n,
    TILES: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
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
        around = tl.load(residual + first * D + at, mask=there, other=0.0).to(tl.float32)
        tl.store(out + first * D + at, around + (grad - normed * along) * by, mask=there)
    column = tl.arange(0, WIDTH)
    tl.store(by_weight + tl.program_id(0) * D + column, tl.sum(total, 0), mask=column < D)


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


@triton.jit
def _weights(q, k, bias, s, j):
    """Attention's weights of queries over the s keys that there are, float32."""
    value = tl.where(j < s, tl.dot(q, tl.trans(k)) + bias, float("-inf"))
    value = tl.exp(value - tl.max(value, 1)[:, None])
    return value / tl.sum(value, 1)[:, None]


@triton.jit(do_not_specialize=["t", "heads", "of_row", "of_head", "of_query", "of_key"])
def _attend(
    qkv, bias, out, key, t, heads, of_row, of_head, of_query, of_key,
    CUT: tl.constexpr, HEAD: tl.constexpr, QUERIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    both = tl.program_id(0).to(tl.int64)
    row, head, width = both // heads, both % heads, heads * HEAD
    i = (tl.program_id(1) * QUERIES + tl.arange(0, QUERIES))[:, None]
    m, j, c = (
        tl.arange(0, BLOCK)[:, None],
        tl.arange(0, BLOCK)[None, :],
        tl.arange(0, HEAD)[None, :],
    )
    qkv += row * t * 3 * width + head * HEAD
    q = tl.load(qkv + i * (3 * width) + c, mask=i < t, other=0.0)
    k = tl.load(qkv + width + m * (3 * width) + c, mask=m < t, other=0.0)
    v = tl.load(qkv + 2 * width + m * (3 * width) + c, mask=m < t, other=0.0)
    bias += row * of_row + head * of_head
    added = tl.load(bias + i * of_query + j * of_key, mask=(i < t) & (j < t), other=0.0)
    weights = _weights(q, k, added.to(tl.float32), t, j)
    score = (both * t * t).to(tl.uint32) + (i * t + j).to(tl.uint32)
    read = tl.dot(where_kept(weights, score, key, CUT).to(v.dtype), v)
    tl.store(out + row * t * width + head * HEAD + (i * width + c), read, mask=i < t)


@triton.jit(do_not_specialize=["t", "heads", "of_row", "of_head", "of_query", "of_key"])
def _attend_back(
    grad, qkv, bias, out, by_score, kept_out, key, t, heads, of_row, of_head, of_query, of_key,
    CUT: tl.constexpr, HEAD: tl.constexpr, QUERIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    both = tl.program_id(0).to(tl.int64)
    row, head, width = both // heads, both % heads, heads * HEAD
    i = (tl.program_id(1) * QUERIES + tl.arange(0, QUERIES))[:, None]
    m, j, c = (
        tl.arange(0, BLOCK)[:, None],
        tl.arange(0, BLOCK)[None, :],
        tl.arange(0, HEAD)[None, :],
    )
    first, of_scores = row * t * 3 * width + head * HEAD, both * t * t
    qkv, out, grad = qkv + first, out + first, grad + row * t * width + head * HEAD
    bias, by_score = bias + row * of_row + head * of_head, by_score + of_scores
    of_queries, of_keys = i * (3 * width) + c, m * (3 * width) + width + c
    q = tl.load(qkv + of_queries, mask=i < t, other=0.0)
    k = tl.load(qkv + of_keys, mask=m < t, other=0.0)
    v = tl.load(qkv + of_keys + width, mask=m < t, other=0.0)
    back = tl.load(grad + i * width + c, mask=i < t, other=0.0)
    at, there = i * t + j, (i < t) & (j < t)
    added = tl.load(bias + i * of_query + j * of_key, mask=there, other=0.0)
    weights = _weights(q, k, added.to(tl.float32), t, j)
    score = of_scores.to(tl.uint32) + at.to(tl.uint32)
    kept = where_kept(weights, score, key, CUT).to(v.dtype)
    by_weight = where_kept(tl.dot(back, tl.trans(v)), score, key, CUT)
    by = (weights * (by_weight - tl.sum(by_weight * weights, 1)[:, None])).to(v.dtype)
    tl.store(by_score + at, by, mask=there)
    tl.store(out + of_queries, tl.dot(by, k), mask=i < t)
    if QUERIES == BLOCK:
        tl.store(out + of_keys, tl.dot(tl.trans(by), q), mask=m < t)
        tl.store(out + of_keys + width, tl.dot(tl.trans(kept), back), mask=m < t)
    else:  # other blocks have the other queries; ``_attend_back_keys`` brings them together
        tl.store(kept_out + of_scores + at, kept, mask=there)


@triton.jit(do_not_specialize=["t", "heads"])
def _attend_back_keys(
    grad, qkv, out, by_score, kept, t, heads,
    HEAD: tl.constexpr, QUERIES: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    both = tl.program_id(0).to(tl.int64)
    row, head, width = both // heads, both % heads, heads * HEAD
    j = (tl.program_id(1) * QUERIES + tl.arange(0, QUERIES))[None, :]
    m = (tl.program_id(1) * QUERIES + tl.arange(0, QUERIES))[:, None]
    c = tl.arange(0, HEAD)[None, :]
    first = row * t * 3 * width + head * HEAD
    qkv, out, grad = qkv + first, out + first, grad + row * t * width + head * HEAD
    by_score, kept = by_score + both * t * t, kept + both * t * t
    d_k = tl.zeros((QUERIES, HEAD), tl.float32)
    d_v = tl.zeros((QUERIES, HEAD), tl.float32)
    for block in range(BLOCKS):
        i = (block * QUERIES + tl.arange(0, QUERIES))[:, None]
        at, there = i * t + j, (i < t) & (j < t)
        by = tl.load(by_score + at, mask=there, other=0.0)
        weights = tl.load(kept + at, mask=there, other=0.0)
        q = tl.load(qkv + i * (3 * width) + c, mask=i < t, other=0.0)
        back = tl.load(grad + i * width + c, mask=i < t, other=0.0)
        d_k += tl.dot(tl.trans(by), q)
        d_v += tl.dot(tl.trans(weights), back)
    of_keys = out + width + m * (3 * width) + c
    tl.store(of_keys, d_k, mask=m < t)
    tl.store(of_keys + width, d_v, mask=m < t)


@triton.jit(do_not_specialize=["n", "t", "heads", "of_row"])
def _ask(
    asked, memory, bias, out, key, n, t, s, heads, of_row,
    CUT: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    r, j, c = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :], tl.arange(0, D)[None, :]
    m, there = tl.arange(0, BLOCK)[:, None], r < heads * t
    first, at = row * t * D, ((r // t) * n * t + r % t) * D + c
    query = tl.load(asked + first + at, mask=there, other=0.0)
    keys = tl.load(memory + row * s * D + (m * D + c), mask=m < s, other=0.0)
    added = tl.load(bias + row * of_row + j, mask=j < s, other=0.0).to(tl.float32)
    weights = _weights(query, keys, added, s, j)
    score = (row * heads * t * s).to(tl.uint32) + (r * s + j).to(tl.uint32)
    kept = where_kept(weights, score, key, CUT).to(keys.dtype)
    tl.store(out + first + at, tl.dot(kept, keys), mask=there)


@triton.jit(do_not_specialize=["n", "t", "heads", "of_row"])
def _ask_back(
    grad, asked, memory, bias, by_asked, by_memory, key, n, t, s, heads, of_row,
    CUT: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    r, j, c = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :], tl.arange(0, D)[None, :]
    m, there = tl.arange(0, BLOCK)[:, None], r < heads * t
    first, at, of_memory = row * t * D, ((r // t) * n * t + r % t) * D + c, m * D + c
    memory, by_memory = memory + row * s * D, by_memory + row * s * D
    query = tl.load(asked + first + at, mask=there, other=0.0)
    back = tl.load(grad + first + at, mask=there, other=0.0)
    keys = tl.load(memory + of_memory, mask=m < s, other=0.0)
    added = tl.load(bias + row * of_row + j, mask=j < s, other=0.0).to(tl.float32)
    weights = _weights(query, keys, added, s, j)
    score = (row * heads * t * s).to(tl.uint32) + (r * s + j).to(tl.uint32)
    kept = where_kept(weights, score, key, CUT).to(keys.dtype)
    by_weight = where_kept(tl.dot(back, tl.trans(keys)), score, key, CUT)
    by = (weights * (by_weight - tl.sum(by_weight * weights, 1)[:, None])).to(keys.dtype)
    both = tl.dot(tl.trans(kept), back) + tl.dot(tl.trans(by), query)
    tl.store(by_memory + of_memory, both, mask=m < s)
    tl.store(by_asked + first + at, tl.dot(by, keys), mask=there)


@triton.jit(do_not_specialize=["n"])
def _reciprocal(matrix, x, out, n, D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    value = tl.load(matrix + row * D + column, mask=(row < n) & (column < D), other=0.0)
    by = tl.load(x + column, mask=column < D, other=0.0)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tl.store(out + row, 1.0 / tl.where(row < n, tl.sum(value * by, 1), 1.0), mask=row < n)


def _key(keep: Tensor | None, scale: float, like: Tensor) -> tuple[Tensor, int]:
    """The key and the cut; where all is kept, any tensor and 0."""
    return (like, 0) if keep is None else (keep, rule.cut(scale))


def _rows(width: int) -> tuple[int, int]:
    """Rows of a tile, and its columns: a power of 2 that has room for ``width``."""
    columns = max(16, triton.next_power_of_2(width))
    return max(1, TILE // columns), columns


def drop(x: Tensor, keep: Tensor | None, scale: float, factor: float, dtype: torch.dtype) -> Tensor:
    """x times factor where it is kept, else 0, in this type."""
    x = x.contiguous()
    out, (key, cut), n = torch.empty_like(x, dtype=dtype), _key(keep, scale, x), x.numel()
    _drop[triton.cdiv(n, TILE),](x, out, key, factor, n, CUT=cut, SIZE=TILE)
    return out


def drop_add(x: Tensor, y: Tensor, keep: Tensor | None, scale: float, factor: float) -> Tensor:
    """x + y times factor where it is kept, in the type of x."""
    x, y = x.contiguous(), y.contiguous()
    out, (key, cut), n = torch.empty_like(x), _key(keep, scale, x), x.numel()
    _drop_add[triton.cdiv(n, TILE),](x, y, out, key, factor, n, CUT=cut, SIZE=TILE)
    return out


def relu_drop_(x: Tensor, keep: Tensor | None, scale: float) -> Tensor:
    """In place, x where it is above 0 and kept, else 0; x is contiguous."""
    (key, cut), n = _key(keep, scale, x), x.numel()
    _relu_drop[triton.cdiv(n, TILE),](x, key, n, CUT=cut, SIZE=TILE)
    return x


def norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """weight x / rms(x) of the rows of x [N, d], in this type, and 1 / rms(x), float32 [N, 1]."""
    n, d = x.shape
    out, scale = torch.empty_like(x, dtype=dtype), x.new_empty(n, 1, dtype=torch.float32)
    rows, width = _rows(d)
    _norm[triton.cdiv(n, rows),](
        x, weight, out, scale, epsilon, n, D=d, ROWS=rows, WIDTH=width
    )  # fmt: skip
    return out, scale


def norm_back(
    residual: Tensor, inner: Tensor, x: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """residual plus the gradient at x [N, d], and that at the weight [d], given the one at what
    ``norm`` returned."""
    n, d = x.shape
    rows, width = _rows(d)
    # A power of 2, since each number is another kernel to compile.
    tiles = triton.next_power_of_2(triton.cdiv(n, PARTS * rows))
    blocks = triton.cdiv(n, tiles * rows)
    out = torch.empty_like(x)
    by_weight = x.new_empty(blocks, d, dtype=torch.float32)
    _norm_back[blocks,](
        residual, inner, x, weight, scale, out, by_weight, n,
        TILES=tiles, D=d, ROWS=rows, WIDTH=width,
    )  # fmt: skip
    d_weight = torch.empty_like(weight)
    _add_rows[triton.cdiv(d, 16),](by_weight, d_weight, blocks, D=d, ROWS=PARTS, WIDTH=16)
    return out, d_weight


def relax(logits: Tensor, scale: Tensor, key: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """softmax((logits + scale g) / tau) of float32 [n, K], g drawn from Gumbel(0, 1) by the key,
    and the one-hot rows of its largest. scale: a scalar, or of each code, [K]."""
    (n, k), soft, hard = logits.shape, torch.empty_like(logits), torch.empty_like(logits)
    rows, width = _rows(k)
    _relax[triton.cdiv(n, rows),](
        logits, scale, key, soft, hard, tau, n, int(scale.ndim > 0), K=k, ROWS=rows, WIDTH=width
    )  # fmt: skip
    return soft, hard


def relax_back(grad: Tensor, soft: Tensor, tau: float) -> Tensor:
    """The gradient at the logits of ``relax``, given that at either of its results."""
    (n, k), out, grad = soft.shape, torch.empty_like(soft), grad.contiguous()
    rows, width = _rows(k)
    _relax_back[triton.cdiv(n, rows),](grad, soft, out, tau, n, K=k, ROWS=rows, WIDTH=width)
    return out


def reciprocal_(out: Tensor, matrix: Tensor, x: Tensor) -> Tensor:
    """1 / (matrix x) into ``out`` [n], for a float64 matrix [n, k] of at most ``LONGEST_SUM``
    columns."""
    n, k = matrix.shape
    width = max(16, triton.next_power_of_2(k))
    rows = max(1, LONGEST_SUM // 4 // width)
    _reciprocal[triton.cdiv(n, rows),](matrix, x, out, n, D=k, ROWS=rows, WIDTH=width)
    return out


def softmax(
    scores: Tensor, bias: Tensor, keep: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """softmax(scores + bias) of [B, H, T, S] in the type of the bias, which may be one for all
    rows, heads or queries; and what of it is kept, in the type of the scores."""
    b, heads, t, s = scores.shape
    bias = bias.expand(b, heads, t, s)
    weights, out = torch.empty_like(scores, dtype=bias.dtype), torch.empty_like(scores)
    (key, cut), n, (rows, width) = _key(keep, scale, scores), b * heads * t, _rows(s)
    _softmax[triton.cdiv(n, rows),](
        scores, bias, weights, out, key, n, heads, t, s, *bias.stride(),
        CUT=cut, ROWS=rows, WIDTH=width,
    )  # fmt: skip
    return weights, out


def softmax_back(grad: Tensor, weights: Tensor, keep: Tensor | None, scale: float) -> Tensor:
    """The gradient at the scores, given that at what ``softmax`` kept, in its type; both in the
    shape of ``weights``."""
    s, n = weights.shape[-1], weights.numel() // weights.shape[-1]
    out, (key, cut), (rows, width) = torch.empty_like(grad), _key(keep, scale, grad), _rows(s)
    _softmax_back[triton.cdiv(n, rows),](
        grad, weights, out, key, n, s, CUT=cut, ROWS=rows, WIDTH=width
    )  # fmt: skip
    return out


def attends(x: Tensor, t: int, head: int) -> bool:
    """Whether ``attend`` has room for t tokens: a block holds a query's scores of all keys."""
    room = head <= 64 or t <= WHOLE or _roomy(x)
    return x.dtype in FUSED_TYPES and t <= KEYS and head in HEADS and room


def _roomy(x: Tensor) -> bool:
    """Whether a block of this GPU may use as much shared memory as the largest of those kernels was
    compiled to: 164 KB, which cards for games do not have."""
    if not x.is_cuda:
        return True
    properties = torch.cuda.get_device_properties(x.device)
    return getattr(properties, "shared_memory_per_block_optin", 0) >= 163_840


def _blocks(t: int) -> tuple[int, int, int]:
    """Queries of a block and keys of it, which are all there are, and blocks of the queries."""
    keys = max(16, triton.next_power_of_2(t))
    queries = keys if keys <= WHOLE else PART
    return queries, keys, triton.cdiv(t, queries)


def attend(qkv: Tensor, bias: Tensor, keep: Tensor | None, scale: float, heads: int) -> Tensor:
    """Self-attention of q, k, v, [B T, 3 I], each head beside the other: what is read, [B T, I].

    bias: [B or 1, H, T, T], added to the scores. keep: of the weights, [B, H, T, T].
    """
    assert qkv.is_contiguous()
    t, width = bias.shape[-1], qkv.shape[1] // 3
    b, (queries, keys, blocks) = len(qkv) // t, _blocks(t)
    bias, (key, cut) = bias.expand(b, heads, t, t), _key(keep, scale, qkv)
    out = qkv.new_empty(len(qkv), width)
    _attend[b * heads, blocks](
        qkv, bias, out, key, t, heads, *bias.stride(),
        CUT=cut, HEAD=width // heads, QUERIES=queries, BLOCK=keys, num_warps=4 if keys <= 64 else 8,
    )  # fmt: skip
    return out


def attend_back(
    grad: Tensor, qkv: Tensor, bias: Tensor, keep: Tensor | None, scale: float, heads: int
) -> tuple[Tensor, Tensor]:
    """Gradients at q, k, v, [B T, 3 I], and at the scores, [B, H, T, T], given that at what
    ``attend`` read."""
    assert qkv.is_contiguous()
    t, width = bias.shape[-1], qkv.shape[1] // 3
    b, (queries, keys, blocks) = len(qkv) // t, _blocks(t)
    bias, (key, cut) = bias.expand(b, heads, t, t), _key(keep, scale, qkv)
    out, by_score = torch.empty_like(qkv), qkv.new_empty(b, heads, t, t)
    kept = by_score if queries == keys else torch.empty_like(by_score)
    _attend_back[b * heads, blocks](
        grad, qkv, bias, out, by_score, kept, key, t, heads, *bias.stride(),
        CUT=cut, HEAD=width // heads, QUERIES=queries, BLOCK=keys, num_warps=4 if keys <= 32 else 8,
    )  # fmt: skip
    if queries < keys:
        blocks = triton.cdiv(t, WHOLE)
        _attend_back_keys[b * heads, blocks](
            grad, qkv, out, by_score, kept, t, heads,
            HEAD=width // heads, QUERIES=WHOLE, BLOCKS=blocks,
        )  # fmt: skip
    return out, by_score


def asks(memory: Tensor, heads: int, t: int) -> bool:
    """Whether ``ask`` has room for these."""
    _, s, d = memory.shape
    fits = s <= MEMORIES and heads * t <= ROWS_ASKED and d in WIDTHS
    fits = fits and (heads * t <= 16 or s <= MEMORIES // 2 or _roomy(memory))
    return memory.dtype in FUSED_TYPES and fits


def ask(asked: Tensor, memory: Tensor, bias: Tensor, keep: Tensor | None, scale: float) -> Tensor:
    """What queries [H, B T, d] see of a memory [B, S, d] that is keys and values, [H, B T, d].

    bias: [B, 1, 1, S], added to the scores. keep: of the weights, [B, H, T, S].
    """
    out, (key, cut), sizes = (
        torch.empty_like(asked),
        _key(keep, scale, asked),
        _sizes(asked, memory),
    )
    b, t, s, rows, block = sizes
    _ask[b,](
        asked, memory, bias, out, key, b, t, s, len(asked), bias.stride(0),
        CUT=cut, D=memory.shape[2], ROWS=rows, BLOCK=block, num_warps=4 if block <= 64 else 8,
    )  # fmt: skip
    return out


def ask_back(
    grad: Tensor, asked: Tensor, memory: Tensor, bias: Tensor, keep: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients at the queries and the memory, given that at what ``ask`` returned."""
    assert grad.is_contiguous()
    by_asked, by_memory = torch.empty_like(asked), torch.empty_like(memory)
    (key, cut), (b, t, s, rows, block) = _key(keep, scale, asked), _sizes(asked, memory)
    bias = bias.expand(b, 1, 1, s)
    _ask_back[b,](
        grad, asked, memory, bias, by_asked, by_memory, key, b, t, s, len(asked), bias.stride(0),
        CUT=cut, D=memory.shape[2], ROWS=rows, BLOCK=block, num_warps=4 if block <= 64 else 8,
    )  # fmt: skip
    return by_asked, by_memory


def _sizes(asked: Tensor, memory: Tensor) -> tuple[int, int, int, int, int]:
    """B, T, S and the tile's rows and columns."""
    (b, s, _), (heads, n, _) = memory.shape, asked.shape
    rows, block = (max(16, triton.next_power_of_2(size)) for size in (heads * (n // b), s))
    return b, n // b, s, rows, block
