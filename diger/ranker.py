"""Lists for many users: batches on the device, one transfer at the end."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diger.decode import DecodeConfig, Trie, beam_search
from diger.generator import Generator
from diger.sequences import Phase, RowReader

#: Users a batch on a GPU, where a batch of the size that suits a CPU would wait for its launches.
GPU_BATCH = 2048
#: Scores of beams by code that a batch on a GPU may have at a time, a bound on memory.
GPU_SCORES = 1 << 24


class Ranker:
    """Lists by the weights of a generator and the semantic IDs of a trie, as they are now."""

    def __init__(
        self, generator: Generator, trie: Trie, rows: RowReader, config: DecodeConfig
    ) -> None:
        self.generator, self.trie, self.rows, self.config = generator, trie, rows, config

    @property
    def batch_size(self) -> int:
        """Users at a time; who shares a batch changes no list."""
        if self.rows.device == "cpu":
            return self.config.batch_size
        fitting = GPU_SCORES // (self.config.beams * self.trie.codebook_size)
        return max(self.config.batch_size, min(GPU_BATCH, fitting))

    @torch.no_grad()
    def lists(
        self, users: NDArray[np.int64], k: int, phase: Phase, exclude_seen: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """items int64 [n, k] (-1 where short), scores [n, k] (-inf there), both on the device, and
        the mean share of invalid beams, a scalar there."""
        device = self.rows.device
        items = torch.full((len(users), k), -1, dtype=torch.int64, device=device)
        scores = torch.full((len(users), k), -torch.inf, device=device)
        invalid = torch.zeros((), device=device)
        positions = self.rows.data.positions(phase)[users]
        lengths = positions - self.rows.data.history_starts(positions)
        # Rows of like length share a batch, so that little of it is padding.
        order = np.argsort(lengths, kind="stable")
        placed, sorted_positions = self.rows.on_device(order), self.rows.on_device(positions[order])
        done = 0
        for part in np.array_split(order, max(1, math.ceil(len(users) / self.batch_size))):
            if not len(part):
                continue
            width = int(lengths[part].max())
            place, rows = (x[done : done + len(part)] for x in (placed, sorted_positions))
            done += len(part)
            history, mask = self.rows.histories(rows, width)
            seen = self.rows.seen(users[part], phase) if exclude_seen else None
            found = beam_search(self.generator, history, mask, self.trie, self.config, seen)
            listed = min(k, found.items.shape[1])
            items[place, :listed] = found.items[:, :listed]
            scores[place, :listed] = found.scores[:, :listed]
            invalid += found.invalid * (len(part) / len(users))
        return items, scores, invalid
