"""What one data set's runs say of one comparison of a claim, and the verdict on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from benchmark.aggregate import DatasetResults, MethodRuns
from benchmark.errors import UserError
from benchmark.findings.claims import Claim
from benchmark.report.tables import compared
from benchmark.significance import MIN_SEEDS, TESTS, has_seeds, in_words, is_significant

SUPPORTED, CONTRADICTED = "supported", "contradicted"
NOT_DECIDED, NO_RUNS = "not decided", "no runs"


@dataclass(frozen=True)
class Evidence:
    """One comparison, first method less second; numbers are NaN where there are none.

    Attributes:
        value, other_value: means of what is compared.
        effect: Cohen's d, of paired differences over users or, for codes, over trainings.
        low, high: 95% interval over users; NaN for codes, which have no users.
        seed_low, seed_high: 95% interval over users and trainings, or over trainings for codes.
        p: after Holm's correction, the largest of the tests.
        words: the comparison in a sentence.
        change: what would change the verdict.
    """

    method: str
    other: str
    verdict: str
    words: str
    change: str
    value: float = math.nan
    other_value: float = math.nan
    difference: float = math.nan
    relative: float = math.nan
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seed_low: float = math.nan
    seed_high: float = math.nan
    p: float = math.nan
    seeds: tuple[int, ...] = ()


def find_method(result: DatasetResults, name: str) -> MethodRuns | None:
    """The runs of a method; None where there are none.

    Raises:
        UserError: it was run with several settings.
    """
    found = [method for method in result.methods if method.method == name]
    if len(found) > 1:
        raise UserError(
            f"{result.dataset}: {name} was run with {len(found)} settings, and a claim is about "
            "one: name experiments that have one"
        )
    return found[0] if found else None


def no_runs(names: Sequence[str]) -> Evidence:
    missing = " and ".join(name for name in names if name)
    other = names[1] if len(names) > 1 else ""
    return Evidence(names[0], other, NO_RUNS, f"No runs of {missing}.", f"runs of {missing}")


def more_trainings(methods: Sequence[MethodRuns]) -> str:
    """``1 more training of A and 2 more of B``, to three of each; empty where there are enough."""
    few = [(MIN_SEEDS - len(m.seeds), m.label) for m in methods if len(m.seeds) < MIN_SEEDS]
    return " and ".join(f"{count} more training{'s' * (count > 1)} of {label}"
                        for count, label in few)  # fmt: skip


def rank_evidence(result: DatasetResults, claim: Claim, pair: tuple[str, str]) -> Evidence:
    """A comparison of how well two methods rank, by NDCG at the headline cut-off."""
    first, second = (find_method(result, name) for name in pair)
    if first is None or second is None:
        found = {pair[0]: first, pair[1]: second}
        return no_runs([name if method is None else "" for name, method in found.items()])
    frame = compared(result, "ndcg", result.headline_k)
    row = _oriented(frame, first.key, second.key)
    facts = {
        "method": first.label, "other": second.label, "value": row["mean_a"],
        "other_value": row["mean_b"], "difference": row["difference"],
        "relative": row["relative"], "effect": row["d_z"], "low": row["ci_low"],
        "high": row["ci_high"], "seed_low": row["seed_low"], "seed_high": row["seed_high"],
        "p": max(float(row[f"{name}_p_holm"]) for name in TESTS),
    }  # fmt: skip
    verdict = rank_verdict(claim, row)
    return Evidence(
        **facts, seeds=(len(first.seeds), len(second.seeds)), verdict=verdict,
        words=in_words(row, result.labels), change=_change(claim, row, verdict, (first, second)),
    )  # fmt: skip


def _oriented(frame: pd.DataFrame, a: str, b: str) -> pd.Series:
    """The pair's row as a less b, whichever comes first in the frame."""
    straight = frame[(frame["a"] == a) & (frame["b"] == b)]
    if len(straight):
        return straight.iloc[0]
    row = frame[(frame["a"] == b) & (frame["b"] == a)].iloc[0].copy()
    for left, right in (("a", "b"), ("mean_a", "mean_b"), ("seeds_a", "seeds_b"),
                        ("sd_a", "sd_b")):  # fmt: skip
        row[left], row[right] = row[right], row[left]
    for low, high in (("ci_low", "ci_high"), ("seed_low", "seed_high")):
        row[low], row[high] = -row[high], -row[low]
    for key in ("difference", "d_z"):
        row[key] = -row[key]
    row["relative"] = row["difference"] / row["mean_b"] if row["mean_b"] else math.nan
    return row


def rank_verdict(claim: Claim, row: pd.Series) -> str:
    """The verdict on a row of ``compare_all``, first method less second.

    With fewer than three trainings of either nothing is decided. ``above``: supported if the
    difference is found and both intervals lie above the margin; contradicted if the opposite is
    found, or both intervals lie below the margin. ``same``: supported if both intervals lie within
    the margin; else contradicted if a difference is found.
    """
    if not has_seeds(row):
        return NOT_DECIDED
    low, high = _ends(row)
    bound, found = claim.margin * float(row["mean_b"]), is_significant(row)
    if claim.kind == "same":
        if -bound <= low and high <= bound:
            return SUPPORTED
        return CONTRADICTED if found else NOT_DECIDED
    if found and low >= bound and row["difference"] > 0:
        return SUPPORTED
    if (found and row["difference"] < 0) or (bound > 0 and high < bound):
        return CONTRADICTED
    return NOT_DECIDED


def _ends(row: pd.Series) -> tuple[float, float]:
    """Of the two intervals together."""
    return (min(float(row["ci_low"]), float(row["seed_low"])),
            max(float(row["ci_high"]), float(row["seed_high"])))  # fmt: skip


def _change(claim: Claim, row: pd.Series, verdict: str, pair: Sequence[MethodRuns]) -> str:
    """What would change the verdict, in numbers of these runs."""
    if few := more_trainings(pair):
        return few
    low, high = _ends(row)
    bound = claim.margin * float(row["mean_b"])
    if claim.kind == "same":
        limits = f"the margin of {-bound:.4f} to {bound:.4f}"
        if verdict == SUPPORTED:
            return f"an interval that leaves {limits}; it is {low:.4f} to {high:.4f}"
        return f"intervals within {limits}; they reach from {low:.4f} to {high:.4f}"
    if verdict == SUPPORTED:
        return f"a difference smaller by {low - bound:.4f} or more, with intervals as wide as these"
    if verdict == CONTRADICTED:
        over = max(bound, 0.0) - high
        return f"a difference larger by {over:.4f} or more, with intervals as wide as these"
    least = max(float(row["mdd"]), float(row["seed_mdd"]))
    by = abs(float(row["difference"]) - bound)
    times = f"; {by:.4f} takes some {math.ceil((least / by) ** 2)} times as much data" if by else ""
    return (
        f"data that find less than {least:.4f} beyond the margin four times in five (before "
        f"correction){times}"
    )


def overall(verdicts: Sequence[str]) -> str:
    """The verdict on a claim from those on its comparisons that have runs: supported if all of them
    are, contradicted if one is and none is supported."""
    known = [verdict for verdict in verdicts if verdict != NO_RUNS]
    if not known:
        return NO_RUNS
    if all(verdict == SUPPORTED for verdict in known):
        return SUPPORTED
    if CONTRADICTED in known and SUPPORTED not in known:
        return CONTRADICTED
    return NOT_DECIDED
