"""Intervals that know that one training differs from the next for all users at once.

The value of user u under the training of method a with seed s is taken as

    y[a, s, u] = mean of a + training[a, s] + user[a, u] + rest[a, s, u]

with users and trainings both drawn at random, crossed within a method; the user effects of two
methods may be related in any way. This is the design of studies in which several readers judge the
same cases, readers nested in the method (Obuchowski and Rockette 1995; Hillis 2007). Trainings of
two methods are not paired by the number of their seed: the same number starts the same stream of
random numbers, but two methods use it for different things, and nothing says that a lucky seed of
one is a lucky seed of the other. If they did go together, the interval would be too wide, not too
narrow.

With s trainings of each method and n users, the variance of the mean difference is that of the
trainings, var(training) / s for each method, and that of the users, the paired variance of the
per-user differences / n. What is seen of the first, the variance of the trainings' means, holds
var(rest) / n as well, which the second already has and which is therefore taken off:

    V = paired + max(0, (between_a - rest_a) + (between_b - rest_b))
    between = var of the s means over users / s;  rest = mean square of the rest / (n s)

Trainings that vary less than that count nothing, never less: the interval is never narrower for
knowing of them, and then somewhat wide. Without taking ``rest`` off, as a plain bootstrap of
users and trainings does, noise that is all of one training counts twice (Owen 2007, "The pigeonhole
bootstrap").

The interval is difference +- t sqrt(V) with Satterthwaite's degrees of freedom (1946),

    df = V^2 / (between_a^2 / (s_a - 1) + between_b^2 / (s_b - 1) + paired^2 / (n - 1)),

at least the smaller s - 1. A bootstrap over three to five trainings would be far too narrow:
drawing s of s with replacement has (s - 1) / s of the variance and no heavier tails. Where users do
not vary this is Welch's t-test of the trainings' means. In simulations (``tests/test_levels.py``)
it finds a difference that is not there in 2% to 6% of the cases with equally many trainings, in up
to 7.5% where a method with three trainings varies far more than the other, and in less than 5%
where trainings do not differ.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmark.power import smallest_noncentrality
from benchmark.resampling import LEVEL

Floats = NDArray[np.float64]

#: Trainings of each method below which nothing is said about differences between trainings.
MIN_SEEDS = 3


class Trainings(NamedTuple):
    """How much the trainings of one method vary; arrays [...] of methods or repeats.

    Attributes:
        seeds: number of trainings, s.
        sd: over trainings, of the mean over users (s - 1 in it); NaN for one training.
        between: sd^2 / s.
        rest: mean square of what is neither user nor training, / (users x s): what ``between``
            would be on average if trainings differed by chance among users alone.
    """

    seeds: Floats
    sd: Floats
    between: Floats
    rest: Floats


class SeedAware(NamedTuple):
    """A 95% interval over users and trainings, each [n_pairs].

    Attributes:
        mdd: difference at which the interval leaves 0 out in about 80% of such studies (some 73%
            with three trainings of each, whose degrees of freedom are hardly known).
    """

    low: Floats
    high: Floats
    mdd: Floats


def trainings(values: Floats) -> Trainings:
    """Variance components of values [..., n_users, n_trainings].

    Raises ``ValueError`` for fewer than two users or none trained.
    """
    given = np.asarray(values, dtype=np.float64)
    if given.ndim < 2 or given.shape[-2] < 2 or given.shape[-1] < 1:
        raise ValueError(f"trainings need values [users, trainings], got {given.shape}")
    users, count = given.shape[-2:]
    counts = np.full(given.shape[:-2], float(count))
    if count == 1:
        unknown = np.full(given.shape[:-2], np.nan)
        return Trainings(counts, unknown, unknown, unknown)
    means = given.mean(axis=-2)
    same = (means == means[..., :1]).all(axis=-1)  # their mean may be rounded to something else
    sd = np.where(same, 0.0, means.std(axis=-1, ddof=1))
    # Sum of squares of the rest = within users - between trainings; a variance over trainings for
    # each user first, which needs no array of residuals.
    within = given.var(axis=-1, ddof=1).mean(axis=-1)
    square = np.maximum(0.0, (within - sd**2) * users / (users - 1))
    return Trainings(counts, sd, sd**2 / count, square / (users * count))


def seed_aware(
    difference: Floats, paired: Floats, n_users: int, a: Trainings, b: Trainings
) -> SeedAware:
    """The interval of the module's head; NaN where a method was trained once.

    Args:
        difference: [n_pairs], mean of a - b.
        paired: [n_pairs], variance over users (n - 1) of the differences between the methods'
            means over trainings, / n_users.
        a, b: components of the pairs' two methods, [n_pairs].
    """
    more = a.between + b.between - a.rest - b.rest
    variance = np.asarray(paired + np.maximum(0.0, more))  # NaN stays NaN
    freedom = _freedom(variance, paired, n_users, a, b)
    error = np.sqrt(variance)
    reach = stats.t.ppf((1 + LEVEL) / 2, freedom) * error
    mdd = smallest_noncentrality(freedom) * error
    return SeedAware(difference - reach, difference + reach, mdd)


def _freedom(variance: Floats, paired: Floats, n_users: int, a: Trainings, b: Trainings) -> Floats:
    """Satterthwaite's degrees of freedom; the smallest possible where nothing varies."""
    least = np.minimum(a.seeds, b.seeds) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = a.between**2 / (a.seeds - 1) + b.between**2 / (b.seeds - 1)
        found = variance**2 / (parts + paired**2 / (n_users - 1))
    known = np.isfinite(found)
    # One training has no interval: its variance is NaN, whatever is put here.
    return np.asarray(np.maximum(np.where(known, found, 1.0), np.maximum(least, 1.0)))
