"""Paired tests and effect sizes. The unit is the user.

Every test takes the per-user differences between two methods (each method's values averaged over
its seeds first) and gives a statistic and a two-sided p-value; ``TESTS`` lists them, so one more
test is one more function and one more entry. None of them sees that one training differs from the
next for all users at once: ``benchmark.seed_aware`` does.

All functions raise ``ValueError`` for fewer than two users or for values that are not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmark.resampling import FLIPS, Pairs, sign_flip

Floats = NDArray[np.float64]


class Outcome(NamedTuple):
    """A test's statistics and two-sided p-values: a scalar for one pair's differences [n_users],
    [n_pairs] for differences [n_pairs, n_users]."""

    statistic: Floats
    p_value: Floats


class Effect(NamedTuple):
    """How large a difference is.

    Attributes:
        difference: mean of a - b over users, in the metric's units.
        relative: difference / mean of b; NaN where that mean is 0.
        d_z: Cohen's d for paired data, mean(a - b) / sd(a - b) with n - 1 in the sd
            (Cohen, "Statistical Power Analysis", 1988, section 2.3.5); 0 where every user
            agrees, +-inf where every user differs by exactly the same amount.
    """

    difference: float
    relative: float
    d_z: float


def paired_t(differences: Floats) -> Outcome:
    """Paired t-test (Student 1908): t = mean / (sd / sqrt(n)), n - 1 degrees of freedom.

    All differences zero: t = 0, p = 1. All equal but not zero: t = +-inf, p = 0.
    """
    rows, shape = _checked(differences)
    means = rows.mean(axis=1)
    constant = (rows == rows[:, :1]).all(axis=1)
    statistic = np.where(means == 0, 0.0, np.copysign(np.inf, means))
    p_value = np.where(means == 0, 1.0, 0.0)
    if not constant.all():
        result = stats.ttest_1samp(rows[~constant], 0.0, axis=1)
        statistic[~constant], p_value[~constant] = result.statistic, result.pvalue
    return Outcome(statistic.reshape(shape), p_value.reshape(shape))


def wilcoxon_signed_rank(differences: Floats) -> Outcome:
    """Wilcoxon signed-rank test (Wilcoxon 1945): the smaller of the two rank sums.

    Zero differences are left out, as in the original, and tied ones share their mean rank. Small
    samples get an exact p-value, large ones the normal approximation (scipy's ``method="auto"``).
    All differences zero: statistic 0, p = 1.
    """
    rows, shape = _checked(differences)
    # Pair by pair, although scipy takes an axis: it then looks for ties and zeros in all rows
    # together, so that one pair would decide how another is tested, and it is slower where it
    # matters (66 pairs of 30,431 users: 0.08 s against 0.06 s).
    found = [stats.wilcoxon(row, zero_method="wilcox", correction=False) if row.any()
             else Outcome(np.zeros(()), np.ones(())) for row in rows]  # fmt: skip
    statistic, p_value = (np.array(part, dtype=np.float64) for part in zip(*found, strict=True))
    return Outcome(statistic.reshape(shape), p_value.reshape(shape))


def holm(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's step-down correction (Holm 1979), in the order given; none for no p-values.

    Sorted ascending, the i-th of m (from 0) becomes max over j <= i of min(1, (m - j) p_j).
    Raises ``ValueError`` for a p-value that is not in [0, 1].
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p-values must lie in [0, 1]")
    # Not statsmodels' multipletests: it runs the garbage collector on every call, which took a
    # third of a report's time. The tests hold this one to it.
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    corrected = np.empty_like(values)
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, factors * values[order]))
    return corrected


def effect(a: Floats, b: Floats) -> Effect:
    """Effect of a over b from per-user values [n_users] of the same users in the same order."""
    if len(a) != len(b):
        raise ValueError(f"paired values need the same users: got {len(a)} and {len(b)}")
    rows, _ = _checked(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64))
    values = rows[0]
    difference, base = float(values.mean()), float(np.mean(b))
    relative = difference / base if base != 0 else float("nan")
    if np.all(values == values[0]):
        d_z = 0.0 if difference == 0 else float(np.sign(difference)) * np.inf
    else:
        d_z = difference / float(values.std(ddof=1))
    return Effect(difference, relative, d_z)


def flips_for(n_pairs: int) -> int:
    """Sign flips enough for this many pairs: 10,000, or 100 a pair where that is more.

    No p-value is below 1 / (1 + flips), so Holm's correction could otherwise leave none below
    0.05 with 500 pairs or more; with 100 a pair the smallest becomes 0.01 at most.
    """
    return max(FLIPS, 100 * n_pairs)


@dataclass(frozen=True, eq=False)
class Sample:
    """What the tests of one comparison are given.

    Attributes:
        values: [n_users, n_methods].
        pairs: [n_pairs, 2], columns of ``values``; first minus second.
        flips, seed: of the sign-flip test.
    """

    values: Floats
    pairs: Pairs
    flips: int
    seed: int

    @cached_property
    def differences(self) -> Floats:
        """[n_pairs, n_users]"""
        rows = np.ascontiguousarray(self.values.T)
        return rows[self.pairs[:, 0]] - rows[self.pairs[:, 1]]


def sign_flip_permutation(sample: Sample) -> Outcome:
    """Sign-flip permutation test of all pairs together; the statistic is the mean difference."""
    p_values = sign_flip(sample.values, sample.pairs, sample.flips, sample.seed)
    return Outcome(sample.differences.mean(axis=1), p_values)


@dataclass(frozen=True)
class PairedTest:
    """A paired test under the name that its columns carry, the label that readers see, and one for
    narrow places."""

    name: str
    label: str
    short: str
    run: Callable[[Sample], Outcome]


TESTS: dict[str, PairedTest] = {
    test.name: test
    for test in (
        PairedTest(
            "t", "paired t-test", "t-test", lambda sample: paired_t(sample.differences)
        ),
        PairedTest(
            "wilcoxon", "Wilcoxon signed-rank test", "Wilcoxon",
            lambda sample: wilcoxon_signed_rank(sample.differences),
        ),
        PairedTest("flip", "sign-flip permutation test", "sign flips", sign_flip_permutation),
    )
}  # fmt: skip


def name_tests(n_pairs: int) -> str:
    """The tests by their labels, with the number of sign flips for so many pairs."""
    *others, last = (test.label for test in TESTS.values())
    flips = f"{flips_for(n_pairs):,} flips, or every pattern of signs if those are fewer"
    return f"{', '.join(others)} and {last} ({flips})"


def _checked(differences: Floats) -> tuple[Floats, tuple[int, ...]]:
    """Finite rows [n_pairs, n_users], and the shape that their outcome has."""
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim not in (1, 2) or values.shape[-1] < 2:
        raise ValueError(f"a paired test needs at least 2 users, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("a paired test needs finite values")
    return np.atleast_2d(values), values.shape[:-1]
