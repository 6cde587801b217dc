"""Tables of results: overall and pairwise tests."""

from __future__ import annotations

from functools import lru_cache

import pandas as pd

from benchmark.aggregate import DatasetResults
from benchmark.metrics import METRICS
from benchmark.report.reported import inputs_note, is_reported_as, reported_rows
from benchmark.report.table import Column, Table, fixed, integer, p_value, percent
from benchmark.resampling import DRAWS
from benchmark.significance import compare_all, is_significant, name_tests

ALPHA = 0.05
MIN_SEEDS = 3  # below this nothing can be said about differences between trainings
BETTER, WORSE = "†", "‡"

#: Methods under test by the first word of their name; all others are baselines.
PROPOSED = ("diger", "gumbel", "ste")


@lru_cache(maxsize=16)  # marks and pairs share it; a data set needs six
def compared(result: DatasetResults, metric: str, k: int) -> pd.DataFrame:
    """``compare_all`` of the results' methods, made once; readers must not change the frame."""
    return compare_all(result.values(metric, k))


def is_baseline(method: str) -> bool:
    return method.split("_")[0] not in PROPOSED


def overall_table(result: DatasetResults) -> Table:
    """One row a method: Recall and NDCG at every cut-off, mean and sd over seeds."""
    frame = pd.DataFrame(
        {
            "method": [m.label for m in result.methods],
            "seeds": [len(m.seeds) for m in result.methods],
        },
        index=list(result.labels),
    )
    columns = [Column("method", "Method"), Column("seeds", "Seeds", integer)]
    for metric in ("recall", "ndcg"):
        for k in result.ks:
            name, summary = f"{metric}@{k}", result.summary(metric, k)
            frame[name], frame[f"{name}/sd"] = summary["mean"], summary["sd"]
            frame[f"{name}/mark"] = pd.Series(_marks(result, metric, k))
            columns.append(
                Column(
                    name,
                    f"{METRICS[metric].label}@{k}",
                    fixed(4),
                    "max" if METRICS[metric].higher_is_better else "min",
                    f"{name}/sd",
                    f"{name}/mark",
                )
            )
    reported = [row for row in reported_rows(result) if row["ndcg@10"] is not None]
    if reported and 10 in result.ks:
        frame["reported"] = [
            "; ".join(f"{r['ndcg@10']:.4f}" for r in reported if is_reported_as(m, r)) or None
            for m in result.methods
        ]
        columns.append(Column("reported", "Reported NDCG@10"))
    notes = [*_seed_notes(result), *_method_notes(result), *result.notes]
    if "reported" in frame:
        notes.append(inputs_note(result))
    return Table(
        f"{result.dataset}-overall", frame, tuple(columns), _overall_caption(result), tuple(notes)
    )


def _marks(result: DatasetResults, metric: str, k: int) -> dict[str, str]:
    """Mark of each proposed method that differs from the column's best baseline by every test."""
    means = result.summary(metric, k)["mean"]
    kinds = {method.key: is_baseline(method.method) for method in result.methods}
    baselines = [key for key, baseline in kinds.items() if baseline]
    marks = dict.fromkeys(kinds, "")
    if not baselines or len(result.users) < 2:
        return marks
    best = str(means[baselines].idxmax())
    for _, row in compared(result, metric, k).iterrows():
        if best in (row["a"], row["b"]) and is_significant(row, ALPHA):
            other = row["b"] if row["a"] == best else row["a"]
            if not kinds[other]:
                marks[other] = BETTER if means[other] > means[best] else WORSE
    return marks


def _overall_caption(result: DatasetResults) -> str:
    pairs = len(result.methods) * (len(result.methods) - 1) // 2
    return (
        f"Results on {result.heading}: mean ± standard deviation over seeds of the mean over "
        f"{len(result.users):,} test users. Best value bold, second underlined. {BETTER} above, "
        f"{WORSE} below the best baseline of the column: {name_tests(pairs)} on per-user "
        f"values averaged over seeds (n = {len(result.users):,} users) all give p < {ALPHA} after "
        f"Holm's correction over the column's {pairs} pairs of methods. Baselines: "
        f"{'; '.join(m.label for m in result.methods if is_baseline(m.method)) or 'none'}."
    )


