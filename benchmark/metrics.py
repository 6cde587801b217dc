"""Ranking metrics: one value per user first, the mean second.

Every user has exactly one relevant item (leave-one-out), so all metrics follow from the rank at
which it stands in the user's list. A user without a list, or whose target is not in it, scores 0
and never disappears. Lists are checked by the store before they get here.

Formulas (r = rank of the target, from 1; one relevant item, so the ideal DCG is 1):
Recall@K = [r <= K]; NDCG@K = [r <= K] / log2(r + 1); MRR@K = [r <= K] / r.
Source: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Ranks = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A metric that knows its label, its direction and the value of an empty list."""

    name: str
    label: str
    value: Callable[[Ranks], Values]  # value of a hit at each rank (>= 1)
    higher_is_better: bool = True
    worst: float = 0.0

    def per_user(self, ranks: Ranks, k: int) -> Values:
        """float64 [n_users] from ranks [n_users], where 0 means that the target is not listed."""
        hit = (ranks >= 1) & (ranks <= k)
        return np.where(hit, self.value(np.maximum(ranks, 1)), self.worst)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("recall", "Recall", lambda r: np.ones(len(r))),
        Metric("ndcg", "NDCG", lambda r: 1.0 / np.log2(r + 1.0)),
        Metric("mrr", "MRR", lambda r: 1.0 / r),
    )
}

#: A metric's name with this prefix counts a hit on the target's m codes, whichever item has them.
CODE_LEVEL = "code_"


def target_ranks(lists: NDArray[np.int32], targets: NDArray[np.int32]) -> Ranks:
    """Rank of each user's target in the user's list.

    Args:
        lists: int32 [n_users, k], -1 where a list is short.
        targets: int32 [n_users].

    Returns:
        int64 [n_users], from 1; 0 where the target is not in the list.
    """
    hit = lists == targets[:, None]
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)


def code_ranks(
    lists: NDArray[np.int32], targets: NDArray[np.int32], codes: NDArray[np.int32]
) -> Ranks:
    """Rank of the target's code tuple among the distinct code tuples of each list.

    This is what an evaluation sees that counts semantic IDs without the suffix instead of items:
    a collision is then a hit. It is kept only to show how much that inflates the figures.

    Args:
        lists: int32 [n_users, k], -1 where a list is short.
        targets: int32 [n_users].
        codes: int32 [n_items, m], the codes without the suffix.
    """
    _, group = np.unique(codes, axis=0, return_inverse=True)
    group = group.reshape(-1)
    grouped = np.where(lists >= 0, group[np.maximum(lists, 0)], -1)
    ranks = np.zeros(len(lists), dtype=np.int64)
    wanted = group[targets]
    for user, row in enumerate(grouped):
        found = np.flatnonzero(row == wanted[user])
        if len(found):
            ranks[user] = len(np.unique(row[: found[0]])) + 1
    return ranks


def per_user_frame(
    users: NDArray[np.int64],
    lists: NDArray[np.int32],
    targets: NDArray[np.int32],
    ks: tuple[int, ...],
    codes: NDArray[np.int32] | None = None,
) -> pd.DataFrame:
    """Every metric of every user: columns user, metric, k, value, sorted by metric, k, user."""
    kinds = {"": target_ranks(lists, targets)}
    if codes is not None:
        kinds[CODE_LEVEL] = code_ranks(lists, targets, codes)
    return frame_of_ranks(users, kinds, ks)


def frame_of_ranks(
    users: NDArray[np.int64], kinds: Mapping[str, Ranks], ks: tuple[int, ...]
) -> pd.DataFrame:
    """As ``per_user_frame``, from the ranks [n_users] of each kind of hit, by its prefix."""
    frames = [
        pd.DataFrame(
            {
                "user": users.astype(np.int32),
                "metric": prefix + metric.name,
                "k": np.int32(k),
                "value": metric.per_user(ranks, k),
            }
        )
        for prefix, ranks in kinds.items()
        for metric in METRICS.values()
        for k in ks
    ]
    return pd.concat(frames, ignore_index=True)


def coverage(lists: NDArray[np.int32], n_items: int, k: int) -> float:
    """Share of the catalogue that appears in at least one of the lists cut at k."""
    shown = np.unique(lists[:, :k])
    return float((shown >= 0).sum()) / n_items
