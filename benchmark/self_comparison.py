"""A method compared with itself: how often does a test find a difference where there is none?

Three ways to make two samples of one method from the values of stored runs, each with no true
difference between them:

- by users: each repeat draws users with replacement and, for each, the values of two trainings in
  random order, so that users are independent of each other and nothing favours either side. With a
  single training it draws two users for each pair instead.
- by trainings: the stored ones split into two halves in every way. Two trainings differ for all
  users at once, and a test that knows users only takes this for a difference between methods.
- by made-up trainings, as stores have few: each training gives every user one of the stored values,
  and then raises or lowers the chance of a hit for all of them. How much is drawn at random, with
  the variance that the stored trainings have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmark.paired import TESTS, Sample
from benchmark.power import ALPHA
from benchmark.resampling import bootstrap
from benchmark.seed_aware import Trainings, seed_aware, trainings

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

SEED_AWARE = "seed_aware"
INTERVAL = "interval"
LABELS = {**{name: test.label for name, test in TESTS.items()},
          INTERVAL: "BCa interval over users leaves 0 out",
          SEED_AWARE: "seed-aware interval leaves 0 out"}  # fmt: skip
MAX_SPLITS = 10  # of one method
BATCH_VALUES = 2**21  # made-up values in memory at a time


@dataclass(frozen=True)
class Size:
    """How much work: repeats in all, users of each (those stored if they are fewer), flips and
    draws of the tests, and made-up trainings on each side."""

    repeats: int = 500
    users: int = 2000
    flips: int = 1000
    draws: int = 1000
    trainings: int = 5


def by_users(runs: Mapping[str, Floats], size: Size, seed: int) -> dict[str, Flags]:
    """Which repeats each user-level test rejects, [repeats], the methods taking turns.

    Args:
        runs: values [n_users, n_trainings] of each method. Trainings that are all the same are of
            no use here: see ``varying``.
    """
    methods = list(runs.values())
    rng = np.random.default_rng([seed, 0])
    users = min(size.users, len(methods[0]))
    columns = [_null_differences(methods[i % len(methods)], users, rng)
               for i in range(size.repeats)]  # fmt: skip
    return rejections(np.stack(columns, axis=1), size, seed)


def by_trainings(runs: Mapping[str, Floats], size: Size, seed: int) -> dict[str, Flags]:
    """The same of every split of the stored trainings of every method, on all users; ``SEED_AWARE``
    of those whose halves have two trainings or more."""
    differences, aware = [], []
    for values in runs.values():
        for a, b in splits(values.shape[1]):
            sides = values[:, list(a)], values[:, list(b)]
            differences.append(sides[0].mean(axis=1) - sides[1].mean(axis=1))
            if min(len(a), len(b)) > 1:
                aware.append(seed_aware_rejections(*(side[None] for side in sides)))
    if not differences:
        return {}
    found = rejections(np.stack(differences, axis=1), size, seed)
    return {**found, SEED_AWARE: np.concatenate(aware)} if aware else found


def by_made_up_trainings(runs: Mapping[str, Floats], size: Size, seed: int) -> dict[str, Flags]:
    """The same of made-up trainings, ``size.trainings`` a side, the methods sharing the repeats."""
    several = [values for values in runs.values() if values.shape[1] > 1]
    if not several:
        return {}
    ratio = training_ratio(several)
    rng = np.random.default_rng([seed, 1])
    differences, aware = [], []
    for values, repeats in _turns(several, size):
        users = min(size.users, len(values))
        made = made_up_trainings(values, ratio, (repeats, users, 2 * size.trainings), rng)
        a, b = made[:, :, : size.trainings], made[:, :, size.trainings :]
        differences.append((a.mean(axis=2) - b.mean(axis=2)).T)
        aware.append(seed_aware_rejections(a, b))
    found = rejections(np.concatenate(differences, axis=1), size, seed)
    return {**found, SEED_AWARE: np.concatenate(aware)}


def rejections(differences: Floats, size: Size, seed: int) -> dict[str, Flags]:
    """Which columns of [n_users, n_repeats] each user-level test rejects at 5%, uncorrected. All
    columns share their flips and draws."""
    repeats = differences.shape[1]
    values = np.column_stack([differences, np.zeros(len(differences))])
    pairs = np.stack([np.arange(repeats), np.full(repeats, repeats)], axis=1)
    sample = Sample(values, pairs, size.flips, seed)
    found: dict[str, Flags] = {
        name: np.asarray(test.run(sample).p_value < ALPHA) for name, test in TESTS.items()
    }
    low, high = bootstrap(values, pairs, size.draws, seed)
    found[INTERVAL] = (low > 0) | (high < 0)
    return found


def splits(count: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Ways to halve so many trainings, at most ``MAX_SPLITS``; of an odd number one half has one
    more. None for fewer than two."""
    if count < 2:
        return iter(())
    everyone = range(count)
    smaller = combinations(everyone, count // 2)
    # With equal halves each way comes twice, once for either half: the one that has training 0.
    chosen = (half for half in smaller if count % 2 or 0 in half)
    return islice(((h, tuple(i for i in everyone if i not in h)) for h in chosen), MAX_SPLITS)


def training_ratio(runs: Sequence[Floats]) -> float:
    """Variance between trainings over that of chance among users, for the mean of one training.

    Estimated by the mean squares of ``benchmark.seed_aware`` and pooled over the methods, since two
    or three trainings of one method say little; at least 0.
    """
    parts = [trainings(values) for values in runs]
    noise = sum(float(part.rest * part.seeds) for part in parts)
    between = sum(float((part.between - part.rest) * part.seeds) for part in parts)
    return max(0.0, between / noise) if noise > 0 else 0.0


def made_up_trainings(
    values: Floats, ratio: float, shape: tuple[int, int, int], rng: np.random.Generator
) -> Floats:
    """Values [repeats, users, trainings] of one method: users drawn from all, and for each training
    one of the user's stored values; then a training whose effect is negative loses hits at random,
    one whose effect is positive turns misses into hits at random.

    Effects are normal, their variance ``ratio`` times that of chance among so many users as are
    made up, so that the two stand to each other as in the store whatever the number of users. Of S
    stored trainings the user's values drawn with replacement have (S - 1) / S of the variance.
    """
    repeats, users, count = shape
    n_stored, stored = values.shape
    who = rng.integers(0, n_stored, (repeats, users, 1))
    made = values[who, rng.integers(0, stored, shape)]
    part = trainings(values)
    square = float(part.rest) * stored * n_stored * (stored - 1) / stored
    effects = rng.standard_normal((repeats, 1, count)) * np.sqrt(ratio * square / users)
    hits = values[values > 0]
    mean, missed = float(values.mean()), float(np.mean(values <= 0))
    lost = np.clip(-effects / mean, 0.0, 1.0)
    won = np.clip(effects / (missed * hits.mean()), 0.0, 1.0) if missed > 0 else 0.0 * effects
    chance = rng.random(shape)
    made = np.where((made > 0) & (chance < lost), 0.0, made)
    fresh = hits[rng.integers(0, len(hits), shape)]
    return np.where((made <= 0) & (chance < won), fresh, made)


def varying(runs: Mapping[str, Floats]) -> dict[str, Floats]:
    """The methods whose values can tell anything: some hit, and trainings that are not all the
    same; a method trained once stays."""
    return {name: values for name, values in runs.items()
            if values.any() and (values.shape[1] == 1 or (values != values[:, :1]).any())
            }  # fmt: skip


def binomial_interval(rejected: int, repeats: int, level: float = 0.99) -> tuple[float, float]:
    """Clopper and Pearson's exact interval (1934) of a rate."""
    found = stats.binomtest(rejected, repeats).proportion_ci(level, method="exact")
    return float(found.low), float(found.high)


def _null_differences(values: Floats, users: int, rng: np.random.Generator) -> Floats:
    """[users] differences without a true one, by users as in the module's head."""
    n_stored, stored = values.shape
    who = rng.integers(0, n_stored, users)
    if stored == 1:
        return np.asarray(values[who, 0] - values[rng.integers(0, n_stored, users), 0])
    first, second = rng.permutation(stored)[:2]
    return np.asarray((values[who, first] - values[who, second]) * rng.choice([-1.0, 1.0], users))


def _turns(methods: Sequence[Floats], size: Size) -> Iterator[tuple[Floats, int]]:
    """Each method with its share of the repeats, in parts that fit into memory."""
    most = max(1, BATCH_VALUES // (size.users * 2 * size.trainings))
    for number, values in enumerate(methods):
        left = len(range(number, size.repeats, len(methods)))
        while left > 0:
            yield values, min(left, most)
            left -= most


def seed_aware_rejections(a: Floats, b: Floats) -> Flags:
    """Whether the seed-aware interval leaves 0 out, [repeats], for values [repeats, users, s]."""
    difference = a.mean(axis=2) - b.mean(axis=2)
    users = difference.shape[1]
    parts: list[Trainings] = [trainings(side) for side in (a, b)]
    paired = difference.var(axis=1, ddof=1) / users
    found = seed_aware(difference.mean(axis=1), paired, users, *parts)
    return np.asarray((found.low > 0) | (found.high < 0))
