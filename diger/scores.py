"""Attention's scores in compiled blocks: one query beside the other, so that every loop is of
vectors and none waits for a sum along them. Arrays are float32; dropout is that of ``diger.loops``.

Shapes: T keys, R rows that go together, Q queries: of all those rows and their heads or, where R is
a dimension of its own, of the heads of a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diger.folding import inner, turn_into
from diger.loops import Floats, draw, power_of_e
from diger.products import multiply

f4, u4 = np.float32, np.uint32


@inner
def softmax_drop(
    scores_TxQ: Floats, first: int, low: Any, high: Any, cut: Any, weights_TxQ: Floats
) -> None:
    """softmax of each query, down its column; in place of the scores, what of it is kept.

    Args:
        first: the number of the first query among all of the block's, on which draws depend.
    """
    t, queries = scores_TxQ.shape
    top, total = np.full(queries, f4(-np.inf)), np.zeros(queries, f4)
    for j in range(t):
        for i in range(queries):
            score = scores_TxQ[j, i]
            top[i] = score if score > top[i] else top[i]
    for j in range(t):
        for i in range(queries):
            power = power_of_e(scores_TxQ[j, i] - top[i])
            scores_TxQ[j, i] = power
            total[i] += power
    for i in range(queries):
        total[i] = f4(1) / total[i]
    for j in range(t):
        start, keys = u4(first * t + j), u4(t)
        for i in range(queries):
            weight = scores_TxQ[j, i] * total[i]
            weights_TxQ[j, i] = weight
            kept = draw(u4(start + u4(u4(i) * keys)), low, high) >= cut
            scores_TxQ[j, i] = weight if kept else f4(0)


@inner
def softmax_drop_back(
    grad_TxQ: Floats, weights_TxQ: Floats, first: int, low: Any, high: Any, cut: Any,
    kept_TxQ: Floats,
) -> None:  # fmt: skip
    """In place of the gradient at the weights that are kept, that at the scores; and these."""
    t, queries = grad_TxQ.shape
    along = np.zeros(queries, f4)
    for j in range(t):
        start, keys = u4(first * t + j), u4(t)
        for i in range(queries):
            kept = draw(u4(start + u4(u4(i) * keys)), low, high) >= cut
            weight = weights_TxQ[j, i] if kept else f4(0)
            kept_TxQ[j, i] = weight
            grad = grad_TxQ[j, i] * weight
            grad_TxQ[j, i] = grad
            along[i] += grad
    for j in range(t):
        for i in range(queries):
            grad_TxQ[j, i] -= along[i] * weights_TxQ[j, i]


@inner
def add_bias(scores_TxRxQ: Floats, bias_TxQ: Floats, mask_RxT: Floats) -> None:
    """In place."""
    t, rows, queries = scores_TxRxQ.shape
    for j in range(t):
        for b in range(rows):
            masked = mask_RxT[b, j]
            for i in range(queries):
                scores_TxRxQ[j, b, i] += bias_TxQ[j, i] + masked


@inner
def sum_rows(grad_TxRxQ: Floats, out_TxQ: Floats) -> None:
    """Added to ``out``."""
    t, rows, queries = grad_TxRxQ.shape
    for j in range(t):
        for b in range(rows):
            for i in range(queries):
                out_TxQ[j, i] += grad_TxRxQ[j, b, i]


@inner
def score_heads(keys_NxI: Floats, queries_NxI: Floats, heads: int, scores_TxQ: Floats) -> None:
    """The products of every key with every query of its row and head. N = R T, Q = R heads T."""
    t, h = len(scores_TxQ), keys_NxI.shape[1] // heads
    across = np.empty((h, t), f4)
    for row in range(len(keys_NxI) // t):
        keys, queries = keys_NxI[row * t : (row + 1) * t], queries_NxI[row * t : (row + 1) * t]
        for head in range(heads):
            c, q = head * h, (row * heads + head) * t
            turn_into(queries[:, c : c + h], across)
            multiply(keys[:, c : c + h], across, scores_TxQ[:, q : q + t])


@inner
def read_by_queries(weights_TxQ: Floats, values_NxI: Floats, heads: int, out_NxI: Floats) -> None:
    """For each query, the sum of the values of its row and head by its weights."""
    t, h = len(weights_TxQ), values_NxI.shape[1] // heads
    for row in range(len(values_NxI) // t):
        values, out = values_NxI[row * t : (row + 1) * t], out_NxI[row * t : (row + 1) * t]
        for head in range(heads):
            c, q = head * h, (row * heads + head) * t
            multiply(weights_TxQ[:, q : q + t].T, values[:, c : c + h], out[:, c : c + h])


@inner
def read_by_keys(weights_TxQ: Floats, values_NxI: Floats, heads: int, out_NxI: Floats) -> None:
    """The same for each key, of what is given query by query."""
    t, h = len(weights_TxQ), values_NxI.shape[1] // heads
    for row in range(len(values_NxI) // t):
        values, out = values_NxI[row * t : (row + 1) * t], out_NxI[row * t : (row + 1) * t]
        for head in range(heads):
            c, q = head * h, (row * heads + head) * t
            multiply(weights_TxQ[:, q : q + t], values[:, c : c + h], out[:, c : c + h])
