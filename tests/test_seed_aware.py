"""The interval over users and trainings: by hand, against Welch and statsmodels, bad input."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from benchmark.seed_aware import SeedAware, seed_aware, trainings

Floats = NDArray[np.float64]


def interval(a: Floats, b: Floats) -> SeedAware:
    """Of values [n_users, n_trainings] of two methods."""
    difference = a.mean(axis=1) - b.mean(axis=1)
    paired = np.asarray(difference.var(ddof=1) / len(a))
    found = seed_aware(difference.mean(), paired, len(a), trainings(a), trainings(b))
    return SeedAware(*(np.asarray(part) for part in found))


def additive(users: list[float], seeds: list[float]) -> Floats:
    return np.add.outer(np.array(users), np.array(seeds))


def test_components_by_hand() -> None:
    # Trainings' means 1 and 3: variance 2, / 2 trainings = 1. Users' means 1, 3, overall 2: what is
    # left is -+1 for each value, square sum 4 with (2 - 1)(2 - 1) = 1 degree of freedom; / (2 x 2).
    found = trainings(np.array([[1.0, 1.0], [1.0, 5.0]]))
    assert found == pytest.approx((2, math.sqrt(2), 1.0, 1.0))


def test_interval_by_hand() -> None:
    # Users add up with trainings, so nothing is left but the two. a: trainings 0, 1, 2 (variance
    # 1, / 3), b: 0, 0, 3 (variance 3, / 3). Users of a: 0, 4; of b: 0, 2: differences 0 and 2,
    # variance 2, / 2 users. V = 1/3 + 1 + 1 = 7/3; mean difference 1 + 1 - 1 = 1.
    found = interval(additive([0, 4], [0, 1, 2]), additive([0, 2], [0, 0, 3]))
    variance = 7 / 3
    freedom = variance**2 / ((1 / 3) ** 2 / 2 + 1 / 2 + 1 / 1)
    assert freedom > 2
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((1 - reach, 1 + reach))


def test_without_users_it_is_welch() -> None:
    rng = np.random.default_rng(0)
    for sizes in ((3, 3), (5, 3), (10, 4)):
        a, b = (rng.normal(size=s) * scale for s, scale in zip(sizes, (1, 3), strict=True))
        theirs = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        found = interval(additive([1, 2, 3], list(a)), additive([1, 2, 3], list(b)))
        assert (found.low, found.high) == pytest.approx(tuple(theirs))


def test_mean_squares_agree_with_statsmodels() -> None:
    values = np.random.default_rng(1).random((12, 4))
    frame = pd.DataFrame(values).melt(ignore_index=False, var_name="seed").reset_index(names="user")
    table = anova_lm(ols("value ~ C(user) + C(seed)", frame).fit())
    found = trainings(values)
    assert found.between == pytest.approx(table.loc["C(seed)", "mean_sq"] / 48)
    assert found.rest == pytest.approx(table.loc["Residual", "mean_sq"] / 48)


def test_noise_of_one_training_counts_once() -> None:
    # Values that are all noise: the paired variance has all of it. What trainings seem to vary by
    # is taken off, and never more than that.
    rng = np.random.default_rng(2)
    for _ in range(50):
        a, b = rng.normal(size=(2, 30, 4))
        difference = a.mean(axis=1) - b.mean(axis=1)
        paired = difference.var(ddof=1) / 30
        found = interval(a, b)
        parts = trainings(a), trainings(b)
        more = sum(float(part.between - part.rest) for part in parts)
        width = (found.high - found.low) / 2
        assert width >= stats.t.ppf(0.975, 29) * math.sqrt(paired) * (1 - 1e-9)
        assert width / math.sqrt(paired + max(0.0, more)) <= stats.t.ppf(0.975, 3) * (1 + 1e-9)


def test_more_trainings_on_one_side_only() -> None:
    # Trainings of b do not vary at all, as with a method that has no random numbers.
    found = interval(additive([0, 1, 5], [0, 1, 2]), additive([0, 1, 5], [1] * 4))
    reach = stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((-reach, reach))


def test_one_training_has_no_interval() -> None:
    several, one = additive([0, 1], [0, 1, 2]), additive([0, 3], [1])
    assert trainings(one).seeds == 1
    for found in (interval(several, one), interval(one, several), interval(one, one)):
        assert np.isnan(np.array(found)).all()


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_where_nothing_varies_the_interval_is_a_point(shift: float) -> None:
    base = np.full((7, 3), 0.1)
    found = interval(base + shift, base)
    assert tuple(found) == pytest.approx((shift, shift, 0), abs=1e-12)
    assert trainings(np.full((7, 3), 0.1)).sd == 0


def test_arrays_are_taken_together_as_each_alone() -> None:
    many = np.random.default_rng(3).random((4, 9, 3))
    together = trainings(many)
    for index, values in enumerate(many):
        alone = [float(part) for part in trainings(values)]
        assert [part[index] for part in together] == pytest.approx(alone)


@pytest.mark.parametrize("shape", [(1, 3), (3, 0), (3,)])
def test_too_few_values_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="users, trainings"):
        trainings(np.zeros(shape))
