"""Sign flips and bootstrap: exact small cases, agreement with scipy, ties, determinism."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from benchmark.resampling import Interval, bca_levels, bootstrap, fixed_point, sign_flip

Floats = NDArray[np.float64]
ONE_PAIR = np.array([[0, 1]])
GOLDEN_P = 4290 / 10_001
GOLDEN_INTERVAL = (-0.04894246591853771, 0.020041221020679446)


def against_zero(differences: Floats) -> Floats:
    """Values of two methods with these differences."""
    return np.stack([differences, np.zeros(len(differences))], axis=1)


def flip_p(differences: Floats, flips: int = 10_000, seed: int = 0) -> float:
    return float(sign_flip(against_zero(differences), ONE_PAIR, flips, seed)[0])


def interval(differences: Floats, draws: int = 10_000, seed: int = 0) -> tuple[float, float]:
    low, high = bootstrap(against_zero(differences), ONE_PAIR, draws, seed)
    return float(low[0]), float(high[0])


def sparse(n_users: int, n_methods: int, seed: int = 0) -> Floats:
    """NDCG-like values: mostly 0, the others 1 / log2(r + 1) at rank r."""
    rng = np.random.default_rng(seed)
    hit = rng.random((n_users, n_methods)) < 0.15 + 0.05 * np.arange(n_methods)
    return np.where(hit, 1 / np.log2(rng.integers(2, 12, (n_users, n_methods))), 0.0)


def all_pairs(n_methods: int) -> NDArray[np.intp]:
    return np.stack(np.triu_indices(n_methods, 1), axis=1)


def test_sign_flip_of_three_users_by_hand() -> None:
    # Signs of 1, 2, 4 give +-7, +-5, +-3, +-1: only +-7 are as far from 0 as 7, and +-7 and +-5
    # as far as 5 = -1 + 2 + 4. The users who do not differ change nothing.
    assert flip_p(np.array([1.0, 2.0, 4.0, 0.0, 0.0])) == 2 / 8
    assert flip_p(np.array([-1.0, 2.0, 4.0, 0.0, 0.0])) == 4 / 8


def test_patterns_are_all_taken_up_to_as_many_as_flips() -> None:
    differences = np.arange(1.0, 6.0)
    assert flip_p(differences, flips=32) == 2 / 32
    random = flip_p(differences, flips=31)
    assert random * 32 == pytest.approx(round(random * 32))
    assert random != 2 / 32  # with this seed


def test_exact_p_counts_ties_that_floats_break() -> None:
    # Thirds: 1/3 + 1/3 + 1/3 is 1 only in real numbers. Exact p by fractions, all cases of four
    # users, in which the observed sum is met by other patterns in almost every one.
    parts = [Fraction(k, 3) for k in (-3, -2, -1, 1, 2, 3)] + [Fraction(1, 7), Fraction(-6, 7)]
    for case in list(product(parts, repeat=4))[::7]:
        sums = [sum((s * d for s, d in zip(signs, case, strict=True)), Fraction(0))
                for signs in product((1, -1), repeat=4)]  # fmt: skip
        exact = sum(abs(total) >= abs(sums[0]) for total in sums) / 16
        assert flip_p(np.array([float(d) for d in case])) == exact, case


def test_random_flips_count_ties_that_floats_break() -> None:
    thirds = np.array([1, 2, -3, -1, 2, 1, 3, -2] * 5)
    # In whole numbers nothing is rounded; the same seed takes the same patterns.
    assert flip_p(thirds / 3) == flip_p(thirds.astype(np.float64))
    assert flip_p(thirds / 3 * 0.1) == flip_p(thirds.astype(np.float64))


def test_sign_flip_agrees_with_scipy() -> None:
    values = sparse(400, 4)
    found = sign_flip(values, all_pairs(4), 20_000, seed=1)
    for (a, b), p_value in zip(all_pairs(4), found, strict=True):
        theirs = stats.permutation_test(
            (values[:, a] - values[:, b],), lambda d, axis: np.mean(d, axis=axis),
            permutation_type="samples", vectorized=True, n_resamples=20_000,
            rng=np.random.default_rng(2),
        ).pvalue  # fmt: skip
        error = math.sqrt(p_value * (1 - p_value) / 20_000)
        # Theirs doubles the smaller tail, which has about twice the variance.
        assert abs(p_value - theirs) < 4 * math.sqrt(3) * error + 2e-4
    assert found.min() < 0.05 < found.max()


def test_sign_flip_of_few_users_is_scipys_exact_p() -> None:
    differences = np.array([0.5, -0.3, 0.2, 1.0, 0.7, 0.0, 0.4])
    theirs = stats.permutation_test((differences,), np.mean, permutation_type="samples")
    assert flip_p(differences) == pytest.approx(theirs.pvalue)


def test_p_is_never_zero_and_one_where_nobody_differs() -> None:
    assert flip_p(np.ones(100), flips=999) == 1 / 1000
    assert flip_p(np.zeros(100)) == 1.0
    values = np.stack([np.ones(50), np.ones(50), np.zeros(50)], axis=1)
    assert sign_flip(values, all_pairs(3), 999).tolist() == [1.0, 0.001, 0.001]


def test_a_pair_alone_and_among_others_differ_by_chance_only() -> None:
    values = sparse(300, 5)
    together = sign_flip(values, all_pairs(5))
    for pair, p_value in zip(all_pairs(5), together, strict=True):
        alone = sign_flip(values, pair[None])[0]
        assert abs(alone - p_value) < 5 * math.sqrt(2 * p_value * (1 - p_value) / 10_000)


@pytest.mark.parametrize("chunk", [1, 1000, 77_777])
def test_chunks_change_no_bit(chunk: int) -> None:
    values, pairs = sparse(150, 4), all_pairs(4)
    assert np.array_equal(sign_flip(values, pairs, 500), sign_flip(values, pairs, 500, chunk=chunk))
    whole, parts = bootstrap(values, pairs, 500), bootstrap(values, pairs, 500, chunk=chunk)
    assert np.array_equal(whole, parts)


def test_same_seed_same_numbers_on_every_machine() -> None:
    # Made once from PCG64's stream, which numpy keeps. They may change only with the seeds'
    # meaning: every published p-value and interval then changes, too.
    differences = sparse(200, 2, seed=4) @ [1.0, -1.0]
    assert flip_p(differences) == pytest.approx(GOLDEN_P, abs=1e-12)
    assert interval(differences) == pytest.approx(GOLDEN_INTERVAL, abs=1e-10)
    assert flip_p(differences, seed=1) != flip_p(differences)
    assert interval(differences, seed=1) != interval(differences)


def test_sums_are_exact_in_any_order() -> None:
    values = sparse(500, 3) / 3
    fixed = fixed_point(values)
    assert np.array_equal(fixed.values, np.rint(fixed.values))
    assert np.abs(fixed.values).max() * 500 <= 2**52
    assert np.abs(np.ldexp(fixed.values, fixed.exponent) - values).max() <= 2.0**fixed.exponent / 2
    shuffled = np.random.default_rng(0).permutation(fixed.values)
    assert np.array_equal(np.cumsum(shuffled, axis=0)[-1], fixed.values.sum(axis=0))


@pytest.mark.parametrize("scale", [1e-300, 1e-6, 1e12, 1e300])
def test_units_do_not_matter(scale: float) -> None:
    differences = sparse(120, 2) @ [1.0, -1.0]
    assert flip_p(differences * scale) == flip_p(differences)
    scaled = [end / scale for end in interval(differences * scale)]
    assert scaled == pytest.approx(interval(differences))


def test_bootstrap_agrees_with_scipy() -> None:
    differences = sparse(600, 2, seed=3) @ [1.0, -1.0]
    ours = interval(differences, 20_000)
    theirs = [
        stats.bootstrap(
            (differences,), np.mean, n_resamples=20_000, method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        for seed in range(4)
    ]  # fmt: skip
    low, high = (np.mean([getattr(i, end) for i in theirs]) for end in ("low", "high"))
    # A 2.5% quantile of 20,000 draws has an error of sqrt(0.025 * 0.975 / 20,000) / 0.058 sds;
    # what z0 adds is as large.
    error = 2 * math.sqrt(0.025 * 0.975 / 20_000) / 0.058 * differences.std() / math.sqrt(600)
    assert ours == pytest.approx((low, high), abs=3 * error)
    assert 3 * error < 0.1 * (high - low)


def test_bootstrap_of_skewed_differences_agrees_with_scipy() -> None:
    # Five users of 65 differ, all in one direction: far from a normal mean.
    differences = np.array([1.0, 0.43, 2.17, 0.77, 1.31] + [0.0] * 60)
    theirs = stats.bootstrap((differences,), np.mean, n_resamples=50_000, method="BCa",
                             rng=np.random.default_rng(0)).confidence_interval  # fmt: skip
    assert interval(differences, 50_000) == pytest.approx(tuple(theirs), abs=0.006)
    mean, sd = differences.mean(), differences.std(ddof=1) / math.sqrt(65)
    assert abs(theirs[1] - (mean + 1.96 * sd)) > 0.04  # where a normal interval would end


def test_bootstrap_of_two_users_by_hand() -> None:
    # Of 0 and 1 the mean of a draw is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4. With ties counted
    # half z0 is 0 but for chance and there is no skewness: the 2.5% and 97.5% quantiles are 0, 1.
    assert interval(np.array([0.0, 1.0])) == pytest.approx((0.0, 1.0))


def test_draws_have_the_distribution_of_sampling_users() -> None:
    # Four of five users differ, by 1: the mean of a draw is binomial(5, 0.8) / 5, and BCa's two
    # quantiles follow from that distribution and its skewness alone.
    differences = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    chances = stats.binom.cdf(range(6), 5, 0.8)
    centred = differences - 0.8
    skew = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    levels = bca_levels((chances[3] + chances[4]) / 2, skew)
    expected = [int(np.searchsorted(chances, level)) / 5 for level in levels]
    assert interval(differences, 50_000) == pytest.approx(tuple(expected))


def test_bca_levels_by_hand() -> None:
    assert bca_levels(0.5, 0.0) == pytest.approx([0.025, 0.975])
    # a = 0: Phi(2 z0 +- z); a = 0.1, z0 = 0: Phi(z / (1 - 0.1 z)).
    z, normal = 1.959963984540054, stats.norm
    assert bca_levels(0.6, 0.0) == pytest.approx(
        [normal.cdf(2 * normal.ppf(0.6) - z), normal.cdf(2 * normal.ppf(0.6) + z)]
    )
    assert bca_levels(0.5, 0.1) == pytest.approx(
        [normal.cdf(-z / (1 + 0.1 * z)), normal.cdf(z / (1 - 0.1 * z))]
    )


@pytest.mark.parametrize(("below", "end"), [(0.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("acceleration", [-0.1666, 0.0, 0.1666])
def test_infinite_bias_is_held(below: float, end: float, acceleration: float) -> None:
    levels = bca_levels(below, acceleration)
    assert 0 <= levels[0] <= levels[1] <= 1
    assert levels[int(1 - end)] == pytest.approx(end, abs=1e-3)


@pytest.mark.parametrize(
    "thirds",
    [
        [-1, 2, 1, 3, 1, 1, 0, -3, -3],
        [3, -1, -1, 3, -2, 0],
        [1, 3, 2, -2, 2],
        [1, 1, 3, 1, 1, 1, 2],
    ],
)
def test_bootstrap_counts_ties_that_floats_break_half(thirds: list[int]) -> None:
    # A draw's sum often equals the observed one; in thirds, rounding would make it more or less.
    whole = np.array(thirds, dtype=np.float64)
    assert interval(whole / 3) == pytest.approx([end / 3 for end in interval(whole)])


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_equal_differences_give_a_point(value: float) -> None:
    assert interval(np.full(20, value)) == pytest.approx((value, value), abs=1e-12)


def test_one_draw_is_both_ends() -> None:
    low, high = interval(np.array([0.0, 1.0, 3.0]), draws=1)
    assert low == high


@pytest.mark.parametrize("values", [np.zeros((1, 2)), np.zeros(5), np.zeros((0, 2))])
def test_too_few_users_are_refused(values: Floats) -> None:
    for function in (sign_flip, bootstrap):
        with pytest.raises(ValueError, match="at least 2 users"):
            function(values, ONE_PAIR)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    for function in (sign_flip, bootstrap):
        with pytest.raises(ValueError, match="finite"):
            function(np.array([[0.0, 1.0], [bad, 1.0]]), ONE_PAIR)


def test_no_flips_or_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="flips must be at least 1, got 0"):
        sign_flip(np.ones((3, 2)), ONE_PAIR, flips=0)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        bootstrap(np.ones((3, 2)), ONE_PAIR, draws=0)


def test_no_pairs_give_nothing() -> None:
    none = np.empty((0, 2), dtype=np.intp)
    assert sign_flip(np.ones((3, 1)), none).shape == (0,)
    found = bootstrap(np.ones((3, 1)), none)
    assert isinstance(found, Interval)
    assert found.low.shape == found.high.shape == (0,)
