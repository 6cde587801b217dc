"""From scores to lists: what every method that scores the whole catalogue needs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.data.split import Phase, Split
from benchmark.recommender import Ranking


def seen_pairs(
    split: Split, users: NDArray[np.int64], phase: Phase
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All (row, item) with an item that ``users[row]`` consumed before the phase's target.

    Returns:
        rows: int64 [n_pairs], indices into ``users``, non-decreasing.
        items: int64 [n_pairs]; an item consumed twice appears twice.
    """
    starts, ends = split.offsets[:-1][users], split.positions(phase)[users]
    lengths = ends - starts
    rows = np.repeat(np.arange(len(users)), lengths)
    before = np.repeat(np.cumsum(lengths) - lengths, lengths)
    items = split.items[np.repeat(starts, lengths) + np.arange(len(rows)) - before]
    return rows, items.astype(np.int64)


def top_k(scores: torch.Tensor, k: int) -> Ranking:
    """The k best columns of each row, ties by lower column; -1 where a score is -inf.

    Args:
        scores: float [n_rows, n_items] on any device, no NaN.
    """
    width = min(k, scores.shape[1])
    least = scores.topk(width, dim=1).values[:, -1:]
    above, level = scores > least, scores == least
    # topk leaves open which of several equal scores at its edge it takes: take the lowest ids.
    free = width - above.sum(dim=1, keepdim=True)
    kept = above | (level & (level.cumsum(dim=1) <= free))
    items = kept.nonzero()[:, 1].view(-1, width)  # ascending ids, so a stable sort keeps ties
    values, order = scores.gather(1, items).sort(dim=1, descending=True, stable=True)
    items = items.gather(1, order).masked_fill(values == -torch.inf, -1)
    pad = ((0, 0), (0, k - width))
    return Ranking(
        np.pad(items.cpu().numpy().astype(np.int32), pad, constant_values=-1),
        np.pad(values.float().cpu().numpy(), pad, constant_values=-np.inf),
    )


def joined(parts: list[Ranking], k: int) -> Ranking:
    """The lists of several batches of users, of length k, as one; of none, if there is none."""
    return Ranking(
        np.concatenate([np.empty((0, k), np.int32), *(part.items for part in parts)]),
        np.concatenate([np.empty((0, k), np.float32), *(part.scores for part in parts)]),
    )
