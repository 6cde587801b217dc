"""Paired comparison of methods. The unit is the user.

Every test takes the per-user differences between two methods (each method's values averaged over
its seeds first) and gives a statistic and a two-sided p-value; ``TESTS`` lists them, so one more
test is one more function and one more entry. Differences between trainings of one method are not
seen by any of them: the spread over seeds is shown apart.

All functions raise ``ValueError`` for fewer than two users or for values that are not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Differences = NDArray[np.float64]


class Outcome(NamedTuple):
    """A test's statistic and its two-sided p-value."""

    statistic: float
    p_value: float


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


def paired_t(differences: Differences) -> Outcome:
    """Paired t-test (Student 1908): t = mean / (sd / sqrt(n)), n - 1 degrees of freedom.

    All differences zero: t = 0, p = 1. All equal but not zero: t = +-inf, p = 0.
    """
    values = _checked(differences)
    mean = float(values.mean())
    if np.all(values == values[0]):
        return Outcome(0.0, 1.0) if mean == 0 else Outcome(float(np.sign(mean)) * np.inf, 0.0)
    result = stats.ttest_1samp(values, 0.0)
    return Outcome(float(result.statistic), float(result.pvalue))


def wilcoxon_signed_rank(differences: Differences) -> Outcome:
    """Wilcoxon signed-rank test (Wilcoxon 1945): the smaller of the two rank sums.

    Zero differences are left out, as in the original, and tied ones share their mean rank. Small
    samples get an exact p-value, large ones the normal approximation (scipy's ``method="auto"``).
    All differences zero: statistic 0, p = 1.
    """
    values = _checked(differences)
    if not values.any():
        return Outcome(0.0, 1.0)
    result = stats.wilcoxon(values, zero_method="wilcox", correction=False)
    return Outcome(float(result.statistic), float(result.pvalue))


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


def effect(a: Differences, b: Differences) -> Effect:
    """Effect of a over b from per-user values [n_users] of the same users in the same order."""
    if len(a) != len(b):
        raise ValueError(f"paired values need the same users: got {len(a)} and {len(b)}")
    values = _checked(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64))
    difference, base = float(values.mean()), float(np.mean(b))
    relative = difference / base if base != 0 else float("nan")
    if np.all(values == values[0]):
        d_z = 0.0 if difference == 0 else float(np.sign(difference)) * np.inf
    else:
        d_z = difference / float(values.std(ddof=1))
    return Effect(difference, relative, d_z)


@dataclass(frozen=True)
class PairedTest:
    """A paired test under the name that its columns carry and the label that readers see."""

    name: str
    label: str
    run: Callable[[Differences], Outcome]


TESTS: dict[str, PairedTest] = {
    test.name: test
    for test in (
        PairedTest("t", "paired t-test", paired_t),
        PairedTest("wilcoxon", "Wilcoxon signed-rank test", wilcoxon_signed_rank),
    )
}


def compare_all(values: pd.DataFrame) -> pd.DataFrame:
    """Compare every pair of methods.

    Args:
        values: [n_users x n_methods], one metric's per-user values averaged over seeds.

    Returns:
        One row a pair (first column before second): a, b, n, mean_a, mean_b, difference (a - b),
        relative, d_z, and for each test ``<name>_statistic``, ``<name>_p`` and
        ``<name>_p_holm``, Holm's correction over all pairs of this frame. No rows for fewer than
        two methods.
    """
    rows = [_compare(values, str(a), str(b)) for a, b in combinations(values.columns, 2)]
    numbers = ["mean_a", "mean_b", *Effect._fields]
    tested = [f"{name}_{part}" for name in TESTS for part in ("statistic", "p")]
    frame = pd.DataFrame(rows, columns=["a", "b", "n", *numbers, *tested])
    for name in TESTS:
        frame[f"{name}_p_holm"] = holm(frame[f"{name}_p"].to_numpy(dtype=np.float64))
    return frame


def is_significant(row: pd.Series, alpha: float = 0.05) -> bool:
    """Whether every test finds the pair's difference after correction."""
    return all(float(row[f"{name}_p_holm"]) < alpha for name in TESTS)


def _compare(values: pd.DataFrame, a: str, b: str) -> dict[str, object]:
    first = values[a].to_numpy(dtype=np.float64)
    second = values[b].to_numpy(dtype=np.float64)
    row: dict[str, object] = {
        "a": a, "b": b, "n": len(values), "mean_a": first.mean(), "mean_b": second.mean(),
        **effect(first, second)._asdict(),
    }  # fmt: skip
    for test in TESTS.values():
        result = test.run(first - second)
        row[f"{test.name}_statistic"], row[f"{test.name}_p"] = result
    return row


def _checked(differences: Differences) -> Differences:
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"a paired test needs at least 2 users, got {values.size}")
    if not np.isfinite(values).all():
        raise ValueError("a paired test needs finite values")
    return values
