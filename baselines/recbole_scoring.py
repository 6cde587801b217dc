"""Validation and lists of a RecBole model, in batches of users, on its device.

RecBole's evaluation builds each user's history in Python and sorts on the host. Here the model's
own ``full_sort_predict`` scores a batch, the seen items are struck out through one index vector,
and what is asked for stays on the device until the last batch: it is waited for once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.lists import best, to_host, users_at_once
from baselines.recbole_rows import RowReader, interaction
from benchmark.data.split import Phase
from benchmark.recommender import Ranking

CUT = 10  # of the figures that select a model


class Scored(NamedTuple):
    """A batch of users.

    Attributes:
        scores: float [B, n_items + 1] by RecBole's ids; -inf for padding and what is left out.
        positions: int64 [B], the held-out positions.
    """

    scores: Tensor
    positions: Tensor


class Scorer:
    """Scores the whole catalogue for users of one split with one model.

    An item consumed before is left out (if asked) even where it is the answer, in validation as in
    test; RecBole would spare the answer, which a recommender cannot know.
    """

    def __init__(self, model: Any, reader: RowReader, most_users: int) -> None:
        """
        Args:
            most_users: users scored at once, fewer where the catalogue is large.
        """
        self.model, self.reader, self.split = model, reader, reader.split
        self._at_once = users_at_once(self.split.n_items + 1, most_users, reader.device)
        self._column = torch.arange(self.split.n_items + 1, device=reader.device)

    def validate(self, exclude_seen: bool, phase: Phase = "valid") -> dict[str, float]:
        """Mean NDCG@10 and Recall@10 of all users, as ``benchmark.metrics`` defines them."""
        ndcg, recall = self.figures(exclude_seen, phase).tolist()
        return {f"ndcg@{CUT}": ndcg, f"recall@{CUT}": recall}

    @torch.no_grad()
    def figures(self, exclude_seen: bool, phase: Phase) -> Tensor:
        """The same on the device, which is not waited for: float64 [2].

        The rank of a target is one more than the items that score higher, and those of the same
        score and a lower id: where it would stand in a list. A target that is left out, or whose
        score is not a number, is no hit.
        """
        users = np.arange(self.split.n_users)
        total = torch.zeros(2, dtype=torch.float64, device=self.reader.device)
        for scores, positions in self._batches(users, phase, exclude_seen):
            target = self.reader.items[positions].long()[:, None] + 1
            own = scores.gather(1, target)
            level = (scores == own) & (self._column < target)
            rank = 1 + ((scores > own) | level).count_nonzero(1)
            hit = ((own[:, 0] > -torch.inf) & (rank <= CUT)).double()
            total += torch.stack([(hit / torch.log2(rank.double() + 1)).sum(), hit.sum()])
        return total / len(users)

    def rank(self, users: NDArray[np.int64], k: int, phase: Phase, exclude_seen: bool) -> Ranking:
        """Lists of ``users``; see ``Recommender.rank``."""
        return to_host(self.lists(users, k, phase, exclude_seen), k)

    @torch.no_grad()
    def lists(
        self, users: NDArray[np.int64], k: int, phase: Phase, exclude_seen: bool
    ) -> list[Tensor]:
        """The same on the device, which is not waited for: what ``best`` gives, a batch each."""
        batches = self._batches(users, phase, exclude_seen)
        return [best(scored.scores[:, 1:], k) for scored in batches]

    def _batches(
        self, users: NDArray[np.int64], phase: Phase, exclude_seen: bool
    ) -> Iterator[Scored]:
        self.model.eval()
        seen = self.split.positions(phase)[users] - self.split.offsets[:-1][users]
        on_device = torch.from_numpy(users).to(self.reader.device)
        for first in range(0, len(users), self._at_once):
            batch = slice(first, first + self._at_once)
            positions = self.reader.held_out(phase)[on_device[batch]]
            columns = interaction(self.reader.inputs(positions))
            scores = self.model.full_sort_predict(columns).view(len(positions), -1)
            scores[:, 0].fill_(-torch.inf)  # padding
            if exclude_seen:
                starts = self.reader.offsets[on_device[batch]]
                self._leave_out(scores, starts, positions, int(seen[batch].sum()))
            yield Scored(scores, positions)

    def _leave_out(self, scores: Tensor, starts: Tensor, ends: Tensor, n_pairs: int) -> None:
        """Set to -inf what each row's user consumed at ``starts`` .. ``ends`` - 1, both [B].

        Args:
            n_pairs: the sum of ``ends - starts``, which the device would have to be asked for.
        """
        lengths = ends - starts
        rows = torch.arange(len(ends), device=ends.device)
        rows = rows.repeat_interleave(lengths, output_size=n_pairs)
        before = lengths.cumsum(0) - lengths
        place = (starts - before)[rows] + torch.arange(n_pairs, device=ends.device)
        cells = rows * scores.shape[1] + self.reader.items[place] + 1
        scores.view(-1).index_fill_(0, cells, -torch.inf)
