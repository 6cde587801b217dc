"""From scores to lists: what every method that scores the whole catalogue needs.

Lists stay on the device until all batches of a call are done, and come to the host in one piece.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.split import Phase, Split
from benchmark.recommender import Ranking

#: Most scores that are held at once, by kind of device. On a GPU: 64 MB of float32, twice that of
#: keys, and copies while they are made. On a CPU what stays in its cache is several times faster.
MAX_SCORES = {"cpu": 1 << 18}
MAX_SCORES_ELSEWHERE = 1 << 24
LOW_BITS = 0xFFFFFFFF


def users_at_once(n_items: int, most: int, device: torch.device) -> int:
    """How many users, of at most ``most``, to score together: a table of ``n_items`` scores each
    that stays within ``MAX_SCORES``. At least one."""
    return max(1, min(most, MAX_SCORES.get(device.type, MAX_SCORES_ELSEWHERE) // n_items))


def seen_pairs(
    split: Split, users: NDArray[np.int64], phase: Phase
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All (row, item) with an item that ``users[row]`` consumed before the phase's target.

    Returns:
        rows: int64 [n_pairs], indices into ``users``, non-decreasing.
        items: int64 [n_pairs]; an item consumed twice appears twice.
    """
    starts, ends = split.offsets[:-1][users], split.positions(phase)[users]
    lengths = ends - starts
    rows = np.repeat(np.arange(len(users)), lengths)
    before = np.repeat(np.cumsum(lengths) - lengths, lengths)
    items = split.items[np.repeat(starts, lengths) + np.arange(len(rows)) - before]
    return rows, items.astype(np.int64)


def best(scores: Tensor, k: int) -> Tensor:
    """The k best columns of each row, on the scores' device, which is never waited for.

    Ties go to the lower column: a score and its column make one 64-bit number, so that no two are
    equal, which ``topk`` leaves open for scores alone.

    Args:
        scores: float [n_rows, n_items], no NaN; compared as float32. k may exceed n_items.

    Returns:
        int32 [2, n_rows, k]: the columns, -1 where the score is -inf or there is none, and the
        bits of the scores as float32, non-increasing along a row. ``to_host`` reads it.
    """
    n = scores.shape[1]
    scores = scores.float()
    bits = (scores + 0.0).view(torch.int32)  # -0.0 becomes 0.0
    # Bits of negative floats grow as the number falls: with all but their sign turned round, the
    # bits of all floats sort as whole numbers do.
    ordered = (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)
    lower_first = torch.arange(n - 1, -1, -1, device=scores.device)
    keys = ordered.long().bitwise_left_shift_(32).add_(lower_first)
    columns = n - 1 - (keys.topk(min(k, n), dim=1).values & LOW_BITS)
    values = scores.gather(1, columns)
    columns = columns.masked_fill_(values == -torch.inf, -1)
    spare = (0, k - columns.shape[1])
    return torch.stack(
        [
            torch.nn.functional.pad(columns.int(), spare, value=-1),
            torch.nn.functional.pad(values, spare, value=-torch.inf).view(torch.int32),
        ]
    )


def to_host(parts: list[Tensor], k: int) -> Ranking:
    """What ``best`` gave for batches of users as one ranking; of no user, if there is no batch.

    The only transfer, and so the only time that the device is waited for.
    """
    if not parts:
        return Ranking(np.empty((0, k), np.int32), np.empty((0, k), np.float32))
    items, bits = torch.cat(parts, dim=1).cpu().numpy()
    return Ranking(items, bits.view(np.float32))


def top_k(scores: Tensor, k: int) -> Ranking:
    """The k best columns of each row, ties by lower column; -1 where a score is -inf.

    Args:
        scores: float [n_rows, n_items] on any device, no NaN.
    """
    return to_host([best(scores, k)], k)


def joined(parts: list[Ranking], k: int) -> Ranking:
    """The lists of several batches of users, of length k, as one; of none, if there is none."""
    return Ranking(
        np.concatenate([np.empty((0, k), np.int32), *(part.items for part in parts)]),
        np.concatenate([np.empty((0, k), np.float32), *(part.scores for part in parts)]),
    )
