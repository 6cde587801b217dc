"""Comparisons of how many codes stay in use. The unit is the training: codes have no users.

The measure is the perplexity of code use over all items, exp(entropy), as a share of the codebook,
mean over levels: 1 where all codes are used alike, 1 / K where one code is left. Two methods are
compared by Welch's t-test (1947) of their trainings, with Holm's correction over the claim's
comparisons; how much a method keeps of where it starts, by Student's t interval of its trainings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmark.aggregate import DatasetResults, MethodRuns
from benchmark.findings.claims import Claim
from benchmark.findings.evidence import (
    CONTRADICTED,
    NOT_DECIDED,
    SUPPORTED,
    Evidence,
    find_method,
    more_trainings,
    no_runs,
)
from benchmark.paired import holm
from benchmark.report.diagnostics import epochs, series
from benchmark.report.table import p_value
from benchmark.resampling import LEVEL
from benchmark.significance import ALPHA, MIN_SEEDS
from benchmark.store import StoredRun

#: Codes have collapsed where less than this share of the starting perplexity is left.
COLLAPSED = 0.5

Floats = NDArray[np.float64]


class CodeCourse(NamedTuple):
    """Of the trainings of a method, each [n_trainings].

    Attributes:
        first, last: perplexity / K after the first and in the last epoch, mean over levels.
        used: codes with an item in the last epoch / K, mean over levels.
        trend: change of perplexity / K an epoch, least squares over the epochs.
    """

    first: Floats
    last: Floats
    used: Floats
    trend: Floats


class Welch(NamedTuple):
    """Difference of two means, its 95% interval, p-value and Cohen's d."""

    difference: float
    low: float
    high: float
    p: float
    d: float


def code_course(method: MethodRuns) -> CodeCourse | None:
    """How the codes are used over training; None where a run does not log it."""
    found = [_course(run) for run in method.runs]
    rows = [row for row in found if row is not None]
    if not rows or len(rows) < len(found):
        return None
    return CodeCourse(*np.array(rows, dtype=np.float64).T)


def _course(run: StoredRun) -> tuple[float, float, float, float] | None:
    log, size = epochs(run), (run.info.get("describe") or {}).get("codebook_size")
    perplexity, used = series(log, "codes/perplexity"), series(log, "codes/used")
    if not perplexity or not used or not size:
        return None
    at = np.array([epoch for epoch, _ in perplexity], dtype=np.float64)
    shares = np.array([float(np.mean(value)) for _, value in perplexity]) / size
    trend = float(np.polyfit(at, shares, 1)[0]) if len(at) > 1 else 0.0
    # What is left of a level line has another sign from processor to processor.
    trend = round(trend, 12) + 0.0
    return shares[0], shares[-1], float(np.mean(used[-1][1])) / size, trend


def welch(a: Floats, b: Floats) -> Welch:
    """Welch's t-test of a - b, two trainings or more each. Values that do not vary at all: the
    interval is the difference, p is 1 for none and 0 for any."""
    difference = float(a.mean() - b.mean())
    variance = (a.var(ddof=1) + b.var(ddof=1)) / 2
    if variance < 1e-24:  # below what float64 means of shares can tell from none
        none = abs(difference) < 1e-12
        d = 0.0 if none else math.copysign(math.inf, difference)
        return Welch(difference, difference, difference, 1.0 if none else 0.0, d)
    test = stats.ttest_ind(a, b, equal_var=False)
    ends = test.confidence_interval(LEVEL)
    return Welch(difference, float(ends.low), float(ends.high), float(test.pvalue),
                 difference / math.sqrt(variance))  # fmt: skip


def kept_evidence(result: DatasetResults, claim: Claim) -> list[Evidence]:
    """Whether the first method of each pair has more codes in use at the end than the second."""
    courses = [_pair(result, pair) for pair in claim.pairs]
    tests = [
        welch(c[0].last, c[1].last) if c is not None and _enough(m) else None for m, c in courses
    ]
    corrected = iter(holm([test.p for test in tests if test is not None]))
    found = []
    for pair, (methods, course), test in zip(claim.pairs, courses, tests, strict=True):
        if course is None:
            missing = [name if find_method(result, name) is None else "" for name in pair]
            found.append(no_runs(missing if any(missing) else list(pair)))
            continue
        p = math.nan if test is None else float(next(corrected))
        found.append(_kept(methods, course, test, p))
    return found


