"""Pop against lists worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from baselines import pop
from baselines.pop import Pop
from benchmark.data.split import Split
from benchmark.recommender import BenchmarkData, Recommender
from benchmark.store import RunFolder

# Training items (all but each user's last two): 4 4 2 | 4 2 1 | 1. Item 4 three times, 1 and 2
# twice, the others never. The last two count nowhere: 0 stands there three times.
SEQUENCES = [[4, 4, 2, 0, 3], [4, 2, 1, 0, 5], [1, 0, 2]]
USERS = np.arange(3)


@pytest.fixture
def data() -> BenchmarkData:
    lengths = [len(sequence) for sequence in SEQUENCES]
    offsets = np.cumsum([0, *lengths])
    items = np.concatenate(SEQUENCES).astype(np.int32)
    return BenchmarkData("planted", Split(items, offsets, n_items=6))


@pytest.fixture
def fitted(data: BenchmarkData, tmp_path: Path) -> Pop:
    method = Pop()
    method.fit(data, 0, RunFolder(tmp_path, tmp_path, "cpu"))
    return method


def test_ranks_by_training_count_with_ties_by_lower_id(data: BenchmarkData, fitted: Pop) -> None:
    ranking = fitted.rank(data, USERS, 5, "test", exclude_seen=False)
    assert ranking.items.tolist() == [[4, 1, 2, 0, 3]] * 3
    assert ranking.scores.tolist() == [[3, 2, 2, 0, 0]] * 3
    assert ranking.items.dtype == np.int32
    assert ranking.scores.dtype == np.float32


def test_leaves_out_what_the_phase_has_seen(data: BenchmarkData, fitted: Pop) -> None:
    valid = fitted.rank(data, USERS, 3, "valid", exclude_seen=True)
    assert valid.items.tolist() == [[1, 0, 3], [0, 3, 5], [4, 2, 0]]
    test = fitted.rank(data, USERS, 3, "test", exclude_seen=True)
    assert test.items.tolist() == [[1, 3, 5], [3, 5, -1], [4, 2, 3]]
    assert test.scores[1].tolist() == [0, 0, -np.inf]


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_batches_of_users_change_nothing(
    data: BenchmarkData, fitted: Pop, exclude_seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = np.array([2, 0, 1, 0])
    whole = fitted.rank(data, users, 4, "test", exclude_seen)
    monkeypatch.setattr(pop, "USERS_AT_ONCE", 3)
    assert np.array_equal(fitted.rank(data, users, 4, "test", exclude_seen).items, whole.items)
    assert np.array_equal(whole.items[1], whole.items[3])


def test_a_list_longer_than_the_catalogue_ends_in_gaps(data: BenchmarkData, fitted: Pop) -> None:
    items = fitted.rank(data, USERS, 8, "test", exclude_seen=False).items
    assert items[0].tolist() == [4, 1, 2, 0, 3, 5, -1, -1]


def test_no_users_give_no_lists(data: BenchmarkData, fitted: Pop) -> None:
    assert fitted.rank(data, USERS[:0], 4, "test", True).items.shape == (0, 4)


def test_has_the_interface(data: BenchmarkData) -> None:
    method = Pop()
    assert isinstance(method, Recommender)
    assert not method.excludes_seen
    with pytest.raises(RuntimeError, match="fit"):
        method.rank(data, USERS, 4, "test", True)
