"""Training and test rows of user sequences, on the device.

The interface of the data is structural: anything with the attributes of ``SequenceData`` will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diger.generator import Batch

Phase = Literal["valid", "test"]


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
    def train_positions(self) -> NDArray[np.int64]: ...
    def positions(self, phase: Phase) -> NDArray[np.int64]: ...
    def targets(self, phase: Phase) -> NDArray[np.int32]: ...
    def history_starts(self, positions: NDArray[np.int64]) -> NDArray[np.int64]: ...
    def seen(self, user: int, phase: Phase) -> NDArray[np.int32]: ...


class RowReader:
    """Reads histories and targets of rows from one tensor on the device."""

    def __init__(self, data: SequenceData, device: str) -> None:
        self.data, self.device = data, device
        self.items = torch.as_tensor(data.items.astype(np.int64), device=device)

    def histories(self, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """item ids int64 [B, T] (0 where padded), left-aligned, oldest first, and mask [B, T]."""
        starts = torch.as_tensor(self.data.history_starts(positions), device=self.device)
        ends = torch.as_tensor(positions, device=self.device)
        lengths = ends - starts
        column = torch.arange(int(lengths.max()), device=self.device)
        mask = column < lengths[:, None]
        return self.items[torch.where(mask, starts[:, None] + column, 0)] * mask, mask

    def batch(self, positions: NDArray[np.int64], sids_NxL: Tensor) -> tuple[Batch, Tensor]:
        """The rows as indices into their distinct items, and those items' ids, int64 [n]."""
        history, mask = self.histories(positions)
        target = self.items[torch.as_tensor(positions, device=self.device)]
        # Padding points at the row's own target, so that it adds no item to the batch.
        history = torch.where(mask, history, target[:, None])
        distinct, index = torch.cat([history.flatten(), target]).unique(return_inverse=True)
        rows = index[: history.numel()].view_as(history)
        return Batch(rows, mask, index[history.numel() :], sids_NxL[distinct]), distinct

    def epoch(self, batch_size: int, seed: int, window: int = 1) -> Iterator[NDArray[np.int64]]:
        """Positions of all training rows in batches, in an order that only ``seed`` decides.

        Args:
            window: batches that are drawn together and then share their rows out by length of
                history, so that little of a batch is padding; 1: batches as they are drawn.
        """
        positions = self.data.train_positions
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(positions))
        if window > 1:
            lengths = positions - self.data.history_starts(positions)
            span = window * batch_size
            pieces = [order[start : start + span] for start in range(0, len(order), span)]
            order = np.concatenate([rows[np.argsort(lengths[rows], kind="stable")]
                                    for rows in pieces])  # fmt: skip
        starts = np.arange(0, len(order), batch_size)
        if window > 1:
            # Long rows would otherwise come last in each window, and the short batch at the end.
            starts = rng.permutation(starts)
        for start in starts:
            yield positions[order[start : start + batch_size]]

    def seen(self, users: NDArray[np.int64], phase: Phase) -> Tensor:
        """int64 [B, S]: each user's distinct seen items, -1 padded."""
        rows = [np.unique(self.data.seen(int(user), phase)) for user in users]
        width = max((len(row) for row in rows), default=0)
        out = np.full((len(rows), width), -1, dtype=np.int64)
        for line, row in zip(out, rows, strict=True):
            line[: len(row)] = row
        return torch.as_tensor(out, device=self.device)
