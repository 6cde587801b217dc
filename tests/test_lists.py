"""Lists out of scores: order, ties, gaps, bounds on memory, and no waiting for the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from baselines.lists import (
    MAX_SCORES,
    MAX_SCORES_ELSEWHERE,
    best,
    joined,
    seen_pairs,
    to_host,
    top_k,
    users_at_once,
)
from baselines.recbole_rows import Negatives, RowReader, TrainRows
from baselines.recbole_scoring import Scorer
from baselines.sasrec import SasRecCE
from benchmark.data.split import Split
from benchmark.metrics import METRICS, target_ranks
from tests.conftest import make_split
from tests.recbole_cases import N_ITEMS, N_USERS, PHASES, fitted, model_of, planted

SCORES = [-np.inf, -3e38, -2.5, -1e-40, -0.0, 0.0, 1e-40, 0.5, 1.0, 3e38]


def assert_best(table: NDArray[Any], k: int) -> None:
    """Lists of ``table`` are those of a stable sort of each row alone."""
    ranking = top_k(torch.from_numpy(table), k)
    assert ranking.items.dtype == np.int32 and ranking.scores.dtype == np.float32
    for row, items, values in zip(table, ranking.items, ranking.scores, strict=True):
        order = [item for item in np.argsort(-row, kind="stable") if np.isfinite(row[item])][:k]
        assert items.tolist() == order + [-1] * (k - len(order))
        assert values.tolist() == [*row[order].tolist(), *[-np.inf] * (k - len(order))]


@pytest.mark.parametrize(("width", "k"), [(8, 1), (8, 3), (8, 8), (8, 11), (500, 300)])
def test_top_k_breaks_ties_by_lower_id(width: int, k: int) -> None:
    table = np.random.default_rng(0).integers(0, 3, (50, width)).astype(np.float32)
    table[table == 0] = -np.inf
    assert_best(table, k)


@settings(max_examples=60, deadline=None)
@given(
    table=st.lists(
        st.lists(st.sampled_from(SCORES), min_size=7, max_size=7), min_size=1, max_size=4
    ),
    k=st.integers(1, 9),
)
def test_all_kinds_of_numbers_are_in_order(table: list[list[float]], k: int) -> None:
    """Negative ones, both zeros (which are equal), the smallest, the largest."""
    assert_best(np.array(table, dtype=np.float32), k)


def test_whole_numbers_and_columns_out_of_a_wider_table_are_read_as_they_are() -> None:
    """Pop's counts, and RecBole's scores without the column of its padding."""
    table = np.random.default_rng(1).integers(0, 4, (9, 12))
    ranking = top_k(torch.from_numpy(table)[:, 1:], 5)
    expected = np.argsort(-table[:, 1:], axis=1, kind="stable")[:, :5]
    assert np.array_equal(ranking.items, expected)


def test_batches_come_to_the_host_as_one() -> None:
    table = torch.randn(10, 30, generator=torch.Generator().manual_seed(0))
    whole = top_k(table, 4)
    together = to_host([best(part, 4) for part in table.split(3)], 4)
    apart = joined([top_k(part, 4) for part in table.split(3)], 4)
    for other in (together, apart):
        assert np.array_equal(other.items, whole.items)
        assert np.array_equal(other.scores, whole.scores)
    for nobody in (to_host([], 4), joined([], 4)):
        assert nobody.items.shape == nobody.scores.shape == (0, 4)
        assert nobody.items.dtype == np.int32 and nobody.scores.dtype == np.float32


def test_seen_pairs_are_what_the_users_consumed_before() -> None:
    rng = np.random.default_rng(0)
    split = make_split([rng.integers(0, 20, n).tolist() for n in (5, 3, 9, 4)], n_items=20)
    users = np.array([2, 0, 1, 2])
    for phase in ("valid", "test"):
        rows, items = seen_pairs(split, users, phase)  # type: ignore[arg-type]
        for row, user in enumerate(users):
            assert items[rows == row].tolist() == split.seen(int(user), phase).tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_table_of_scores_stays_within_bounds(device: str) -> None:
    most = MAX_SCORES.get(device, MAX_SCORES_ELSEWHERE)
    for n_items in (1, 50, 1_682, 12_101, 1_000_000):
        users = users_at_once(n_items, 1024, torch.device(device))
        assert users == min(1024, most // n_items) or (users == 1 and n_items > most)
    assert users_at_once(10**9, 1024, torch.device(device)) == 1
    assert users_at_once(10, 7, torch.device(device)) == 7


class Table:
    """A model that gives each user's scores from a table, by RecBole's ids."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.widths: list[int] = []

    def eval(self) -> None:
        pass

    def full_sort_predict(self, rows: Any) -> Tensor:
        assert "item_id" not in rows  # the answer is not told
        self.widths.append(len(rows))
        return self.table[rows["user_id"]].flatten()


