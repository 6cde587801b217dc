"""Training and test rows of user sequences, on the device.

The interface of the data is structural: anything with the attributes of ``SequenceData`` will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diger.generator import Batch

Phase = Literal["valid", "test"]
COUNTED_TOKENS = 1 << 24  # at a time, a bound on memory


class SequenceData(Protocol):
    """Leave-one-out rows over item ids 0 .. n_items - 1; a row is named by its position."""

    @property
    def n_items(self) -> int: ...
    @property
    def n_users(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def items(self) -> NDArray[np.int32]: ...
    @property
    def offsets(self) -> NDArray[np.int64]: ...
    @property
    def train_positions(self) -> NDArray[np.int64]: ...
    def positions(self, phase: Phase) -> NDArray[np.int64]: ...
    def targets(self, phase: Phase) -> NDArray[np.int32]: ...
    def history_starts(self, positions: NDArray[np.int64]) -> NDArray[np.int64]: ...


class Rows(NamedTuple):
    """A batch by its rows. positions: int64 [B], on the device. width: items of the longest of
    their histories. distinct: how many items they hold, targets included; 0 if nobody counted."""

    positions: Tensor
    width: int
    distinct: int = 0


class RowReader:
    """Reads histories and targets of rows from one tensor on the device."""

    def __init__(self, data: SequenceData, device: str) -> None:
        self.data, self.device = data, device
        self.items = torch.as_tensor(data.items.astype(np.int64), device=device)
        everywhere = np.arange(len(data.items), dtype=np.int64)
        self.starts = torch.as_tensor(data.history_starts(everywhere), device=device)
        self.train_positions = torch.as_tensor(data.train_positions, device=device)

    def on_device(self, positions: NDArray[np.int64] | Tensor) -> Tensor:
        return torch.as_tensor(positions, device=self.device)

    def lengths(self, positions: Tensor) -> Tensor:
        """int64, as ``positions``: items in each row's history."""
        return positions - self.starts[positions]

    def histories(self, positions: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """item ids int64 [B, width] (0 where padded), left-aligned, oldest first, and mask."""
        starts = self.starts[positions]
        column = torch.arange(width, device=self.device)
        mask = column < (positions - starts)[:, None]
        return self.items[torch.where(mask, starts[:, None] + column, 0)] * mask, mask

    def batch(
        self,
        positions: NDArray[np.int64] | Tensor,
        sids_NxL: Tensor,
        width: int | None = None,
        capacity: int | None = None,
        apart: bool = False,
        unit: int = 1,
    ) -> tuple[Batch, Tensor]:
        """The rows as indices into their distinct items, and those items' ids, int64 [n].

        Args:
            width: columns of the histories, at least the longest; None: that.
            capacity: make n this number, whatever the rows are, with items that stand for nothing
                (``Batch.present`` says which): shapes are then known before the rows are, and
                nothing waits for the device. At least the number of distinct items, and from
                n_items on it is the whole catalogue. None: the items that there are, sorted.
            apart: look for no items that are there twice: every place of the batch stands for
                itself, n = B (T + 1). Where nothing is tokenised, that is cheaper.
            unit: without a capacity, make n a multiple of this in the same way.
        """
        positions = self.on_device(positions)
        width = int(self.lengths(positions).max()) if width is None else width
        history, mask = self.histories(positions, width)
        target = self.items[positions]
        # Padding points at the row's own target, so that it adds no item to the batch.
        history = torch.where(mask, history, target[:, None])
        tokens = torch.cat([history.flatten(), target])
        present, there = None, None
        if apart:
            distinct, index = tokens, torch.arange(len(tokens), device=self.device)
        elif capacity is None:
            distinct, index = tokens.unique(return_inverse=True)
            if unit > 1:
                there, filling = len(distinct), distinct.new_zeros(-len(distinct) % unit)
                distinct = torch.cat([distinct, filling])
                present = torch.arange(len(distinct), device=self.device) < there
        else:
            distinct, index, present = distinct_items(tokens, len(sids_NxL), capacity)
        rows = index[: history.numel()].view_as(history)
        target = index[history.numel() :]
        batch = Batch(rows, mask, target, sids_NxL[distinct], present, there)
        return batch, distinct

    def epoch(
        self, batch_size: int, seed: int, window: int = 1, count: bool = False
    ) -> Iterator[Rows]:
        """All training rows in batches, in an order that only ``seed`` decides, not the device.

        The device is waited for once, before the first batch.

        Args:
            window: batches that are drawn together and then share their rows out by length of
                history, so that little of a batch is padding; 1: batches as they are drawn.
            count: count the distinct items of each batch.
        """
        n = len(self.train_positions)
        order = permutation(n, seed, self.device)
        if window > 1:
            piece = torch.arange(n, device=self.device) // (window * batch_size)
            lengths = self.lengths(self.train_positions[order])
            width = int(lengths.max()) + 1
            order = order[(piece * width + lengths).argsort(stable=True)]
        positions = self.train_positions[order]
        widths = _by_batch(self.lengths(positions), batch_size).amax(1).tolist()
        distinct = (
            self._distinct(positions, batch_size, max(widths)) if count else [0] * len(widths)
        )
        batches = list(range(len(widths)))
        if window > 1:
            # Long rows would otherwise come last in each window, and the short batch at the end.
            batches = permutation(len(widths), seed, "cpu").tolist()
        for i in batches:
            rows = positions[i * batch_size : (i + 1) * batch_size]
            yield Rows(rows, int(widths[i]), int(distinct[i]))

    def _distinct(self, positions: Tensor, batch_size: int, width: int) -> list[int]:
        """Distinct items of each batch, some batches at a time."""
        counts: list[int] = []
        share = max(1, COUNTED_TOKENS // (batch_size * (width + 1))) * batch_size
        for some in positions.split(share):
            history, mask = self.histories(some, width)
            target = self.items[some][:, None]
            tokens = torch.cat([torch.where(mask, history, target), target], 1)
            number = torch.arange(len(some), device=self.device)[:, None] // batch_size
            held = (number * self.data.n_items + tokens).unique() // self.data.n_items
            counts += torch.bincount(held).tolist()
        return counts

    def seen(self, users: NDArray[np.int64], phase: Phase) -> Tensor:
        """int64 [B, S]: each user's distinct seen items, rising, -1 where a row is shorter."""
        starts, ends = self.data.offsets[:-1][users], self.data.positions(phase)[users]
        width = int((ends - starts).max(initial=0))
        column = torch.arange(width, device=self.device)
        start, end = self.on_device(starts)[:, None], self.on_device(ends)[:, None]
        last = len(self.items) - 1
        items = self.items[(start + column).clamp_max(last)]
        items = torch.where(start + column < end, items, self.data.n_items).sort(1).values
        again = torch.zeros_like(items, dtype=torch.bool)
        again[:, 1:] = items[:, 1:] == items[:, :-1]
        return torch.where(again | (items == self.data.n_items), -1, items)


def distinct_items(tokens: Tensor, n_items: int, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct ids among ``tokens`` int64 [n], rising, in shapes that do not depend on them.

    Returns:
        ids: int64 [capacity], filled up with item 0; 0 .. n_items - 1 if the capacity is that much.
        index: int64 [n], where each token's id is. present: bool [capacity], which are not filling.
    """
    marked = torch.zeros(n_items, dtype=torch.int64, device=tokens.device)
    marked.scatter_(0, tokens, 1)
    every = torch.arange(n_items, device=tokens.device)
    if capacity >= n_items:
        return every, tokens, marked.bool()
    rank = marked.cumsum(0)
    ids = tokens.new_zeros(capacity + 1)  # the last one takes all that are not there
    ids.scatter_(0, torch.where(marked.bool(), rank - 1, capacity), every)
    present = torch.arange(capacity, device=tokens.device) < rank[-1]
    return ids[:-1] * present, rank[tokens] - 1, present


def permutation(n: int, seed: int, device: str | torch.device) -> Tensor:
    """int64 [n]: a random order of 0 .. n - 1, the same on every device.

    Sorts by a hash of (seed, number) in whole numbers: the mixing function of SplitMix64 (Steele,
    Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
    """
    z = torch.arange(n, dtype=torch.int64, device=device)
    for salt in (seed, seed >> 32):
        z = _mix(z + _signed((salt + 1) * 0x9E3779B97F4A7C15))
    return z.argsort(stable=True)


def _mix(z: Tensor) -> Tensor:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ _shifted(z, shift)) * _signed(factor)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, by: int) -> Tensor:
    """z >> by of the 64 bits as they are: torch's own drags the sign in."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    """The int64 with the lower 64 bits of ``value``."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _by_batch(values: Tensor, batch_size: int) -> Tensor:
    """[batches, batch_size], the last one filled up with zeros."""
    missing = -len(values) % batch_size
    return torch.cat([values, values.new_zeros(missing)]).view(-1, batch_size)