Methods = Sequence[MethodRuns]


def _pair(
    result: DatasetResults, pair: tuple[str, str]
) -> tuple[Methods, tuple[CodeCourse, CodeCourse] | None]:
    methods = [method for name in pair if (method := find_method(result, name)) is not None]
    courses = [course for method in methods if (course := code_course(method)) is not None]
    return methods, (courses[0], courses[1]) if len(courses) == 2 else None


def _enough(methods: Methods) -> bool:
    return all(len(method.seeds) >= MIN_SEEDS for method in methods)


def _kept(
    methods: Methods, courses: tuple[CodeCourse, CodeCourse], test: Welch | None, p: float
) -> Evidence:
    first, second = methods
    value, other = (float(course.last.mean()) for course in courses)
    words = (
        f"{first.label} ends with {value:.1%} of its codes in effective use, {second.label} with "
        f"{other:.1%}"
    )
    base: dict[str, Any] = {
        "method": first.label, "other": second.label, "value": value, "other_value": other,
        "difference": value - other, "relative": value / other - 1,
    }  # fmt: skip
    seeds = (len(first.seeds), len(second.seeds))
    if test is None:
        few = more_trainings(methods)
        return Evidence(**base, seeds=seeds, verdict=NOT_DECIDED, change=few,
                        words=f"{words}; too few trainings for a test.")  # fmt: skip
    words += (
        f"; 95% interval of the difference over trainings {test.low:.3f} to {test.high:.3f}, p "
        f"after Holm's correction: Welch's t-test {p_value(p)}"
    )
    verdict = NOT_DECIDED if not p < ALPHA else SUPPORTED if test.difference > 0 else CONTRADICTED
    near = test.low if test.difference > 0 else -test.high
    change = (f"a difference smaller by {near:.1%} of the codes" if verdict != NOT_DECIDED
              else f"trainings whose means differ beyond {test.low:.1%} to {test.high:.1%}, or "
              "more of them")  # fmt: skip
    return Evidence(
        **base, effect=test.d, seed_low=test.low, seed_high=test.high, p=p,
        seeds=seeds, verdict=verdict, words=f"{words}.", change=change,
    )  # fmt: skip


def lost_evidence(result: DatasetResults, claim: Claim) -> list[Evidence]:
    """Whether the first method of each pair is left with less than half of the second's perplexity,
    which is a frozen starting point: its mean counts as known."""
    return [_lost(result, pair) for pair in claim.pairs]


def _lost(result: DatasetResults, pair: tuple[str, str]) -> Evidence:
    methods, courses = _pair(result, pair)
    if courses is None:
        missing = [name if find_method(result, name) is None else "" for name in pair]
        return no_runs(missing if any(missing) else list(pair))
    method, start = methods
    kept = courses[0].last / courses[1].last.mean()
    mean = float(kept.mean())
    words = (
        f"{method.label} ends with {courses[0].last.mean():.1%} of its codes in effective use: "
        f"{mean:.1%} of what {start.label} has ({courses[1].last.mean():.1%})"
    )
    base: dict[str, Any] = {
        "method": method.label, "other": start.label, "value": float(courses[0].last.mean()),
        "other_value": float(courses[1].last.mean()), "relative": mean - 1,
        "difference": float(courses[0].last.mean() - courses[1].last.mean()),
        "seeds": (len(method.seeds), len(start.seeds)),
    }  # fmt: skip
    if not _enough([method]):
        return Evidence(**base, verdict=NOT_DECIDED, change=more_trainings([method]),
                        words=f"{words}; too few trainings for an interval.")  # fmt: skip
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(kept) - 1) * kept.std(ddof=1))
    reach /= math.sqrt(len(kept))
    low, high = mean - reach, mean + reach
    verdict = SUPPORTED if high < COLLAPSED else CONTRADICTED if low > COLLAPSED else NOT_DECIDED
    words += f", 95% interval over trainings {low:.1%} to {high:.1%}."
    if verdict == NOT_DECIDED:
        change = f"more trainings: the interval holds {COLLAPSED:.0%}"
    else:
        change = f"trainings whose interval holds {COLLAPSED:.0%}"
    return Evidence(**base, verdict=verdict, change=change, words=words)
