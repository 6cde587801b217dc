"""The encoder-decoder's blocks, each way in one compiled function, on a CPU in float32.

A small model's step is hundreds of operations of a few microseconds each, and most of what they
write has left the near caches when the next one reads it. Here some rows go through the whole of a
block before the next ones do: what is normed, multiplied and dropped lies near meanwhile, heads are
multiplied where they lie, and scores stand one query beside the other, so that every loop is of
vectors and none waits for a sum along them.

What is computed, and the shapes, are those of ``diger.functional``; dropout is that of
``diger.loops``: ``cut`` of 0 keeps everything, ``factor`` is scale^2. Arrays are contiguous and
float32; those named last receive the results. N = B T, I = H h. Weights of attention lie as they
are computed: of the rows that go together, [keys, rows, heads, queries].

A way back reads what the way there made a while ago, which has left all caches since: it asks for
what the next rows need while it multiplies for these. It is given the gradient of the residual
stream behind the block, and makes of it that in front of the block, in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diger import loops
from diger.folding import flat, folded, folded_three, norm_again, turn_into, turned, unfold
from diger.keep import LOW
from diger.loops import Floats, loop, summing
from diger.products import multiply, multiply_add, multiply_add_while, multiply_while
from diger.scores import (
    add_bias,
    read_by_keys,
    read_by_queries,
    score_heads,
    softmax_drop,
    softmax_drop_back,
    sum_rows,
)

#: What numba compiles into these blocks, ``diger.keep``, ``loops``, ``products``, ``folding`` and
#: ``scores``, as their SHA-256. It keeps what it has compiled until this file changes, whatever
#: becomes of those: ``tests/test_compiled.py`` says what belongs here.
MADE_OF = "36358d7e0950c5ffc9b665fd96736ebfb18839c6b27f31735008c2f0f9d76ea1"

f4, u4 = np.float32, np.uint32
EPSILON = 1e-6  # that of ``diger.passes``
SIGN, INFINITY = 0x80000000, 0x7F800000  # of a float32: see ``loops.relu_drop``

#: Tokens that go through a block together, if a row has no more: weights are read anew for each.
_ROWS = 128


@loop
def _together(rows: int, tokens: int) -> int:
    """How many rows of so many tokens go together."""
    return min(rows, max(1, _ROWS // tokens))


@loop
def _halves(key: int) -> tuple[Any, Any]:
    return u4(key & LOW), u4(key >> 32)


@loop
def _three(x_Nx3I: Floats, width: int) -> tuple[Floats, Floats, Floats]:
    """Of queries, keys and values, [N, I] each."""
    return x_Nx3I[:, :width], x_Nx3I[:, width : 2 * width], x_Nx3I[:, 2 * width :]


@loop
def _relu_drop(x_NxF: Floats, first: int, key: int, cut: int) -> None:
    loops.relu_drop(x_NxF.view(u4), SIGN, INFINITY, first, key, cut)


@summing
def self_attention(
    x_Nxd: Floats, norm_d: Floats, q_Ixd: Floats, k_Ixd: Floats, v_Ixd: Floats, o_dxI: Floats,
    mask_BxT: Floats, heads: int, bias_TxHT: Floats, key_weights: int, key_out: int, cut: int,
    factor: float,
    scale_N: Floats, projected_Nx3I: Floats, weights_BHTT: Floats, read_NxI: Floats,
    out_Nxd: Floats,
) -> None:  # fmt: skip
    """``diger.functional.SelfAttention``."""
    rows, t = mask_BxT.shape
    width, d = read_NxI.shape[1], x_Nxd.shape[1]
    low, high = _halves(key_weights)
    least = u4(cut)
    met, o = turned(folded_three(q_Ixd, k_Ixd, v_Ixd, norm_d)), turned(o_dxI)
    some = _together(rows, t)
    near, held = np.empty((some * t, d), f4), np.empty(t * some * heads * t, f4)
    for b in range(0, rows, some):
        now = min(some, rows - b)
        n, end = b * t, (b + now) * t
        some_x, some_d = x_Nxd[n:end], near[: end - n]
        loops.norm(some_x, some_d, scale_N[n:end], EPSILON)
        multiply(some_d, met, projected_Nx3I[n:end])
        queries = now * heads * t
        scores = held[: t * queries].reshape(t, queries)
        query, key, value = _three(projected_Nx3I[n:end], width)
        score_heads(key, query, heads, scores)
        add_bias(scores.reshape(t, now, heads * t), bias_TxHT, mask_BxT[b : b + now])
        kept = weights_BHTT[b * heads * t * t : (b + now) * heads * t * t].reshape(t, queries)
        softmax_drop(scores, b * heads * t, low, high, least, kept)
        read_by_queries(scores, value, heads, read_NxI[n:end])
        multiply(read_NxI[n:end], o, some_d)
        loops.drop_add(some_x, some_d, out_Nxd[n:end], n * d, key_out, cut, factor)


@summing
def self_attention_back(
    x_Nxd: Floats, norm_d: Floats, q_Ixd: Floats, k_Ixd: Floats, v_Ixd: Floats, o_dxI: Floats,
    mask_BxT: Floats, heads: int, key_weights: int, key_out: int, cut: int, factor: float,
    scale_N: Floats, projected_Nx3I: Floats, weights_BHTT: Floats, read_NxI: Floats,
    grad_Nxd: Floats, d_norm_d: Floats, d_q_Ixd: Floats, d_k_Ixd: Floats, d_v_Ixd: Floats,
    d_o_dxI: Floats, d_bias_TxHT: Floats,
) -> None:  # fmt: skip
    """The gradients; to that at the bias it is added."""
    rows, t = mask_BxT.shape
    width, d = read_NxI.shape[1], grad_Nxd.shape[1]
    low, high = _halves(key_weights)
    least = u4(cut)
    met = folded_three(q_Ixd, k_Ixd, v_Ixd, norm_d)
    some = _together(rows, t)
    near = np.empty((2, some * t, d), f4)
    d_read_, moved_ = np.empty((some * t, width), f4), np.empty((some * t, 3 * width), f4)
    held, held_too = np.empty(t * some * heads * t, f4), np.empty(t * some * heads * t, f4)
    d_o_dxI[:] = f4(0)
    d_q_Ixd[:] = f4(0)
    d_k_Ixd[:] = f4(0)
    d_v_Ixd[:] = f4(0)
    d_norm_d[:] = f4(0)
    for b in range(0, rows, some):
        now = min(some, rows - b)
        n, end = b * t, (b + now) * t
        onto, normed = near[0, : end - n], near[1, : end - n]
        d_read, moved = d_read_[: end - n], moved_[: end - n]
        loops.drop(grad_Nxd[n:end], onto, n * d, key_out, cut, factor)
        behind = end + end - n
        multiply_add_while(onto.T, read_NxI[n:end], d_o_dxI, flat(x_Nxd[end:behind]))
        multiply_while(onto, o_dxI, d_read, flat(read_NxI[end:behind]))
        queries = now * heads * t
        grads, kept = (
            held[: t * queries].reshape(t, queries),
            held_too[: t * queries].reshape(t, queries),
        )
        query, key, value = _three(projected_Nx3I[n:end], width)
        score_heads(value, d_read, heads, grads)
        weights = weights_BHTT[b * heads * t * t : (b + now) * heads * t * t].reshape(t, queries)
        softmax_drop_back(grads, weights, b * heads * t, low, high, least, kept)
        sum_rows(grads.reshape(t, now, heads * t), d_bias_TxHT)
        d_query, d_key, d_value = _three(moved, width)
        read_by_queries(grads, key, heads, d_query)
        read_by_keys(grads, query, heads, d_key)
        read_by_keys(kept, d_read, heads, d_value)
        norm_again(x_Nxd[n:end], scale_N[n:end], normed)
        ahead = flat(projected_Nx3I[end:behind])
        third = len(ahead) // 3
        multiply_add_while(d_query.T, normed, d_q_Ixd, ahead[:third])
        multiply_add_while(d_key.T, normed, d_k_Ixd, ahead[third : 2 * third])
        multiply_add_while(d_value.T, normed, d_v_Ixd, ahead[2 * third :])
        weights_ahead = weights_BHTT[(b + now) * heads * t * t : (b + 2 * now) * heads * t * t]
        multiply_while(moved, met, onto, weights_ahead)
        loops.norm_back(onto, normed, scale_N[n:end], grad_Nxd[n:end])
    unfold(d_q_Ixd, norm_d, q_Ixd, d_norm_d)
    unfold(d_k_Ixd, norm_d, k_Ixd, d_norm_d)
    unfold(d_v_Ixd, norm_d, v_Ixd, d_norm_d)


@summing
def feed_forward(
    x_Nxd: Floats, norm_d: Floats, wide_Fxd: Floats, narrow_dxF: Floats, key_hidden: int,
    key_out: int, cut: int, factor: float,
    scale_N: Floats, hidden_NxF: Floats, out_Nxd: Floats,
) -> None:  # fmt: skip
    """``diger.functional.FeedForward``."""
    d, met, narrow = x_Nxd.shape[1], turned(folded(wide_Fxd, norm_d)), turned(narrow_dxF)
    near = np.empty((_ROWS, d), f4)
    for n in range(0, len(x_Nxd), _ROWS):
        end = min(n + _ROWS, len(x_Nxd))
        some_x, some_d, hidden = x_Nxd[n:end], near[: end - n], hidden_NxF[n:end]
        loops.norm(some_x, some_d, scale_N[n:end], EPSILON)
        multiply(some_d, met, hidden)
        _relu_drop(hidden, n * hidden.shape[1], key_hidden, cut)
        multiply(hidden, narrow, some_d)
        loops.drop_add(some_x, some_d, out_Nxd[n:end], n * d, key_out, cut, factor)


@summing
def feed_forward_back(
    x_Nxd: Floats, norm_d: Floats, wide_Fxd: Floats, narrow_dxF: Floats, key_hidden: int,
    key_out: int, cut: int, factor: float,
    scale_N: Floats, hidden_NxF: Floats,
    grad_Nxd: Floats, d_norm_d: Floats, d_wide_Fxd: Floats, d_narrow_dxF: Floats,
) -> None:  # fmt: skip
    """The gradients. What was dropped inside is seen by its zeros, and needs no key."""
    d, hidden_width = narrow_dxF.shape
    met = folded(wide_Fxd, norm_d)
    near, d_hidden_ = np.empty((2, _ROWS, d), f4), np.empty((_ROWS, hidden_width), f4)
    d_norm_d[:] = f4(0)
    d_wide_Fxd[:] = f4(0)
    d_narrow_dxF[:] = f4(0)
    for n in range(0, len(grad_Nxd), _ROWS):
        end = min(n + _ROWS, len(grad_Nxd))
        onto, normed = near[0, : end - n], near[1, : end - n]
        d_hidden, hidden = d_hidden_[: end - n], hidden_NxF[n:end]
        loops.drop(grad_Nxd[n:end], onto, n * d, key_out, cut, factor)
        behind = end + end - n
        multiply_add_while(onto.T, hidden, d_narrow_dxF, flat(x_Nxd[end:behind]))
        multiply_while(onto, narrow_dxF, d_hidden, flat(grad_Nxd[end:behind]))
        # What was dropped is 0 in hidden, as what relu cut off is, and gets no gradient either.
        read, write = hidden.reshape(-1), d_hidden.reshape(-1)
        for i in range(read.size):
            write[i] = f4(0) if read[i] <= f4(0) else write[i]
        norm_again(x_Nxd[n:end], scale_N[n:end], normed)
        multiply_add_while(d_hidden.T, normed, d_wide_Fxd, flat(hidden_NxF[end:behind]))
        multiply(d_hidden, met, onto)
        loops.norm_back(onto, normed, scale_N[n:end], grad_Nxd[n:end])
    unfold(d_wide_Fxd, norm_d, wide_Fxd, d_norm_d)


@summing
def cross_attention(
    x_Nxd: Floats, norm_d: Floats, q_Ixd: Floats, k_Ixd: Floats, v_Ixd: Floats, o_dxI: Floats,
    mask_BxM: Floats, heads: int, memory_BMxd: Floats, key_weights: int, key_out: int, cut: int,
    factor: float,
    scale_N: Floats, query_NxI: Floats, asked_HNxd: Floats, weights_BMHT: Floats,
    seen_HNxd: Floats, read_NxI: Floats, out_Nxd: Floats,
) -> None:  # fmt: skip
    """``diger.functional.CrossAttention``."""
    rows, m = mask_BxM.shape
    (n_all, width), d = read_NxI.shape, x_Nxd.shape[1]
    h, t = width // heads, n_all // rows
    low, high = _halves(key_weights)
    least = u4(cut)
    met, o, v = turned(folded(q_Ixd, norm_d)), turned(o_dxI), turned(v_Ixd)
    some = _together(rows, t)
    across, near = np.empty((d, t), f4), np.empty((some * t, d), f4)
    held, nothing = np.empty(m * some * heads * t, f4), np.zeros((m, heads * t), f4)
    for b in range(0, rows, some):
        now = min(some, rows - b)
        n, end = b * t, (b + now) * t
        some_x, some_d = x_Nxd[n:end], near[: end - n]
        loops.norm(some_x, some_d, scale_N[n:end], EPSILON)
        multiply(some_d, met, query_NxI[n:end])
        for head in range(heads):
            own = slice(head * h, (head + 1) * h)
            multiply(
                query_NxI[n:end, own], k_Ixd[own], asked_HNxd[head * n_all + n : head * n_all + end]
            )
        queries = now * heads * t
        scores = held[: m * queries].reshape(m, queries)
        for r in range(now):
            memory = memory_BMxd[(b + r) * m : (b + r + 1) * m]
            for head in range(heads):
                at, q = head * n_all + n + r * t, (r * heads + head) * t
                turn_into(asked_HNxd[at : at + t], across)
                multiply(memory, across, scores[:, q : q + t])
        add_bias(scores.reshape(m, now, heads * t), nothing, mask_BxM[b : b + now])
        kept = weights_BMHT[b * heads * t * m : (b + now) * heads * t * m].reshape(m, queries)
        softmax_drop(scores, b * heads * t, low, high, least, kept)
        for r in range(now):
            memory = memory_BMxd[(b + r) * m : (b + r + 1) * m]
            for head in range(heads):
                at, q = head * n_all + n + r * t, (r * heads + head) * t
                multiply(scores[:, q : q + t].T, memory, seen_HNxd[at : at + t])
        for head in range(heads):
            own = slice(head * h, (head + 1) * h)
            seen = seen_HNxd[head * n_all + n : head * n_all + end]
            multiply(seen, v[:, own], read_NxI[n:end, own])
        multiply(read_NxI[n:end], o, some_d)
        loops.drop_add(some_x, some_d, out_Nxd[n:end], n * d, key_out, cut, factor)


@summing
def cross_attention_back(
    x_Nxd: Floats, norm_d: Floats, q_Ixd: Floats, k_Ixd: Floats, v_Ixd: Floats, o_dxI: Floats,
    mask_BxM: Floats, heads: int, memory_BMxd: Floats, key_weights: int, key_out: int, cut: int,
    factor: float,
    scale_N: Floats, query_NxI: Floats, asked_HNxd: Floats, weights_BMHT: Floats,
    seen_HNxd: Floats, read_NxI: Floats,
    grad_Nxd: Floats, d_norm_d: Floats, d_q_Ixd: Floats, d_k_Ixd: Floats, d_v_Ixd: Floats,
    d_o_dxI: Floats, d_memory_BMxd: Floats,
) -> None:  # fmt: skip
    """The gradients; to that at the memory it is added."""
    rows, m = mask_BxM.shape
    (n_all, width), d = read_NxI.shape, grad_Nxd.shape[1]
    h, t = width // heads, n_all // rows
    low, high = _halves(key_weights)
    least = u4(cut)
    met, k = folded(q_Ixd, norm_d), turned(k_Ixd)
    some = _together(rows, t)
    across, near = np.empty((d, t), f4), np.empty((2, some * t, d), f4)
    d_read_, d_query_ = np.empty((some * t, width), f4), np.empty((some * t, width), f4)
    d_seen = np.empty((heads * some * t, d), f4)
    held, held_too = np.empty(m * some * heads * t, f4), np.empty(m * some * heads * t, f4)
    d_norm_d[:] = f4(0)
    d_o_dxI[:] = f4(0)
    d_q_Ixd[:] = f4(0)
    d_k_Ixd[:] = f4(0)
    d_v_Ixd[:] = f4(0)
    for b in range(0, rows, some):
        now = min(some, rows - b)
        n, end = b * t, (b + now) * t
        onto, normed = near[0, : end - n], near[1, : end - n]
        d_read, d_query = d_read_[: end - n], d_query_[: end - n]
        loops.drop(grad_Nxd[n:end], onto, n * d, key_out, cut, factor)
        multiply_add(onto.T, read_NxI[n:end], d_o_dxI)
        multiply(onto, o_dxI, d_read)
        for head in range(heads):
            own = slice(head * h, (head + 1) * h)
            seen = seen_HNxd[head * n_all + n : head * n_all + end]
            multiply_add(d_read[:, own].T, seen, d_v_Ixd[own])
            multiply(
                d_read[:, own], v_Ixd[own], d_seen[head * some * t : head * some * t + end - n]
            )
        queries = now * heads * t
        grads, kept = (
            held[: m * queries].reshape(m, queries),
            held_too[: m * queries].reshape(m, queries),
        )
        for r in range(now):
            memory = memory_BMxd[(b + r) * m : (b + r + 1) * m]
            for head in range(heads):
                at, q = (head * some + r) * t, (r * heads + head) * t
                turn_into(d_seen[at : at + t], across)
                multiply(memory, across, grads[:, q : q + t])
        weights = weights_BMHT[b * heads * t * m : (b + now) * heads * t * m].reshape(m, queries)
        softmax_drop_back(grads, weights, b * heads * t, low, high, least, kept)
        for r in range(now):
            memory = memory_BMxd[(b + r) * m : (b + r + 1) * m]
            d_memory = d_memory_BMxd[(b + r) * m : (b + r + 1) * m]
            for head in range(heads):
                at, q, here = (
                    head * n_all + n + r * t,
                    (r * heads + head) * t,
                    (head * some + r) * t,
                )
                of_scores = grads[:, q : q + t]
                multiply_add(kept[:, q : q + t], d_seen[here : here + t], d_memory)
                multiply_add(of_scores, asked_HNxd[at : at + t], d_memory)
                multiply(of_scores.T, memory, d_seen[here : here + t])
        for head in range(heads):
            own = slice(head * h, (head + 1) * h)
            d_asked = d_seen[head * some * t : head * some * t + end - n]
            multiply_add(query_NxI[n:end, own].T, d_asked, d_k_Ixd[own])
            multiply(d_asked, k[:, own], d_query[:, own])
        norm_again(x_Nxd[n:end], scale_N[n:end], normed)
        multiply_add(d_query.T, normed, d_q_Ixd)
        multiply(d_query, met, onto)
        loops.norm_back(onto, normed, scale_N[n:end], grad_Nxd[n:end])
    unfold(d_q_Ixd, norm_d, q_Ixd, d_norm_d)
