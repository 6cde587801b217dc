"""The floor: the most popular items, the same for everyone.

A method that does not beat it has learned nothing about persons. By default it ranks the whole
catalogue, as the sequential and generative methods do, whose floor it is: whether seen items are
candidates weighs more than most methods differ (on ml-100k it doubles NDCG@10, Pop's and SASRec's
alike), so a floor with other candidates would mislead. Beside a method that leaves seen items out,
LightGCN, run it with ``exclude_seen=true``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.lists import joined, seen_pairs, top_k
from benchmark.data.split import Phase, Split
from benchmark.recommender import BenchmarkData, Ranking, Run

USERS_AT_ONCE = 1024  # bounds the table of scores to some tens of megabytes


class Pop:
    """Rank items by how often the training rows hold them; ties by lower item id.

    Training items are all interactions but each user's last two. Scores are those counts. The
    seed plays no part.
    """

    excludes_seen = False

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] | None = None

    @property
    def max_list_length(self) -> int | None:
        return None

    @property
    def needs_text(self) -> bool:
        return False

    def fit(self, data: BenchmarkData, seed: int, run: Run) -> None:
        """Count. ``seed`` is part of the interface only."""
        split = data.split
        is_train = np.arange(len(split.items)) < split.positions("valid")[split.user_of]
        self._counts = np.bincount(split.items[is_train], minlength=split.n_items)
        run.progress(1, 1, "pass")

    def rank(
        self,
        data: BenchmarkData,
        users: NDArray[np.int64],
        k: int,
        phase: Phase,
        exclude_seen: bool,
    ) -> Ranking:
        """The k most popular items, less those seen if asked; see ``Recommender.rank``.

        Raises:
            RuntimeError: before ``fit``.
        """
        if self._counts is None:
            raise RuntimeError("rank was called before fit")
        counts = torch.from_numpy(self._counts).float()
        batches = [
            users[first : first + USERS_AT_ONCE] for first in range(0, len(users), USERS_AT_ONCE)
        ]
        return joined(
            [
                self._rank_batch(counts, data.split, batch, k, phase if exclude_seen else None)
                for batch in batches
            ],
            k,
        )

    @staticmethod
    def _rank_batch(
        counts: torch.Tensor, split: Split, users: NDArray[np.int64], k: int, unseen: Phase | None
    ) -> Ranking:
        """Lists by ``counts`` [n_items], without what was seen before the phase ``unseen``."""
        scores = counts.repeat(len(users), 1)
        if unseen is not None:
            rows, items = seen_pairs(split, users, unseen)
            scores[torch.from_numpy(rows), torch.from_numpy(items)] = -torch.inf
        return top_k(scores, k)

    def semantic_ids(self) -> NDArray[np.int32] | None:
        return None

    def describe(self) -> dict[str, Any]:
        return {"parameters": 0, "best_epoch": None, "notes": []}
