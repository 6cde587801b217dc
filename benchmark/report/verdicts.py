"""A verdict on each reported number: inside, close, off or not comparable, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.aggregate import DatasetResults, MethodRuns
from benchmark.metrics import METRICS
from benchmark.report.comparable import Difference, differences, named
from benchmark.report.interval import DRAWS, MeanInterval, mean_intervals
from benchmark.report.reported import (
    is_reported_as,
    metric_label,
    metric_names,
    reported_rows,
    source_notes,
    source_numbers,
    sources,
)
from benchmark.report.table import Column, Table, fixed, percent

CLOSE = 0.05  # relative difference up to which a number outside our interval is close

INSIDE, NEAR, OFF, NOT_COMPARABLE, NOT_RUN = "inside", "close", "off", "not comparable", "not run"

_COLUMNS = ["method", "told_of", "source", "name", "metric", "reported", "ours", "low", "high",
            "seeds_known", "change", "verdict", "reason", "differences"]  # fmt: skip

#: Made once a data set: the table, the paragraph and the page ask for it, at different times.
_FRAMES: WeakKeyDictionary[DatasetResults, pd.DataFrame] = WeakKeyDictionary()


def judge(reported: float, ours: float, interval: MeanInterval) -> tuple[str, str]:
    """Verdict and reason for a number that can be compared.

    ``inside``: our 95% interval contains it, ends included. ``close``: it does not, but ours is
    within 5% of it. ``off``: neither.
    """
    if interval.low <= reported <= interval.high:
        return INSIDE, "our interval contains it"
    if abs(ours - reported) <= CLOSE * abs(reported):
        return NEAR, f"outside our interval, within {CLOSE:.0%}"
    return OFF, f"outside our interval, not within {CLOSE:.0%}"


def verdict_frame(result: DatasetResults) -> pd.DataFrame:
    """One row a reported number and method of ours that it is about; readers must not change it.

    Columns method (ours), told_of (the source's name for it), source (its number), name
    (``ndcg@10``), metric (its label), reported, ours, low, high, seeds_known, change, verdict,
    reason, and differences (a tuple of ``Difference``). A number of a method without runs has one
    row, ``not run``. No rows where nobody reported.
    """
    if result not in _FRAMES:
        _FRAMES[result] = _frame(result)
    return _FRAMES[result]


def _frame(result: DatasetResults) -> pd.DataFrame:
    numbers, known = source_numbers(result), sources()
    intervals = _intervals(result)
    rows = []
    for row in reported_rows(result):
        ours = [m for m in result.methods if is_reported_as(m, row)]
        source = known[row["source_key"]]
        found = {m.key: differences(result, m, source, row["rule"]) for m in ours}
        for name in metric_names(row):
            if row[name] is None:
                continue
            base = {"told_of": row["method"], "source": numbers[row["source"]], "name": name,
                    "metric": metric_label(name), "reported": row[name]}  # fmt: skip
            rows += [base | _against(result, method, name, row[name], intervals, found[method.key])
                     for method in ours] or [base | _not_run(row)]  # fmt: skip
    return pd.DataFrame(rows, columns=_COLUMNS)


def verdict_table(result: DatasetResults) -> Table | None:
    """``verdict_frame`` as a table; None where nobody reported."""
    frame = verdict_frame(result)
    if frame.empty:
        return None
    columns = (
        Column("method", "Method"), Column("source", "Source"), Column("metric", "Metric"),
        Column("reported", "Reported", fixed(4)), Column("ours", "Ours", fixed(4)),
        Column("low", "low", fixed(4)), Column("high", "high", fixed(4)),
        Column("change", "Change", percent), Column("verdict", "Verdict"),
        Column("reason", "Reason"),
    )  # fmt: skip
    caption = (
        f"Verdicts on the numbers reported elsewhere for {result.heading}. Low and high: 95% "
        f"interval of our mean, BCa bootstrap over users ({DRAWS:,} draws), joined with the t "
        "interval over seeds where there are three or more. Inside: it contains the reported "
        f"number. Close: it does not, but ours is within {CLOSE:.0%}. Off: neither. Not "
        "comparable: what the number measures or what the method was given differs, or is not "
        "known; the change is then no verdict. Not run: no run of that method is stored."
    )
    notes = [*source_notes(result), *_reason_notes(frame)]
    return Table(f"{result.dataset}-verdicts", frame, columns, caption, tuple(notes))


def summary_paragraph(result: DatasetResults) -> str:
    """One paragraph that a reader can quote: plain text, computed."""
    frame = verdict_frame(result)
    if frame.empty:
        return (
            f"No numbers are on record for {result.heading}, so there is nothing to compare with "
            "and no verdict."
        )
    counts = Counter(frame["verdict"])
    compared = frame[frame["verdict"] != NOT_RUN]
    beside = len(compared[["source", "told_of", "name"]].drop_duplicates())
    total = beside + counts[NOT_RUN]
    text = [f"Of {total} numbers reported for {result.heading}, {beside} can be set beside runs of "
            "ours" + (f", in {len(compared)} comparisons, as some are about more than one of our "
                      "methods" if len(compared) > beside else "") + "."]  # fmt: skip
    if beside:
        text.append(
            f"{counts[INSIDE]} are inside our 95% interval, {counts[NEAR]} close (within "
            f"{CLOSE:.0%}), {counts[OFF]} off and {counts[NOT_COMPARABLE]} not comparable."
        )
    why = Counter(difference.short for found in frame["differences"]
                  for difference in found if difference.bars)  # fmt: skip
    if why:
        listed = ", ".join(f"{short} ({count})" for short, count in why.most_common())
        text.append(f"What bars a comparison, and how many: {listed}.")
    judged = frame[frame["verdict"].isin((INSIDE, NEAR, OFF))]
    if few := int((~judged["seeds_known"].astype(bool)).sum()):
        text.append(f"{few} of the verdicts rest on fewer than three trainings: their intervals "
                    "know of users only.")  # fmt: skip
    return " ".join(text)


def _intervals(result: DatasetResults) -> dict[tuple[str, str], MeanInterval]:
    """By method key and metric name, for every method that a reported number is about."""
    reported = reported_rows(result)
    wanted = [m for m in result.methods if any(is_reported_as(m, row) for row in reported)]
    found = {}
    for name in metric_names(reported[0]) if wanted else []:
        metric, k = _split_name(name)
        if k not in result.ks or metric not in METRICS:
            continue
        values = [_per_seed(method, metric, k) for method in wanted]
        for method, interval in zip(wanted, mean_intervals(values), strict=True):
            found[method.key, name] = interval
    return found


def _per_seed(method: MethodRuns, metric: str, k: int) -> NDArray[np.float64]:
    """float64 [seeds, users]."""
    return np.stack([frame[(metric, k)].to_numpy(dtype=np.float64) for frame in method.per_seed])


def _against(
    result: DatasetResults,
    method: MethodRuns,
    name: str,
    reported: float,
    intervals: Mapping[tuple[str, str], MeanInterval],
    found: Sequence[Difference],
) -> dict[str, Any]:
    """The cells of one reported number beside one method of ours."""
    metric, k = _split_name(name)
    if k not in result.ks:
        missing = Difference("cut-off", f"we do not evaluate at {k}", True)
        return {"method": method.label, "verdict": NOT_COMPARABLE, "reason": missing.short,
                "differences": (missing,), "seeds_known": False}  # fmt: skip
    ours = float(result.summary(metric, k)["mean"][method.key])
    interval = intervals[method.key, name]
    barring = [difference for difference in found if difference.bars]
    if barring:
        verdict, reason = NOT_COMPARABLE, named(barring)
    else:
        verdict, reason = judge(reported, ours, interval)
        reason = "; ".join([reason, *([named(found)] if found else [])])
    return {
        "method": method.label, "ours": ours, "low": interval.low, "high": interval.high,
        "seeds_known": interval.knows_seeds, "change": ours / reported - 1 if reported else None,
        "verdict": verdict, "reason": reason, "differences": tuple(found),
    }  # fmt: skip


def _not_run(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"method": row["method"], "verdict": NOT_RUN, "reason": "no run of it is stored",
            "differences": (), "seeds_known": False}  # fmt: skip


def _reason_notes(frame: pd.DataFrame) -> list[str]:
    """What the short reasons mean, each once, with the methods it holds for."""
    who: dict[Difference, dict[str, None]] = {}
    for method, found in zip(frame["method"], frame["differences"], strict=True):
        for difference in found:
            who.setdefault(difference, {})[method] = None
    everyone = frame.loc[frame["verdict"] != NOT_RUN, "method"].nunique()
    return [
        f"{difference.short.capitalize()}{'' if difference.bars else ' (a note)'}: "
        f"{difference.words}"
        + ("." if len(methods) == everyone else f". Holds for {'; '.join(methods)}.")
        for difference, methods in sorted(who.items(), key=lambda item: not item[0].bars)
    ]


def _split_name(name: str) -> tuple[str, int]:
    metric, k = name.split("@")
    return metric, int(k)
