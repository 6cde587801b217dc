"""Metrics beside an independent library, ir_measures (trec_eval below it)."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, nDCG

from benchmark.metrics import per_user_frame

KS = (1, 5, 10, 20)
REFERENCE = {"recall": R, "ndcg": nDCG, "mrr": RR}


def random_lists(seed: int, users: int = 300, items: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """int32 lists [users, 20] of different items, some cut short, and targets [users]."""
    rng = np.random.default_rng(seed)
    lists = rng.permuted(np.tile(np.arange(items, dtype=np.int32), (users, 1)), axis=1)[:, :20]
    short = rng.integers(0, 21, users)
    lists[(np.arange(20) >= short[:, None]) & (rng.random((users, 1)) < 0.3)] = -1
    return lists.copy(), rng.integers(0, items, users).astype(np.int32)


def ours(lists: np.ndarray, targets: np.ndarray) -> dict[tuple[str, int, int], float]:
    frame = per_user_frame(np.arange(len(lists), dtype=np.int64), lists, targets, KS)
    columns = (frame[name].tolist() for name in ("metric", "k", "user", "value"))
    return {(name, k, user): value for name, k, user, value in zip(*columns, strict=True)}


@pytest.mark.parametrize("seed", [0, 1])
def test_recall_ndcg_and_mrr_agree_user_by_user(seed: int) -> None:
    lists, targets = random_lists(seed)
    qrels = [ir_measures.Qrel(str(u), str(t), 1) for u, t in enumerate(targets)]
    run = [ir_measures.ScoredDoc(str(u), str(item), float(-rank))
           for u, items in enumerate(lists) for rank, item in enumerate(items) if item >= 0
           ]  # fmt: skip
    measures = {measure @ k: (name, k) for name, measure in REFERENCE.items() for k in KS}
    found = ours(lists, targets)
    seen = 0
    for metric in ir_measures.iter_calc(list(measures), qrels, run):
        name, k = measures[metric.measure]
        assert found[(name, k, int(metric.query_id))] == pytest.approx(metric.value, abs=1e-6)
        seen += 1
    assert seen == len(found) == len(measures) * len(lists)
    assert 0.1 < np.mean([value > 0 for value in found.values()]) < 0.5


def test_a_user_without_a_list_scores_zero_there_too() -> None:
    lists, targets = np.full((2, 20), -1, np.int32), np.array([3, 4], np.int32)
    lists[0, 0] = 3
    qrels = [ir_measures.Qrel("0", "3", 1), ir_measures.Qrel("1", "4", 1)]
    theirs = ir_measures.calc_aggregate([nDCG @ 10], qrels, [ir_measures.ScoredDoc("0", "3", 1.0)])
    assert theirs[nDCG @ 10] == np.mean([ours(lists, targets)[("ndcg", 10, u)] for u in (0, 1)])
