"""Lists for many users: batches on the device, one transfer at the end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diger.decode import DecodeConfig, Trie, beam_search
from diger.generator import Generator
from diger.sequences import Phase, RowReader

#: Numbers that a batch on a GPU may hold at a time, a bound on memory (2 GB of float32). There a
#: batch of the size that suits a CPU would wait for its launches.
GPU_NUMBERS = 1 << 29
GPU_BATCH = 4096  # and most users


class Ranker:
    """Lists by the weights of a generator and the semantic IDs of a trie, as they are now."""

    def __init__(
        self, generator: Generator, trie: Trie, rows: RowReader, config: DecodeConfig
    ) -> None:
        self.generator, self.trie, self.rows, self.config = generator, trie, rows, config

    def batches(self, lengths: NDArray[np.int64]) -> Iterator[slice]:
        """Users at a time, of those sorted by length of history; who shares a batch changes no
        list. On a GPU as many as its memory bound has room for."""
        start, n = 0, len(lengths)
        while start < n:
            stop = start + self._fitting(int(lengths[start]))
            stop = min(n, start + self._fitting(int(lengths[min(stop, n) - 1])))
            yield slice(start, stop)
            start = stop

    def _fitting(self, width: int) -> int:
        """Users with histories of this many items that fit into a batch."""
        if self.rows.device == "cpu":
            return self.config.batch_size
        model, tokens = self.generator.seq2seq.config, width * self.generator.length
        attention = 4 * model.heads * tokens**2  # scores, bias and what softmax makes of them
        of_token = 2 * model.layers * model.heads * model.d_head  # keys and values
        cached = of_token * (tokens + self.config.beams * self.generator.length)
        search = 6 * self.config.beams * self.trie.codebook_size
        return max(1, min(GPU_BATCH, GPU_NUMBERS // (attention + cached + search)))

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
        for some in self.batches(lengths[order]):
            part = order[some]
            width = int(lengths[part[-1]])
            place, rows = placed[some], sorted_positions[some]
            history, mask = self.rows.histories(rows, width)
            seen = self.rows.seen(users[part], phase) if exclude_seen else None
            found = beam_search(self.generator, history, mask, self.trie, self.config, seen)
            listed = min(k, found.items.shape[1])
            items[place, :listed] = found.items[:, :listed]
            scores[place, :listed] = found.scores[:, :listed]
            invalid += found.invalid * (len(part) / len(users))
        return items, scores, invalid
