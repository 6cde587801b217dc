"""A 95% interval of one method's mean, which knows of users and, from three seeds on, of seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmark.resampling import LEVEL, bootstrap

MIN_SEEDS = 3
# From one set of so many draws to the next an end moves by some 4% of the half-width (30,431
# users), little beside what papers differ by; and a full report has a minute for everything.
DRAWS = 2_000


class MeanInterval(NamedTuple):
    """Ends of an interval, NaN for fewer than two users, and whether it knows of seeds."""

    low: float
    high: float
    knows_seeds: bool


def mean_intervals(values: Sequence[NDArray[np.float64]], draws: int = DRAWS) -> list[MeanInterval]:
    """95% intervals of the mean over users and seeds, one a method.

    Two sources of error are estimated apart. Users: the BCa bootstrap interval (l, u) of the mean
    over users of values averaged over seeds. Seeds, from three on: m -+ h with h = t sd / sqrt(S),
    sd the standard deviation of the S seeds' means and t the 97.5% quantile with S - 1 degrees of
    freedom. They are joined as the interval of a sum of independent parts,

        low = m - sqrt((m - l)^2 + h^2),    high = m + sqrt((u - m)^2 + h^2)

    (method of variance estimates recovery: Zou and Donner, "Construction of confidence intervals
    about effect measures", Statistics in Medicine 2008), which keeps the bootstrap's asymmetry.
    What differs between users from one seed to the next is in both parts, so the interval is a
    little wider than it need be, never narrower. Ends are held to [0, 1], where metrics lie.

    Args:
        values: per method float64 [seeds, users], all with the same users.
    """
    if not values:
        return []
    if values[0].shape[1] < 2:
        return [MeanInterval(float("nan"), float("nan"), False) for _ in values]
    averaged = [rows.mean(axis=0) for rows in values]
    # The mean of one method is its difference to nothing.
    matrix = np.column_stack([*averaged, np.zeros(len(averaged[0]))])
    pairs = np.array([(column, len(values)) for column in range(len(values))], dtype=np.intp)
    users = bootstrap(matrix, pairs, draws)
    return [
        _joined(rows, float(low), float(high))
        for rows, low, high in zip(values, users.low, users.high, strict=True)
    ]


def _joined(rows: NDArray[np.float64], low: float, high: float) -> MeanInterval:
    seeds = len(rows)
    if seeds < MIN_SEEDS:
        return MeanInterval(low, high, False)
    means = rows.mean(axis=1)
    mean, sd = float(means.mean()), float(means.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, seeds - 1)) * sd / seeds**0.5
    below, above = np.hypot(mean - low, half), np.hypot(high - mean, half)
    return MeanInterval(max(0.0, mean - float(below)), min(1.0, mean + float(above)), True)
