"""Synthetic splits, semantic IDs and content of any size."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.speed.synthetic import synthetic_content, synthetic_sids, synthetic_split
from diger.semantic_ids import number_sharers


def test_split_has_the_lengths_that_were_asked_for() -> None:
    split = synthetic_split(50_000, 1000, mean_history=8, max_history=5, seed=1)
    lengths = np.diff(split.offsets)
    assert (split.n_users, split.n_items, split.max_history) == (50_000, 1000, 5)
    assert lengths.min() == 3
    assert lengths.mean() == pytest.approx(8, abs=0.1)
    # Geometric from 3 on: the variance is (1 - p) / p^2 with 1 / p = 8 - 2.
    assert lengths.var() == pytest.approx((1 - 1 / 6) * 36, rel=0.05)
    starts = split.history_starts(split.train_positions)
    assert (split.train_positions - starts).max() == 5


def test_popularity_falls_with_rank_and_ids_say_nothing_of_it() -> None:
    split = synthetic_split(50_000, 1000, seed=1)
    counts = np.bincount(split.items, minlength=1000)
    weights = (np.arange(1000) + 10) ** -0.8
    expected = len(split.items) * weights / weights.sum()
    assert np.abs(np.sort(counts)[::-1] / expected - 1).max() < 0.15
    assert counts.min() > 0
    assert abs(np.corrcoef(np.arange(1000), counts)[0, 1]) < 0.1


def test_seed_decides_everything() -> None:
    first, again, other = (synthetic_split(500, 50, seed=seed).sha256 for seed in (1, 1, 2))
    assert first == again != other
    sids = [synthetic_sids(500, 2, 8, seed) for seed in (1, 1, 2)]
    assert (sids[0] == sids[1]).all() and (sids[0] != sids[2]).any()
    content = [synthetic_content(5, 3, seed) for seed in (1, 1, 2)]
    assert (content[0] == content[1]).all() and (content[0] != content[2]).all()


# The last two leave no ID over, so that most items that collide must find another place.
@pytest.mark.parametrize(
    ("items", "levels", "size"), [(5000, 3, 256), (3000, 3, 8), (8, 2, 2), (4096, 3, 8)]
)
def test_sids_are_distinct_and_within_the_codebook(items: int, levels: int, size: int) -> None:
    sids = synthetic_sids(items, levels, size, seed=3)
    assert sids.shape == (items, levels + 1)
    assert sids.dtype == np.int32
    assert (sids >= 0).all() and (sids < size).all()
    assert len(np.unique(sids, axis=0)) == items
    assert (sids == number_sharers(sids[:, :-1])).all()


def test_codes_are_used_evenly() -> None:
    sids = synthetic_sids(20_000, 3, 16)
    for level in range(3):
        counts = np.bincount(sids[:, level], minlength=16)
        assert np.abs(counts / (20_000 / 16) - 1).max() < 0.15


def test_content_is_unit_vectors_across_blocks() -> None:
    content = synthetic_content(70_000, 6)
    assert content.dtype == np.float32
    assert np.linalg.norm(content, axis=1) == pytest.approx(1, abs=1e-5)
    assert len(np.unique(content[:, 0])) > 69_000  # one block is not the copy of another
    assert np.abs(content.mean(0)).max() < 0.01


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"users": 0, "items": 5}, "users"),
        ({"users": 5, "items": 0}, "items"),
        ({"users": 5, "items": 5, "max_history": 0}, "max_history"),
        ({"users": 5, "items": 5, "mean_history": 3}, "mean_history"),
        ({"users": 5, "items": 5, "mean_history": float("inf")}, "mean_history"),
        ({"users": 2, "items": 5, "mean_history": 3.001}, "training row"),
    ],
)
def test_impossible_splits_are_refused(arguments: dict[str, float], word: str) -> None:
    with pytest.raises(UserError, match=word):
        synthetic_split(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("items", "levels", "size", "word"),
    [
        (0, 3, 8, "items"),
        (5, 0, 8, "levels"),
        (5, 3, 1, "codebook_size"),
        (9, 2, 2, "too few for 9 items"),
        (9, 8, 256, "8 levels"),
    ],
)
def test_impossible_sids_are_refused(items: int, levels: int, size: int, word: str) -> None:
    with pytest.raises(UserError, match=word):
        synthetic_sids(items, levels, size)


def test_impossible_content_is_refused() -> None:
    with pytest.raises(UserError, match="width must be at least 1, got 0"):
        synthetic_content(5, 0)
