"""Each method under test against each baseline, one table a data set."""

from __future__ import annotations

from typing import Any

import pandas as pd

from benchmark.aggregate import DatasetResults
from benchmark.metrics import METRICS
from benchmark.report.table import Column, Table, fixed, p_value, percent
from benchmark.report.tables import compared, is_baseline
from benchmark.significance import ALPHA, TESTS, is_significant, name_tests


def baseline_table(result: DatasetResults) -> Table | None:
    """Differences on the headline cut-off; None without a baseline and a method under test."""
    k = result.headline_k
    tested = [m.key for m in result.methods if not is_baseline(m.method)]
    baselines = [m.key for m in result.methods if is_baseline(m.method)]
    if not tested or not baselines or len(result.users) < 2:
        return None
    pairs = compared(result, "ndcg", k)
    rows = [against(pairs, a, b) for a in tested for b in baselines]
    frame = pd.DataFrame(rows)
    for side in ("method", "baseline"):
        frame[side] = frame[side].map(result.labels)
    columns = (
        Column("method", "Method"), Column("baseline", "Baseline"),
        Column("difference", "Difference", fixed(4)), Column("low", "low", fixed(4)),
        Column("high", "high", fixed(4)), Column("relative", "Change", percent),
        Column("p", "p", p_value), Column("found", "Found"),
    )  # fmt: skip
    caption = (
        f"Each method under test against each baseline on {result.heading}, "
        f"{METRICS['ndcg'].label}@{k}: method less baseline, paired by user "
        f"(n = {len(result.users):,}), per-user values averaged over seeds. Low and high: 95% BCa "
        "bootstrap interval over users. Change: difference over the baseline's mean. p: the "
        f"largest of {name_tests(len(pairs))}, after Holm's correction over all {len(pairs)} "
        f"pairs of methods. Found: as in the table of pairs (p < {ALPHA} there)."
    )
    return Table(f"{result.dataset}-baselines", frame, columns, caption)


def against(pairs: pd.DataFrame, method: str, baseline: str) -> dict[str, Any]:
    """A method less another from ``compared``'s frame, whichever comes first there: method,
    baseline, difference, low, high, relative, p (the largest of the tests, after Holm's
    correction) and found (yes or no, or what the frame itself says)."""
    straight = (pairs["a"] == method) & (pairs["b"] == baseline)
    turned = (pairs["a"] == baseline) & (pairs["b"] == method)
    row = pairs[straight | turned].iloc[0]
    sign = 1.0 if row["a"] == method else -1.0
    ends = sorted((sign * float(row["ci_low"]), sign * float(row["ci_high"])))
    base = float(row["mean_b"] if sign > 0 else row["mean_a"])
    difference = sign * float(row["difference"])
    found = row["found"] if "found" in row else "yes" if is_significant(row, ALPHA) else "no"
    return {
        "method": method, "baseline": baseline, "difference": difference,
        "low": ends[0], "high": ends[1], "relative": difference / base if base else None,
        "p": max(float(row[f"{name}_p_holm"]) for name in TESTS), "found": found,
    }  # fmt: skip
