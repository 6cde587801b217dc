"""Attention whose scores never leave the block that makes them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diger.kernels.draws import key_of, where_kept

FUSED_TYPES = (torch.bfloat16,)  # in float32 a block would multiply in tf32
KEYS, MEMORIES = 256, 256  # most of a block in self- and cross-attention, which holds all scores
WHOLE, PART = 64, 32  # of so many keys a block has all queries, of more only a part of them
ROWS_ASKED = 64  # queries of a row in cross-attention, all heads together
HEADS, WIDTHS = (16, 32, 64, 128), (16, 32, 64, 128)  # of what it holds beside them


@triton.jit
def _weights(q, k, bias, s, j):
    """Attention's weights of queries over the s keys that there are, float32."""
    value = tl.where(j < s, tl.dot(q, tl.trans(k)) + bias, float("-inf"))
    value = tl.exp(value - tl.max(value, 1)[:, None])
    return value / tl.sum(value, 1)[:, None]


@triton.jit
def _added(
    bias, mask, row, head, i, j, t, of_row, of_head, of_query, of_key, of_mask,
    MASKED: tl.constexpr,
):  # fmt: skip
    """What scores are added to, float32."""
    bias += row * of_row + head * of_head
    value = tl.load(bias + i * of_query + j * of_key, mask=(i < t) & (j < t), other=0.0)
    if MASKED:
        value += tl.load(mask + row * of_mask + j, mask=j < t, other=0.0)
    return value.to(tl.float32)


