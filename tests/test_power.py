"""Smallest differences: by hand and against statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from benchmark.power import minimal_detectable_difference, smallest_noncentrality


def test_with_many_users_two_normal_quantiles_add_up() -> None:
    # 1.959964 + 0.841621 = 2.801585 standard errors, each 0.2 / sqrt(10^8).
    found = minimal_detectable_difference(np.array([0.2]), 10**8)
    assert found == pytest.approx([2.801585 * 0.2 / 1e4], rel=1e-5)


@pytest.mark.parametrize("n_users", [3, 5, 20, 500, 30_431])
def test_agrees_with_statsmodels(n_users: int) -> None:
    theirs = TTestPower().solve_power(None, nobs=n_users, alpha=0.05, power=0.8)
    found = minimal_detectable_difference(np.array([1.0, 0.3]), n_users)
    assert found == pytest.approx([theirs, 0.3 * theirs], rel=1e-4)


@pytest.mark.parametrize("freedom", [2.0, 3.7, 8.0])
def test_power_at_the_smallest_difference_is_as_promised(freedom: float) -> None:
    critical, shift = stats.t.ppf(0.975, freedom), smallest_noncentrality(freedom)
    assert stats.nct.sf(critical, freedom, shift) == pytest.approx(0.8, abs=1e-6)


def test_nothing_varies_and_too_few_users() -> None:
    assert minimal_detectable_difference(np.zeros(2), 9).tolist() == [0.0, 0.0]
    assert math.isfinite(minimal_detectable_difference(np.ones(1), 2)[0])
    with pytest.raises(ValueError, match="at least 2 users"):
        minimal_detectable_difference(np.ones(1), 1)
