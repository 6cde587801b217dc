"""Metrics against arithmetic by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from benchmark.metrics import METRICS, code_ranks, coverage, per_user_frame, target_ranks

LISTS = np.array([[4, 2, 7], [1, 0, 3], [5, -1, -1], [-1, -1, -1]], dtype=np.int32)
TARGETS = np.array([4, 3, 6, 0], dtype=np.int32)


def test_ranks_by_hand() -> None:
    assert target_ranks(LISTS, TARGETS).tolist() == [1, 3, 0, 0]


def test_values_by_hand() -> None:
    ranks = np.array([1, 3, 0, 2])
    assert METRICS["recall"].per_user(ranks, 2).tolist() == [1, 0, 0, 1]
    assert METRICS["ndcg"].per_user(ranks, 3) == pytest.approx([1, 1 / 2, 0, 1 / np.log2(3)])
    assert METRICS["mrr"].per_user(ranks, 3) == pytest.approx([1, 1 / 3, 0, 1 / 2])
    assert METRICS["ndcg"].per_user(ranks, 2)[1] == 0  # rank 3 is outside the first two


def test_ndcg_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(200, 50))
    targets = rng.integers(0, 50, 200).astype(np.int32)
    lists = np.argsort(-scores, axis=1).astype(np.int32)
    truth = np.eye(50)[targets]
    for k in (5, 10, 20):
        ours = METRICS["ndcg"].per_user(target_ranks(lists, targets), k)
        theirs = [ndcg_score(truth[i : i + 1], scores[i : i + 1], k=k) for i in range(200)]
        assert ours == pytest.approx(theirs)


def test_a_user_without_a_list_scores_zero_and_stays() -> None:
    frame = per_user_frame(np.arange(4), LISTS, TARGETS, (3,))
    recall = frame[frame["metric"] == "recall"].set_index("user")["value"]
    assert recall.to_dict() == {0: 1.0, 1: 1.0, 2: 0.0, 3: 0.0}
    assert recall.mean() == 0.5


def test_code_level_counts_distinct_tuples() -> None:
    # Items 0 and 1 share codes, as do 2 and 3.
    codes = np.array([[0, 0], [0, 0], [1, 0], [1, 0], [2, 2]], dtype=np.int32)
    lists = np.array([[0, 1, 2], [4, 3, 0], [4, 0, -1]], dtype=np.int32)
    targets = np.array([3, 2, 2], dtype=np.int32)
    # User 0: tuples a, a, b: b is the second distinct one. User 1: item 3 stands for item 2.
    assert code_ranks(lists, targets, codes).tolist() == [2, 2, 0]
    assert target_ranks(lists, targets).tolist() == [0, 0, 0]


def test_code_level_never_falls_below_item_level() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 3, (30, 2)).astype(np.int32)
    lists = np.array([rng.permutation(30)[:10] for _ in range(100)], dtype=np.int32)
    targets = rng.integers(0, 30, 100).astype(np.int32)
    frame = per_user_frame(np.arange(100), lists, targets, (5, 10), codes)
    wide = frame.pivot(index=["user", "k"], columns="metric", values="value")
    for name in METRICS:
        assert (wide[f"code_{name}"] >= wide[name]).all()
    assert (wide["code_recall"] > wide["recall"]).any()


def test_coverage_counts_items_once_and_no_padding() -> None:
    lists = np.array([[0, 1, -1], [1, 2, -1]], dtype=np.int32)
    assert coverage(lists, 10, 3) == pytest.approx(3 / 10)
    assert coverage(lists, 10, 1) == pytest.approx(2 / 10)
