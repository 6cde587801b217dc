"""How often items that belong together share codes, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.data.split import Split
from benchmark.likeness import (
    following_pairs,
    likeness,
    likeness_table,
    nearest_pairs,
    shared_prefixes,
)

CODES = np.array([[0, 1], [0, 1], [0, 2], [3, 2]], dtype=np.int32)


def test_a_prefix_is_shared_from_the_first_code_on() -> None:
    pairs = np.array([[0, 1], [0, 2], [2, 3], [3, 0]])
    # Same first code: the first two. Same first two: the first; that 2 and 3 share only their
    # second code does not count.
    assert shared_prefixes(CODES, pairs) == [2 / 4, 1 / 4]


def test_without_pairs_nothing_is_known() -> None:
    assert np.isnan(shared_prefixes(CODES, np.empty((0, 2), dtype=np.int64))).all()


def test_nearest_is_by_angle_and_never_the_item_itself() -> None:
    angles = np.array([0.0, 0.1, 0.3, 3.0])
    content = np.stack([np.cos(angles), np.sin(angles)], 1) * np.array([[1], [9], [1], [1]])
    pairs = nearest_pairs(content.astype(np.float32))
    assert len(pairs) == 4 * 3  # all others, since there are fewer than ten
    assert (pairs[:, 0] != pairs[:, 1]).all()


def test_the_ten_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    content = rng.normal(size=(700, 5)).astype(np.float32)
    unit = content / np.linalg.norm(content, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    wanted = {(i, int(j)) for i in range(700) for j in np.argsort(-cosine[i])[:10]}
    assert set(map(tuple, nearest_pairs(content).tolist())) == wanted
    monkeypatch.setattr("benchmark.likeness.SAMPLE", 30)
    some = set(map(tuple, nearest_pairs(content).tolist()))
    assert len(some) == 300
    assert some < wanted


def test_items_without_a_vector_have_no_angle() -> None:
    assert len(nearest_pairs(np.zeros((12, 3), dtype=np.float32))) == 120


def test_following_is_of_training_alone() -> None:
    items = np.array([5, 1, 2, 3, 4, 0, 1, 2], dtype=np.int32)
    split = Split(items, np.array([0, 5, 8]), 6)
    # Of the first user 3 and 4 are held out, of the second 1 and 2, whose 0 has nothing before it.
    assert following_pairs(split).tolist() == [[5, 1], [1, 2]]


def test_chance_is_what_frequency_brings() -> None:
    """Two groups that users never leave: all follow within, half of the random pairs do."""
    rng = np.random.default_rng(0)
    users = [rng.integers(0, 10, 22) + 10 * (u % 2) for u in range(200)]
    split = Split(np.concatenate(users).astype(np.int32), np.arange(201) * 22, 20)
    codes = np.stack([np.arange(20) // 10, np.arange(20) % 10], 1).astype(np.int32)
    found = likeness({"argmin": codes}, rng.normal(size=(20, 4)).astype(np.float32), split)
    assert found["argmin"]["following"][0] == 1
    assert found["argmin"]["random"][0] == pytest.approx(0.5, abs=0.05)
    (row,) = (line for line in likeness_table(found) if line.split()[:2] == ["argmin", "1"])
    assert row.split()[3] == "1.0000"
