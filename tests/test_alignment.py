"""Lists belong to the users who were asked for, whatever order batches take them in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from baselines.tiger import TwoStage
from benchmark.recommender import BenchmarkData
from benchmark.store import RunFolder
from diger.recommender import GenerativeRecommender
from tests.conftest import make_split


def test_users_of_many_history_lengths_get_their_own_lists(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = [12, 3, 7, 4, 11, 5, 9, 3, 8, 6]  # not sorted: batches go by length
    split = make_split([rng.integers(0, 30, n).tolist() for n in lengths], n_items=30)
    content = rng.normal(size=(30, 8)).astype(np.float32)
    data = BenchmarkData("planted", split, content, "hash")
    method = GenerativeRecommender(
        TwoStage,
        levels=2,
        codebook_size=8,
        tokenizer={"hidden": [8], "latent": 4, "epochs": 2},
        model={"layers": 1, "d_model": 16, "d_ff": 16, "heads": 2, "d_head": 8, "init_std": 0.5},
        train={"epochs": 1, "batch_size": 8},
        decode={"beams": 30, "batch_size": 4},
    )
    method.fit(data, 0, RunFolder(tmp_path, tmp_path, "cpu"))
    users = np.array([4, 1, 9, 0, 3, 2, 8, 5, 7, 6])
    together = method.rank(data, users, 10, "test", False)
    alone = [method.rank(data, users[i : i + 1], 10, "test", False) for i in range(len(users))]
    scores = np.concatenate([one.scores for one in alone])
    items = np.concatenate([one.items for one in alone])
    np.testing.assert_allclose(together.scores, scores, atol=1e-4)
    assert (together.items == items).mean() > 0.95  # near-ties may swap
    assert len(np.unique(items, axis=0)) == len(users)  # the lists do tell the users apart
