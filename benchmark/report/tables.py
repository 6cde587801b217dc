"""Tables of results: overall and pairwise tests."""

from __future__ import annotations

from functools import lru_cache

import pandas as pd

from benchmark.aggregate import DatasetResults
from benchmark.metrics import METRICS
from benchmark.report.reported import inputs_note, is_reported_as, reported_rows
from benchmark.report.table import Column, Table, fixed, integer, p_value, percent
from benchmark.report.tuning import tuning_notes
from benchmark.resampling import DRAWS
from benchmark.significance import (
    ALPHA,
    MIN_SEEDS,
    TESTS,
    compare_each,
    has_seeds,
    in_words,
    is_significant,
    name_tests,
)

BETTER, WORSE = "†", "‡"

#: Methods under test by the first word of their name; all others are baselines.
PROPOSED = ("diger", "gumbel", "ste")


#: What reports compare methods by, at every cut-off.
COMPARED = ("recall", "ndcg")


def compared(result: DatasetResults, metric: str, k: int) -> pd.DataFrame:
    """``compare_all`` of the results' methods, made once; readers must not change the frame."""
    return _all_compared(result)[metric, k]


@lru_cache(maxsize=1)  # a data set's tables, figures and page are made before the next one's
def _all_compared(result: DatasetResults) -> dict[tuple[str, int], pd.DataFrame]:
    keys = [(metric, k) for metric in COMPARED for k in result.ks]
    return compare_each(
        {key: result.values(*key) for key in keys}, {key: result.seed_values(*key) for key in keys}
    )


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
    for metric in COMPARED:
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
    notes = [*_seed_notes(result), *_method_notes(result), *tuning_notes(result), *result.notes]
    if "reported" in frame:
        notes.append(inputs_note(result))
    return Table(
        f"{result.dataset}-overall", frame, tuple(columns), _overall_caption(result), tuple(notes)
    )


def _marks(result: DatasetResults, metric: str, k: int) -> dict[str, str]:
    """Mark of each proposed method that is found to differ from the column's best baseline."""
    means = result.summary(metric, k)["mean"]
    kinds = {method.key: is_baseline(method.method) for method in result.methods}
    baselines = [key for key, baseline in kinds.items() if baseline]
    marks = dict.fromkeys(kinds, "")
    if not baselines or len(result.users) < 2:
        return marks
    best = str(means[baselines].idxmax())
    for _, row in compared(result, metric, k).iterrows():
        if best in (row["a"], row["b"]) and is_significant(row):
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
        f"Holm's correction over the column's {pairs} pairs of methods{_seed_rule(result)}. "
        "Baselines: "
        f"{'; '.join(m.label for m in result.methods if is_baseline(m.method)) or 'none'}."
    )


def _seed_rule(result: DatasetResults) -> str:
    """What is asked beyond the tests, as the end of a caption's sentence."""
    enough = [m for m in result.methods if len(m.seeds) >= MIN_SEEDS]
    if len(enough) < 2:
        return ""
    which = "" if len(enough) == len(result.methods) else ", where both methods have one,"
    return (
        f", and{which} the seed-aware 95% interval (users and trainings drawn, t with "
        "Satterthwaite's degrees of freedom, uncorrected) leaves 0 out"
    )


def _seed_notes(result: DatasetResults) -> list[str]:
    """What the tests cannot say, for which methods there are too few trainings, and of which the
    trainings were not all made alike."""
    return [*_training_notes(result), *_precision_notes(result)]


def _precision_notes(result: DatasetResults) -> list[str]:
    """Of each method whose trainings had products of several precisions: it is no part of a
    configuration, so that they stand in one row."""
    notes = []
    for method in result.methods:
        seeds: dict[str, list[int]] = {}
        for run in method.runs:
            said = (run.info.get("execution") or {}).get("precision")
            seeds.setdefault(str(said or "unknown"), []).append(run.seed)
        if len(seeds) > 1:
            of_each = "; ".join(
                f"{precision}: {', '.join(map(str, sorted(own)))}"
                for precision, own in sorted(seeds.items())
            )
            notes.append(
                f"{method.label}: its seeds were trained in several precisions ({of_each})."
            )
    return notes


def _training_notes(result: DatasetResults) -> list[str]:
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
    return ["The tests see users only; that one training differs from the next for all users at "
            "once is what the seed-aware interval counts. Both must agree."]  # fmt: skip


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
    """Every pair of methods on the headline cut-off; None with fewer than two methods or users.

    The frame has all of ``compare_all``, and ``words``, a sentence a pair.
    """
    k = result.headline_k
    if len(result.methods) < 2 or len(result.users) < 2:
        return None
    frame = compared(result, metric, k).copy()
    frame["words"] = [in_words(row, result.labels) for _, row in frame.iterrows()]
    best = result.summary(metric, k)["mean"].idxmax()
    against = frame.loc[(frame["a"] == best) | (frame["b"] == best), "words"].to_list()
    for side in ("a", "b"):
        frame[side] = frame[side].map(result.labels)
    return Table(
        f"{result.dataset}-pairs", frame, _pair_columns(frame),
        _pair_caption(result, frame, f"{METRICS[metric].label}@{k}"),
        (*_seed_notes(result), *against),
    )  # fmt: skip


def _pair_columns(frame: pd.DataFrame) -> tuple[Column, ...]:
    """Those on trainings only where there is something to show."""
    several = bool(frame[["sd_a", "sd_b"]].notna().any(axis=None))
    aware = any(has_seeds(row) for _, row in frame.iterrows())
    seeds = [Column("seeds_a", "seeds A", integer), Column("seeds_b", "seeds B", integer)]
    seed_ends = [Column("seed_low", "seed-aware low", fixed(4)),
                 Column("seed_high", "seed-aware high", fixed(4))]  # fmt: skip
    columns = [
        Column("a", "A"), Column("b", "B"), *(seeds if several else []),
        Column("mean_a", "A", fixed(4), spread="sd_a" if several else None),
        Column("mean_b", "B", fixed(4), spread="sd_b" if several else None),
        Column("difference", "A - B", fixed(4)),
        Column("ci_low", "low", fixed(4)), Column("ci_high", "high", fixed(4)),
        *(seed_ends if aware else []),
        Column("relative", "change", percent), Column("d_z", "d_z", fixed(3)),
        Column("mdd", "smallest", fixed(4)),
        *([Column("seed_mdd", "seed-aware smallest", fixed(4))] if aware else []),
    ]  # fmt: skip
    tests = [Column(f"{name}_p_holm", f"{t.short}, Holm", p_value) for name, t in TESTS.items()]
    return (*columns, *tests, Column("found", "found"))


def _pair_caption(result: DatasetResults, frame: pd.DataFrame, metric: str) -> str:
    users_only = not all(has_seeds(row) for _, row in frame.iterrows())
    return (
        f"Every pair of methods on {result.heading}, {metric}, paired by user "
        f"(n = {len(result.users):,}), per-user values averaged over seeds, with the standard "
        "deviation over seeds of the mean. Low and high: 95% BCa "
        f"bootstrap interval of A - B ({DRAWS:,} draws of users). d_z: Cohen's d of the paired "
        "differences. Smallest: the difference that the t-test finds four times in five at "
        f"p < {ALPHA} before correction. Found: {name_tests(len(frame))} all give p < {ALPHA} "
        f"after Holm's correction over the {len(frame)} pairs of this table"
        f"{_seed_rule(result)}."
        + (" Users only: fewer than three trainings of a method, no seed-aware interval."
           if users_only else "")
        + " The notes say in words how the method with the highest mean compares."
    )  # fmt: skip
