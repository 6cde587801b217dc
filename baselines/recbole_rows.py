"""Rows for RecBole's models, made on the device.

RecBole's own loaders take rows out of tables one index at a time, on the host, and sample negatives
in Python. These hold the split on the device, in two vectors, and cut a batch out of it with a few
operations. Which rows there are, how many to a batch, and what a negative is stays the same.

RecBole's ids are ours plus one: its 0 is padding.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.split import Phase, Split
from diger.checks import SettingError

USER, ITEM, NEGATIVE = "user_id", "item_id", "neg_item_id"
HISTORY, LENGTH = "item_id_list", "item_length"
#: Draws lie below this, so that the remainder by a number of items favours none that matters.
DRAWS = 1 << 62


def interaction(columns: dict[str, Tensor]) -> Any:
    """RecBole's name for a batch of rows."""
    return importlib.import_module("recbole.data.interaction").Interaction(columns)


class RowReader:
    """Reads rows of a split, named by position, as a RecBole model wants them.

    Attributes:
        items: int32 [n_interactions], our ids.
        offsets: int64 [n_users], where each user's interactions begin.
    """

    def __init__(self, split: Split, device: torch.device, histories: bool) -> None:
        """
        Args:
            histories: whether the model reads what came before (a sequential model) or the user
                only.
        """
        self.split, self.device, self.histories = split, device, histories
        self.items = torch.tensor(split.items, device=device)
        self.offsets = torch.tensor(split.offsets[:-1], device=device)
        self._user_of = torch.tensor(split.user_of, dtype=torch.int32, device=device)
        self._column = torch.arange(split.max_history, device=device)
        self._held_out = {
            phase: torch.tensor(split.positions(phase), device=device)
            for phase in ("valid", "test")
        }

    def held_out(self, phase: Phase) -> Tensor:
        """int64 [n_users]: the position of each user's held-out item."""
        return self._held_out[phase]

    def inputs(self, positions: Tensor) -> dict[str, Tensor]:
        """What the model reads of the rows at ``positions`` [B], never their targets.

        Returns:
            By RecBole's names, in its ids: the users, int64 [B]; with ``histories``, also the
            histories, int64 [B, max_history], oldest first and padded with 0, and their lengths,
            int64 [B].
        """
        users = self._user_of[positions].long()
        columns = {USER: users + 1}
        if self.histories:
            starts = torch.maximum(self.offsets[users], positions - len(self._column))
            index = starts[:, None] + self._column
            inside = index < positions[:, None]
            items = self.items[torch.where(inside, index, 0)] + 1
            columns[HISTORY] = torch.where(inside, items, 0).long()
            columns[LENGTH] = positions - starts
        return columns

    def batch(self, positions: Tensor) -> dict[str, Tensor]:
        """The same with the targets, int64 [B]."""
        return {**self.inputs(positions), ITEM: self.items[positions].long() + 1}


class TrainRows:
    """RecBole's loader of training batches: all rows, in a new order every epoch.

    The order comes from a generator of its own, on the CPU and seeded with ``seed``, as RecBole's
    does. The last batch of an epoch may be short. Each epoch draws each row a new negative.
    """

    def __init__(
        self,
        reader: RowReader,
        positions: NDArray[np.int64],
        batch_size: int,
        seed: int,
        dataset: Any,
        negatives: Negatives | None = None,
    ) -> None:
        """
        Args:
            positions: int64 [n_rows], the training rows.
            dataset: what ``_dataset`` of a RecBole loader is.
            negatives: draws one item for each row that its user has not consumed; None: the model
                needs none.
        """
        self.generator = torch.Generator().manual_seed(seed)
        self._dataset = dataset
        self._reader, self._batch_size, self._negatives = reader, batch_size, negatives
        self._positions = torch.tensor(positions, device=reader.device)
        self._users = torch.tensor(reader.split.user_of[positions], device=reader.device)

    def __len__(self) -> int:
        return math.ceil(len(self._positions) / self._batch_size)

    def __iter__(self) -> Iterator[Any]:
        order = torch.randperm(len(self._positions), generator=self.generator)
        # Negatives of all rows at once, user by user: bisection then stays in one place.
        drawn = self._negatives.sample(self._users) if self._negatives is not None else None
        for rows in order.to(self._reader.device).split(self._batch_size):
            columns = self._reader.batch(self._positions[rows])
            if drawn is not None:
                columns[NEGATIVE] = drawn[rows] + 1
            yield interaction(columns)


class Negatives:
    """Uniform draws from what users have not consumed, for any number of rows at once.

    The n-th item that a user has not consumed is found by bisection, so that no draw is ever
    rejected and the device is never waited for. RecBole's own sampler for general models draws
    from the same items, and rejects in Python; that for sequential models rules out the row's
    target only.
    """

    def __init__(self, users: Tensor, items: Tensor, n_users: int, n_items: int) -> None:
        """Note what may not be drawn.

        Args:
            users, items: int64 [n_pairs], who consumed what; a pair may be there twice.

        Raises:
            SettingError: a user has consumed everything, so that there is nothing to draw.
        """
        pairs = torch.unique(users * n_items + items)  # sorted
        owner, item = pairs // n_items, pairs % n_items
        consumed = torch.bincount(owner, minlength=n_users)
        if bool((consumed == n_items).any()):
            raise SettingError(
                f"user {int(consumed.argmax())} has consumed the whole catalogue, so that no "
                "negative can be sampled: leave such users out of the data set"
            )
        self._n_items, self._free = n_items, n_items - consumed
        self._first = consumed.cumsum(0) - consumed
        # How many free items a user has below each consumed one; non-decreasing for each user.
        below = item - (torch.arange(len(pairs), device=pairs.device) - self._first[owner])
        self._below = owner * n_items + below

    @classmethod
    def of_rows(cls, split: Split, positions: NDArray[np.int64], histories: bool) -> Negatives:
        """Rule out what a user's rows at ``positions`` hold: targets and, if read, histories."""
        starts = split.history_starts(positions) if histories else positions
        n = len(split.items) + 1
        change = np.bincount(starts, minlength=n) - np.bincount(positions + 1, minlength=n)
        held = np.cumsum(change)[:-1] > 0
        users = torch.tensor(split.user_of[held])
        items = torch.tensor(split.items[held], dtype=torch.int64)
        return cls(users, items, split.n_users, split.n_items)

    def to(self, device: torch.device) -> Negatives:
        """Move it there (in place, as modules do)."""
        self._free, self._first = self._free.to(device), self._first.to(device)
        self._below = self._below.to(device)
        return self

    def sample(self, users: Tensor) -> Tensor:
        """int64 [B]: one item for each of ``users`` [B], from torch's generator."""
        drawn = torch.randint(DRAWS, users.shape, device=users.device) % self._free[users]
        keys = users * self._n_items + drawn
        return drawn + torch.searchsorted(self._below, keys, right=True) - self._first[users]
