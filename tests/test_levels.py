"""Simulation: how often each test finds a difference that is not there, and one that is.

1,000 repeats of 500 users. With a true rate of 5% the rate of 1,000 repeats has a standard error of
0.7%, so 3% to 7% is almost three of them on either side: a seed here or there exceeds it. Those
below are fixed; 18,000 repeats of the t-test gave 5.2% on normal and 4.9% on sparse values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from benchmark.power import minimal_detectable_difference, smallest_noncentrality
from benchmark.seed_aware import Trainings, seed_aware
from benchmark.self_comparison import INTERVAL, Size, rejections, seed_aware_rejections

Floats = NDArray[np.float64]
Values = Callable[[np.random.Generator, int, float, int], Floats]

REPEATS, USERS = 1000, 500
SIZE = Size(flips=2000, draws=2000)
GAINS = 1 / np.log2(np.arange(2, 12))


def normal(rng: np.random.Generator, seeds: int, spread: float, repeats: int) -> Floats:
    """[repeats, users, 2 x seeds] of two methods with the same mean: own user effects of each
    method, noise of each value, and training effects of ``spread`` standard errors of a training's
    mean by chance."""
    shape = (repeats, USERS, 2 * seeds)
    users = np.repeat(rng.normal(size=(repeats, USERS, 2)), seeds, axis=2) * 0.5
    effects = rng.normal(size=(repeats, 1, 2 * seeds)) * spread / np.sqrt(USERS)
    return np.asarray(users + effects + rng.normal(size=shape))


def sparse(rng: np.random.Generator, seeds: int, spread: float, repeats: int) -> Floats:
    """The same of NDCG@10: most values are 0, each user has a chance of a hit that is the same for
    both methods, and a training raises or lowers it for all users."""
    chance = rng.beta(0.4, 2.4, size=(repeats, USERS, 1))
    shape = (repeats, USERS, 2 * seeds)
    by_chance = np.sqrt((1 / 7) * (GAINS**2).mean() / USERS)
    effects = rng.normal(size=(repeats, 1, 2 * seeds)) * spread * by_chance
    hit = rng.random(shape) < np.clip(chance * (1 + effects / (GAINS.mean() / 7)), 0, 1)
    return np.where(hit, GAINS[rng.integers(0, 10, shape)], 0.0)


KINDS: Mapping[str, Values] = {"normal": normal, "sparse": sparse}


def rates(make: Values, seeds: int, spread: float, shift: float = 0.0) -> dict[str, float]:
    """Share of repeats that each user-level test and the seed-aware interval (``aware``) reject."""
    rng = np.random.default_rng([1, seeds, round(100 * spread)])
    differences, aware = [], []
    for _ in range(10):  # a tenth at a time, for memory
        values = make(rng, seeds, spread, REPEATS // 10)
        a, b = values[:, :, :seeds] + shift, values[:, :, seeds:]
        differences.append((a.mean(axis=2) - b.mean(axis=2)).T)
        if seeds > 1:
            aware.append(seed_aware_rejections(a, b))
    found = {
        name: float(flags.mean())
        for name, flags in rejections(np.concatenate(differences, axis=1), SIZE, 0).items()
    }
    return found | ({"aware": float(np.concatenate(aware).mean())} if aware else {})  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeds", [1, 5])
def test_with_independent_users_every_test_holds_its_level(kind: str, seeds: int) -> None:
    found = rates(KINDS[kind], seeds, spread=0.0)
    aware = found.pop("aware", None)
    assert len(found) == 4
    for name, rate in found.items():
        assert 0.03 <= rate <= 0.07, (name, found)
    # Trainings that do not differ cost the seed-aware interval some power, never its level.
    assert aware is None or aware <= 0.06


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_where_trainings_differ_only_the_seed_aware_interval_holds(kind: str, seeds: int) -> None:
    found = rates(KINDS[kind], seeds, spread=4.0)
    assert 0.02 <= found.pop("aware") <= 0.08
    assert min(found.values()) > 0.3, found


@pytest.mark.parametrize("spread", [0.5, 1.0, 8.0])
def test_however_much_trainings_differ_the_level_holds(spread: float) -> None:
    assert 0.02 <= rates(sparse, 5, spread)["aware"] <= 0.08


@pytest.mark.parametrize("counts", [(3, 3), (3, 5), (3, 10), (5, 5), (10, 4)])
@pytest.mark.parametrize("spreads", [(4.0, 4.0), (4.0, 0.5), (1.0, 10.0), (2.0, 0.0)])
def test_trainings_of_unequal_number_and_spread(
    counts: tuple[int, int], spreads: tuple[float, float]
) -> None:
    # Mean squares of normal values are chi-squared, so users need not be made up one by one. The
    # worst case is a method with three trainings that vary much more than those of the other.
    rng, repeats, chance, own = np.random.default_rng(0), 10_000, 1 / USERS, 0.25 / USERS
    sides, mean = [], np.zeros(repeats)
    for count, spread in zip(counts, spreads, strict=True):
        training = (spread**2 + 1) * chance / count
        between = training * rng.chisquare(count - 1, repeats) / (count - 1)
        sides.append(Trainings(np.full(repeats, float(count)), np.sqrt(between * count), between,
                               np.full(repeats, chance / count)))  # fmt: skip
        mean += rng.normal(size=repeats) * np.sqrt(training + own)
    by_user = 2 * own + chance / counts[0] + chance / counts[1]
    paired = by_user * rng.chisquare(USERS - 1, repeats) / (USERS - 1)
    found = seed_aware(mean, paired, USERS, *sides)
    assert 0.02 <= ((found.low > 0) | (found.high < 0)).mean() <= 0.08


def test_a_plain_bootstrap_of_trainings_and_users_does_not_hold() -> None:
    # What the seed-aware interval is used instead of: trainings and users drawn with replacement,
    # the 2.5% and 97.5% quantiles of the difference. Without variance between users a draw of
    # trainings is all there is.
    rng = np.random.default_rng(0)
    means = rng.normal(size=(REPEATS, 2, 5))
    drawn = means[np.arange(REPEATS)[:, None, None, None], np.arange(2)[:, None],
                  rng.integers(0, 5, (REPEATS, 500, 2, 5))].mean(axis=3)  # fmt: skip
    low, high = np.quantile(drawn[:, :, 0] - drawn[:, :, 1], [0.025, 0.975], axis=1)
    assert ((low > 0) | (high < 0)).mean() > 0.08


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_difference_is_found_four_times_in_five(kind: str) -> None:
    many = KINDS[kind](np.random.default_rng(1), 1, 0.0, REPEATS)
    sd = np.std(many[:, :, 0] - many[:, :, 1])
    least = float(minimal_detectable_difference(np.array([sd]), USERS)[0])
    found = rates(KINDS[kind], 1, 0.0, shift=least)
    for name in ("t", "flip", INTERVAL):
        assert 0.76 <= found[name] <= 0.84, found
    if kind == "normal":  # Wilcoxon's test has 3 / pi of the efficiency there
        expected = stats.norm.cdf(2.8016 * np.sqrt(3 / np.pi) - 1.96)
        assert found["wilcoxon"] == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize(("seeds", "least", "most"), [(3, 0.7, 0.8), (5, 0.76, 0.84)])
def test_the_seed_aware_smallest_difference_is_found_about_four_times_in_five(
    seeds: int, least: float, most: float
) -> None:
    # Between trainings 16 and of chance 1 in units of a training's variance by chance, own users
    # 0.25: the variances that the smallest difference is made from, known here. Of three trainings
    # the degrees of freedom are themselves hardly known, which costs some of the power.
    between, chance, users = 16 / USERS / seeds, 1 / USERS / seeds, 0.25 / USERS
    variance = 2 * (between + chance + users)
    freedom = variance**2 / (2 * (between + chance) ** 2 / (seeds - 1)
                             + (2 * (chance + users)) ** 2 / (USERS - 1))  # fmt: skip
    shift = float(smallest_noncentrality(freedom)) * np.sqrt(variance)
    assert least <= rates(normal, seeds, 4.0, shift)["aware"] <= most
