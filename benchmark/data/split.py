"""Leave-one-out splits.

A split is the users' sequences laid end to end. A *position* is an index into that array; it
names a row of any phase at once: its target is ``items[position]`` and its history is what the
same user did just before. Every method therefore trains and is tested on the same rows, and the
whole split is two arrays that fit on any device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Phase = Literal["valid", "test"]

MIN_INTERACTIONS = 3  # one each for train, valid and test


@dataclass(frozen=True, eq=False)
class Split:
    """Leave-one-out split of user sequences: last item test, last but one valid, rest train.

    Attributes:
        items: int32 [n_interactions], item ids, user by user, each in time order.
        offsets: int64 [n_users + 1]; user u owns ``items[offsets[u]:offsets[u + 1]]``,
            at least three items.
        n_items: size of the catalogue; ids are 0 .. n_items - 1.
        max_history: histories keep their last ``max_history`` items.
        train_prefixes: train on each user's last ``train_prefixes`` prefixes only; None: on all.
    """

    items: NDArray[np.int32]
    offsets: NDArray[np.int64]
    n_items: int
    max_history: int = 50
    train_prefixes: int | None = None

    def __post_init__(self) -> None:
        if self.offsets.ndim != 1 or len(self.offsets) < 2 or self.offsets[0] != 0:
            raise ValueError("offsets must be [n_users + 1] and start at 0")
        if self.offsets[-1] != len(self.items):
            raise ValueError("offsets must end at the number of interactions")
        if np.diff(self.offsets).min() < MIN_INTERACTIONS:
            raise ValueError(f"every user needs at least {MIN_INTERACTIONS} interactions")
        if self.items.min() < 0 or self.items.max() >= self.n_items:
            raise ValueError("item ids must lie in 0 .. n_items - 1")
        if self.max_history < 1 or (self.train_prefixes is not None and self.train_prefixes < 1):
            raise ValueError("max_history and train_prefixes must be at least 1")

    @property
    def n_users(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def user_of(self) -> NDArray[np.int64]:
        """int64 [n_interactions]: the user who owns each position."""
        return np.repeat(np.arange(self.n_users), np.diff(self.offsets))

    @cached_property
    def is_repeat(self) -> NDArray[np.bool_]:
        """bool [n_interactions]: whether the user has had the item before that position."""
        pairs = self.user_of * self.n_items + self.items
        repeat = np.ones(len(pairs), dtype=bool)
        repeat[np.unique(pairs, return_index=True)[1]] = False  # the index of the first of each
        return repeat

    def positions(self, phase: Phase) -> NDArray[np.int64]:
        """int64 [n_users]: the position of each user's held-out item, in user order."""
        return self.offsets[1:] - (1 if phase == "test" else 2)

    def targets(self, phase: Phase) -> NDArray[np.int32]:
        """int32 [n_users]: each user's held-out item, in user order."""
        return self.items[self.positions(phase)]

    @cached_property
    def train_positions(self) -> NDArray[np.int64]:
        """int64 [n_train_rows]: one position per training row, in user and time order.

        A training row is one prefix of the user's training items with at least one history item;
        with ``train_prefixes`` only each user's last ones count. A user of three interactions has
        a single training item and so no row.
        """
        position = np.arange(len(self.items))
        start, end = self.offsets[:-1][self.user_of], self.offsets[1:][self.user_of] - 2
        keep = (position > start) & (position < end)
        if self.train_prefixes is not None:
            keep &= position >= end - self.train_prefixes
        return position[keep]

    def history_starts(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64, as ``positions``: where each row's history begins.

        The history of the row at ``p`` is ``items[history_starts(p):p]``, oldest first, at most
        ``max_history`` items; that of a test row includes the valid item.
        """
        return np.maximum(self.offsets[self.user_of[positions]], positions - self.max_history)

    def histories(
        self, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Padded histories of the rows at ``positions``.

        Returns:
            items: int32 [n, longest history among the rows], left-aligned, oldest first,
                padded with -1.
            lengths: int64 [n], each at least 1 for rows of any phase.
        """
        starts = self.history_starts(positions)
        lengths = positions - starts
        column = np.arange(int(lengths.max(initial=0)))
        inside = column[None, :] < lengths[:, None]
        index = np.where(inside, starts[:, None] + column[None, :], 0)
        return np.where(inside, self.items[index], np.int32(-1)).astype(np.int32), lengths

    def seen(self, user: int, phase: Phase) -> NDArray[np.int32]:
        """Every item the user has consumed before the phase's target (not cut to max_history)."""
        end = self.offsets[user + 1] - (1 if phase == "test" else 2)
        return self.items[self.offsets[user] : end]

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that decides the rows; results are compared only where it agrees."""
        digest = hashlib.sha256()
        head = f"leave-one-out v1 {self.n_items} {self.max_history} {self.train_prefixes}"
        digest.update(head.encode())
        digest.update(np.ascontiguousarray(self.offsets, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(self.items, dtype="<i4").tobytes())
        return digest.hexdigest()