# The blocks of one head's queries are neighbours: what they read of its keys is read from memory
# once.
@triton.jit(do_not_specialize=["t", "heads", "of_row", "of_head", "of_query", "of_key", "of_mask"])
def _attend(
    qkv, bias, mask, out, key, t, heads, blocks, of_row, of_head, of_query, of_key, of_mask,
    CUT: tl.constexpr, HEAD: tl.constexpr, QUERIES: tl.constexpr, BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    both = (tl.program_id(0) // blocks).to(tl.int64)
    row, head, width = both // heads, both % heads, heads * HEAD
    i = (tl.program_id(0) % blocks * QUERIES + tl.arange(0, QUERIES))[:, None]
    m, j = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    c = tl.arange(0, HEAD)[None, :]
    qkv += row * t * 3 * width + head * HEAD
    q = tl.load(qkv + i * (3 * width) + c, mask=i < t, other=0.0)
    k = tl.load(qkv + width + m * (3 * width) + c, mask=m < t, other=0.0)
    v = tl.load(qkv + 2 * width + m * (3 * width) + c, mask=m < t, other=0.0)
    added = _added(
        bias, mask, row, head, i, j, t, of_row, of_head, of_query, of_key, of_mask, MASKED
    )
    weights = _weights(q, k, added, t, j)
    score = (both * t * t).to(tl.uint32) + (i * t + j).to(tl.uint32)
    read = tl.dot(where_kept(weights, score, key, CUT).to(v.dtype), v)
    tl.store(out + row * t * width + head * HEAD + (i * width + c), read, mask=i < t)


@triton.jit(do_not_specialize=["t", "heads", "of_row", "of_head", "of_query", "of_key", "of_mask"])
def _attend_back(
    grad, qkv, bias, mask, out, by_score, kept_out, key, t, heads, blocks, of_row, of_head,
    of_query, of_key, of_mask,
    CUT: tl.constexpr, HEAD: tl.constexpr, QUERIES: tl.constexpr, BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    both = (tl.program_id(0) // blocks).to(tl.int64)
    row, head, width = both // heads, both % heads, heads * HEAD
    i = (tl.program_id(0) % blocks * QUERIES + tl.arange(0, QUERIES))[:, None]
    m, j = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    c = tl.arange(0, HEAD)[None, :]
    first, of_scores = row * t * 3 * width + head * HEAD, both * t * t
    qkv, out, grad = qkv + first, out + first, grad + row * t * width + head * HEAD
    by_score += of_scores
    of_queries, of_keys = i * (3 * width) + c, m * (3 * width) + width + c
    q = tl.load(qkv + of_queries, mask=i < t, other=0.0)
    k = tl.load(qkv + of_keys, mask=m < t, other=0.0)
    v = tl.load(qkv + of_keys + width, mask=m < t, other=0.0)
    back = tl.load(grad + i * width + c, mask=i < t, other=0.0)
    at, there = i * t + j, (i < t) & (j < t)
    added = _added(
        bias, mask, row, head, i, j, t, of_row, of_head, of_query, of_key, of_mask, MASKED
    )
    weights = _weights(q, k, added, t, j)
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
    both = (tl.program_id(0) // BLOCKS).to(tl.int64)
    row, head, width = both // heads, both % heads, heads * HEAD
    first_key = tl.program_id(0) % BLOCKS * QUERIES
    j = (first_key + tl.arange(0, QUERIES))[None, :]
    m = (first_key + tl.arange(0, QUERIES))[:, None]
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


def attend(
    qkv: Tensor,
    bias: Tensor,
    keep: Tensor | None,
    scale: float,
    heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    """Self-attention of q, k, v, [B T, 3 I], each head beside the other: what is read, [B T, I].

    bias: [B or 1, H, T, T], added to the scores. keep: of the weights, [B, H, T, T]. mask: float32
    [B, 1, 1, T], added to them, too, so that the bias need not be there for each row.
    """
    assert qkv.is_contiguous()
    t, width = bias.shape[-1], qkv.shape[1] // 3
    b, (queries, keys, blocks) = len(qkv) // t, _blocks(t)
    bias, (key, cut) = bias.expand(b, heads, t, t), key_of(keep, scale, qkv)
    mask, masked = _mask_of(mask, bias)
    out = qkv.new_empty(len(qkv), width)
    _attend[b * heads * blocks,](
        qkv, bias, mask, out, key, t, heads, blocks, *bias.stride(), mask.stride(0),
        CUT=cut, HEAD=width // heads, QUERIES=queries, BLOCK=keys, MASKED=masked,
        num_warps=4 if keys <= 64 else 8,
    )  # fmt: skip
    return out


def attend_back(
    grad: Tensor,
    qkv: Tensor,
    bias: Tensor,
    keep: Tensor | None,
    scale: float,
    heads: int,
    by_score: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients at q, k, v, [B T, 3 I], and at the scores, [B, H, T, T], given that at what
    ``attend`` read. by_score: where the latter are to go, in the type of q."""
    assert qkv.is_contiguous()
    t, width = bias.shape[-1], qkv.shape[1] // 3
    b, (queries, keys, blocks) = len(qkv) // t, _blocks(t)
    bias, (key, cut) = bias.expand(b, heads, t, t), key_of(keep, scale, qkv)
    out = torch.empty_like(qkv)
    by_score = qkv.new_empty(b, heads, t, t) if by_score is None else by_score
    assert by_score.is_contiguous()
    assert by_score.dtype == qkv.dtype
    kept = by_score if queries == keys else torch.empty_like(by_score)
    mask, masked = _mask_of(mask, bias)
    _attend_back[b * heads * blocks,](
        grad, qkv, bias, mask, out, by_score, kept, key, t, heads, blocks, *bias.stride(),
        mask.stride(0), CUT=cut, HEAD=width // heads, QUERIES=queries, BLOCK=keys, MASKED=masked,
        num_warps=4 if keys <= 32 else 8,
    )  # fmt: skip
    if queries < keys:
        blocks = triton.cdiv(t, WHOLE)
        _attend_back_keys[b * heads * blocks,](
            grad, qkv, out, by_score, kept, t, heads,
            HEAD=width // heads, QUERIES=WHOLE, BLOCKS=blocks,
        )  # fmt: skip
    return out, by_score


def _mask_of(mask: Tensor | None, bias: Tensor) -> tuple[Tensor, bool]:
    """The mask, and whether there is one; where there is none, any tensor."""
    if mask is None:
        return bias, False
    assert mask.shape == (len(bias), 1, 1, bias.shape[-1])
    assert mask.stride(-1) == 1 or mask.shape[-1] == 1
    return mask, True


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
    assert asked.is_contiguous()
    assert memory.is_contiguous()
    out, (key, cut) = torch.empty_like(asked), key_of(keep, scale, asked)
    b, t, s, rows, block = _sizes(asked, memory)
    bias = bias.expand(b, 1, 1, s)
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
    (key, cut), (b, t, s, rows, block) = key_of(keep, scale, asked), _sizes(asked, memory)
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
