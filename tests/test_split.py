"""The leave-one-out split: by hand, and as properties of any sequences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.split import Phase, Split
from tests.conftest import make_split

N_ITEMS = 9
PHASES: tuple[Phase, ...] = ("valid", "test")
sequences_of_users = st.lists(
    st.lists(st.integers(0, N_ITEMS - 1), min_size=3, max_size=12), min_size=1, max_size=6
)
histories_kept = st.integers(1, 14)
prefixes_kept = st.none() | st.integers(1, 14)


def rows(split: Split, positions: np.ndarray[Any, Any]) -> list[tuple[list[int], int]]:
    """(history, target) of each row."""
    items, lengths = split.histories(positions)
    return [
        (line[:length].tolist(), int(split.items[position]))
        for line, length, position in zip(items, lengths, positions, strict=True)
    ]


def test_rows_by_hand(tiny_split: Split) -> None:
    assert rows(tiny_split, tiny_split.train_positions) == [([0], 1), ([0, 1], 2), ([2], 2)]
    assert rows(tiny_split, tiny_split.positions("valid")) == [
        ([0, 1, 2], 3),
        ([5], 1),
        ([2, 2], 3),
    ]
    assert rows(tiny_split, tiny_split.positions("test")) == [
        ([0, 1, 2, 3], 4),
        ([5, 1], 0),
        ([2, 2, 3], 5),
    ]
    assert tiny_split.targets("valid").tolist() == [3, 1, 3]
    assert tiny_split.targets("test").tolist() == [4, 0, 5]
    assert tiny_split.n_users == 3


def test_padding_is_on_the_right(tiny_split: Split) -> None:
    items, lengths = tiny_split.histories(tiny_split.positions("test"))
    assert items.dtype == np.int32
    assert items.tolist() == [[0, 1, 2, 3], [5, 1, -1, -1], [2, 2, 3, -1]]
    assert lengths.tolist() == [4, 2, 3]
    assert tiny_split.histories(np.array([], dtype=np.int64))[0].shape == (0, 0)


def test_repeats_by_hand(tiny_split: Split) -> None:
    assert np.flatnonzero(tiny_split.is_repeat).tolist() == [9]  # the second 2 of user 2
    again = make_split([[3, 3, 3], [3, 4, 5, 4]], n_items=6)
    assert again.is_repeat.tolist() == [False, True, True, False, False, False, True]


def test_seen_is_not_cut(tiny_split: Split) -> None:
    short = replace(tiny_split, max_history=1)
    assert short.seen(0, "valid").tolist() == [0, 1, 2]
    assert short.seen(0, "test").tolist() == [0, 1, 2, 3]
    assert rows(short, short.positions("test"))[0] == ([3], 4)


@given(sequences_of_users, histories_kept, prefixes_kept)
def test_rows_are_those_of_a_plain_loop(
    sequences: list[list[int]], max_history: int, train_prefixes: int | None
) -> None:
    split = make_split(sequences, N_ITEMS, max_history, train_prefixes)
    train, valid, test = [], [], []
    for sequence in sequences:
        *training, valid_item, test_item = sequence
        prefixes = [(training[:n][-max_history:], training[n]) for n in range(1, len(training))]
        train += prefixes if train_prefixes is None else prefixes[-train_prefixes:]
        valid.append((training[-max_history:], valid_item))
        test.append(([*training, valid_item][-max_history:], test_item))
    assert rows(split, split.train_positions) == train
    assert rows(split, split.positions("valid")) == valid
    assert rows(split, split.positions("test")) == test


@given(sequences_of_users, histories_kept, prefixes_kept)
def test_no_held_out_position_leaks_into_training(
    sequences: list[list[int]], max_history: int, train_prefixes: int | None
) -> None:
    split = make_split(sequences, N_ITEMS, max_history, train_prefixes)
    held_out = np.concatenate([split.positions(phase) for phase in PHASES])
    train = split.train_positions
    starts = split.history_starts(train)
    used = {p for start, end in zip(starts, train, strict=True) for p in range(start, end + 1)}
    assert used.isdisjoint(held_out.tolist())
    # Nor does any history reach into another user, or the test item into a validation history.
    for phase in PHASES:
        positions = split.positions(phase)
        assert len(positions) == split.n_users == len(set(positions.tolist()))
        assert (split.user_of[split.history_starts(positions)] == np.arange(split.n_users)).all()
        assert (positions > split.history_starts(positions)).all()
    assert (split.user_of[starts] == split.user_of[train]).all()
    assert (split.positions("test") == split.positions("valid") + 1).all()


@given(sequences_of_users, histories_kept, prefixes_kept, st.randoms(use_true_random=False))
def test_permuting_users_changes_no_users_rows(
    sequences: list[list[int]], max_history: int, train_prefixes: int | None, random: Any
) -> None:
    order = list(range(len(sequences)))
    random.shuffle(order)
    first = make_split(sequences, N_ITEMS, max_history, train_prefixes)
    second = make_split([sequences[u] for u in order], N_ITEMS, max_history, train_prefixes)
    for place, user in enumerate(order):
        for phase in PHASES:
            one = rows(first, first.positions(phase)[[user]])
            assert one == rows(second, second.positions(phase)[[place]])
        ours = first.train_positions[first.user_of[first.train_positions] == user]
        theirs = second.train_positions[second.user_of[second.train_positions] == place]
        assert rows(first, ours) == rows(second, theirs)


@given(sequences_of_users, st.integers(1, 14))
def test_train_prefixes_keeps_the_last_of_each_user(
    sequences: list[list[int]], train_prefixes: int
) -> None:
    every = make_split(sequences, N_ITEMS)
    some = make_split(sequences, N_ITEMS, train_prefixes=train_prefixes)
    for user in range(every.n_users):
        all_rows = every.train_positions[every.user_of[every.train_positions] == user]
        kept = some.train_positions[some.user_of[some.train_positions] == user]
        assert kept.tolist() == all_rows.tolist()[-train_prefixes:]


def test_hash_changes_with_every_deciding_field(tiny_split: Split) -> None:
    swapped = tiny_split.items.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    variants = [
        tiny_split,
        replace(tiny_split, items=swapped),
        replace(tiny_split, offsets=np.array([0, 4, 8, 12])),
        replace(tiny_split, n_items=8),
        replace(tiny_split, max_history=49),
        replace(tiny_split, train_prefixes=1),
        replace(tiny_split, train_prefixes=50),
    ]
    assert len({variant.sha256 for variant in variants}) == len(variants)
    same = replace(tiny_split, items=tiny_split.items.astype(np.int64))
    assert same.sha256 == tiny_split.sha256  # the integers' width decides nothing


def test_hash_is_pinned(tiny_split: Split) -> None:
    # Stored results name it. It may change only together with the "v1" in Split.sha256, when the
    # meaning of a split changes, and then every stored result has to be run again.
    expected = "599089cea6cd8b1e58b51a745ddced6e31613063fa029c1c2ce32364836e93f3"
    assert tiny_split.sha256 == expected


@pytest.mark.parametrize(
    "change",
    [
        {"offsets": np.array([0])},
        {"offsets": np.array([1, 12])},
        {"offsets": np.array([0, 5, 11])},
        {"offsets": np.array([0, 5, 7, 12])},
        {"n_items": 5},
        {"items": np.full(12, -1, dtype=np.int32)},
        {"max_history": 0},
        {"train_prefixes": 0},
    ],
    ids=str,
)
def test_impossible_splits_are_refused(tiny_split: Split, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        replace(tiny_split, **change)


@settings(max_examples=20)
@given(st.integers(1, 200))
def test_longest_history_is_max_history(ml100k_split: Split, max_history: int) -> None:
    split = replace(ml100k_split, max_history=max_history)
    lengths = split.histories(split.positions("test"))[1]
    full = np.diff(split.offsets) - 1
    assert (lengths == np.minimum(full, max_history)).all()