class World(NamedTuple):
    split: Split
    model: Table
    scorer: Scorer


def world(most_users: int = 16, device: str = "cpu") -> World:
    """Users' scores of whole numbers, full of ties."""
    split, generator = planted().split, torch.Generator().manual_seed(3)
    table = torch.randint(0, 9, (N_USERS + 1, N_ITEMS + 1), generator=generator).float()
    model = Table(table.to(device))
    reader = RowReader(split, torch.device(device), histories=True)
    return World(split, model, Scorer(model, reader, most_users))


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_the_scorers_lists_are_sorted_tables(exclude_seen: bool) -> None:
    split, model, scorer = world()
    users = np.array([40, 3, 59, 0, 3, 17, 21, 8, 30, 1, 2, 4, 5, 6, 7, 9, 10, 11])
    for phase in PHASES:
        ranking = scorer.rank(users, N_ITEMS + 1, phase, exclude_seen)
        for user, items, values in zip(users, ranking.items, ranking.scores, strict=True):
            scores = model.table[int(user) + 1, 1:].numpy().copy()
            if exclude_seen:
                scores[split.seen(int(user), phase)] = -np.inf
            order = np.argsort(-scores, kind="stable")
            order = order[np.isfinite(scores[order])]
            assert items.tolist() == [*order, *[-1] * (N_ITEMS + 1 - len(order))]
            assert values[: len(order)].tolist() == scores[order].tolist()


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_figures_are_those_of_the_lists_when_scores_are_level(exclude_seen: bool) -> None:
    split, _, scorer = world()
    for phase in PHASES:
        lists = scorer.rank(np.arange(N_USERS), 10, phase, exclude_seen).items
        ranks = target_ranks(lists, split.targets(phase))
        expected = {n: METRICS[n].per_user(ranks, 10).mean() for n in ("ndcg", "recall")}
        found = scorer.validate(exclude_seen, phase)
        assert found == pytest.approx({f"{n}@10": mean for n, mean in expected.items()})
        assert len(np.unique(ranks)) > 5


def test_an_answer_that_is_left_out_is_no_hit_even_with_few_left() -> None:
    """One user has seen all five items, the answer among them; the other has not."""
    split = make_split([[0, 1, 2, 3, 4, 2], [0, 0, 0, 0, 1, 2]], n_items=5)
    reader = RowReader(split, torch.device("cpu"), histories=False)
    scorer = Scorer(Table(torch.ones(3, 6)), reader, 8)
    assert scorer.rank(np.arange(2), 3, "test", True).items.tolist() == [[-1] * 3, [2, 3, 4]]
    assert scorer.validate(True, "test") == {"ndcg@10": 0.5, "recall@10": 0.5}


def test_users_are_scored_in_batches_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model, scorer = world(most_users=7)
    whole = scorer.rank(np.arange(N_USERS), 5, "test", True)
    assert model.widths == [7] * 8 + [4]
    monkeypatch.setitem(MAX_SCORES, "cpu", 3 * (N_ITEMS + 1))
    _, model, scorer = world(most_users=7)
    assert np.array_equal(scorer.rank(np.arange(N_USERS), 5, "test", True).items, whole.items)
    assert model.widths == [3] * 20


def test_a_score_that_is_no_number_is_no_hit() -> None:
    _, model, scorer = world()
    model.table[:] = torch.nan
    assert scorer.validate(True) == {"ndcg@10": 0.0, "recall@10": 0.0}


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_the_device_is_waited_for_once(exclude_seen: bool, tmp_path: Path) -> None:
    """Rows are drawn, scored, listed and validated without reading a number before the end.

    On torch's ``meta`` device, which has no numbers, to read one is an error, and so is an
    operation whose result's shape depends on one, or that mixes devices.
    """
    split, _, scorer = world(most_users=7, device="meta")
    lists = scorer.lists(np.arange(N_USERS), 4, "test", exclude_seen)
    assert [tuple(part.shape) for part in lists] == [(2, 7, 4)] * 8 + [(2, 4, 4)]
    assert scorer.figures(exclude_seen, "valid").shape == (2,)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        scorer.validate(exclude_seen)
    method = fitted(SasRecCE, planted(), tmp_path, epochs=1)
    real = Scorer(model_of(method).to("meta"), scorer.reader, 7)
    assert len(real.lists(np.arange(N_USERS), 4, "test", exclude_seen)) == len(lists)
    pairs = torch.tensor([[0, 0], [0, 1]])
    negatives = Negatives(pairs[0], pairs[1], N_USERS, N_ITEMS).to(torch.device("meta"))
    batches = list(TrainRows(scorer.reader, split.train_positions, 64, 0, None, negatives))
    tensors = [tensor for batch in batches for tensor in batch.interaction.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"} and len(tensors) > 5