def _seed_notes(result: DatasetResults) -> list[str]:
    """What the tests cannot say, and for which methods there are too few trainings."""
    lines = []
    for number, words in ((1, "One training"), (2, "Two trainings")):
        few = [m.label for m in result.methods if len(m.seeds) == number]
        everyone = len(few) == len(result.methods)
        if few:
            lines.append(f"{words}: {'every method' if everyone else '; '.join(few)}.")
    if lines:
        return [f"{' '.join(lines)} Users only: the tests do not know how much one training "
                "differs from the next; a mark says nothing beyond these trainings."]  # fmt: skip
    return ["The tests see users only; how much trainings differ is shown by the standard "
            "deviation, and no seed-aware interval was computed."]  # fmt: skip


def _method_notes(result: DatasetResults) -> list[str]:
    """What each method says of itself, and who leaves out items already seen."""
    excluded: dict[bool, list[str]] = {}
    notes = []
    for method in result.methods:
        for value in sorted(set(method.facts("exclude_seen"))):
            excluded.setdefault(bool(value), []).append(method.label)
        own = dict.fromkeys(str(n) for notes in method.facts("describe", "notes") for n in notes)
        notes += [f"{method.label}: {note}" for note in own]
    texts = {True: "are left out of the lists", False: "may be recommended again"}
    for value in (True, False):
        if value in excluded:
            notes.append(f"Items already seen {texts[value]}: {'; '.join(excluded[value])}.")
    lost = (result.fact("repeated_targets") or {}).get("test", 0)
    if True in excluded and lost:
        notes.append(
            f"{lost:,} of the {len(result.users):,} test targets are items that the user had "
            "before: whoever leaves out seen items cannot hit them."
        )
    return notes


def pairwise_table(result: DatasetResults, metric: str = "ndcg") -> Table | None:
    """Every pair of methods on the headline cut-off; None with fewer than two methods or users."""
    k = result.headline_k
    if len(result.methods) < 2 or len(result.users) < 2:
        return None
    frame = compared(result, metric, k).copy()
    frame["found"] = ["yes" if is_significant(row, ALPHA) else "no" for _, row in frame.iterrows()]
    for side in ("a", "b"):
        frame[side] = frame[side].map(result.labels)
    columns = [
        Column("a", "A"), Column("b", "B"), Column("mean_a", "A", fixed(4)),
        Column("mean_b", "B", fixed(4)), Column("difference", "A - B", fixed(4)),
        Column("ci_low", "low", fixed(4)), Column("ci_high", "high", fixed(4)),
        Column("relative", "change", percent), Column("d_z", "d_z", fixed(3)),
    ]  # fmt: skip
    for name, header in (("t", "p, t-test"), ("wilcoxon", "p, Wilcoxon")):
        columns += [Column(f"{name}_p", header, p_value), Column(f"{name}_p_holm", "Holm", p_value)]
    columns += [Column("flip_p_holm", "sign flips, Holm", p_value), Column("found", "found")]
    caption = (
        f"Every pair of methods on {result.heading}, {METRICS[metric].label}@{k}, paired by user "
        f"(n = {len(result.users):,}), per-user values averaged over seeds. Low and high: 95% BCa "
        f"bootstrap interval of A - B ({DRAWS:,} draws of users). d_z: Cohen's d of the paired "
        f"differences. Found: {name_tests(len(frame))} all give p < {ALPHA} after Holm's "
        f"correction over the {len(frame)} pairs of this table."
    )
    return Table(
        f"{result.dataset}-pairs", frame, tuple(columns), caption, tuple(_seed_notes(result))
    )
