"""Set two stores of the same cells side by side: ``python -m benchmark.against first=A second=B``.

For what must not change a result beyond the noise of training: another precision, device or version
of the suite. Methods are matched by data set, name and configuration; each is compared with itself
over users and trainings, and the difference is given in standard deviations over seeds. Writes
``<data set>-against.md`` and ``.tex`` to ``out`` (default reports/against). Needs no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.aggregate import DatasetResults, MethodRuns, aggregate
from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.metrics import METRICS
from benchmark.report.table import Column, Table, fixed, p_value
from benchmark.selection import collect, folders_below, method_order, split_option
from benchmark.significance import MIN_SEEDS, TESTS, compare_all, found_word, holm
from benchmark.store import StoredRun, write_text

SIDES = ("first", "second")
METRIC = "ndcg"
#: Facts of run.json that may be what differs between the stores, by the words of the notes.
FACTS: Mapping[str, tuple[str, ...]] = {
    "precision": ("execution", "precision"), "device": ("device", "name"),
    "torch": ("versions", "torch"), "commit": ("git", "commit"),
}  # fmt: skip

Matched = list[tuple[MethodRuns, MethodRuns]]


def compare(arguments: Sequence[str]) -> tuple[list[Table], list[Path], list[str]]:
    """Tables, their files, and one line for each damaged cell.

    Raises:
        UserError: a bad argument, an empty store, no method that both have, or other splits.
    """
    options = dict(split_option(argument) for argument in arguments)
    out = Path(options.pop("out", "reports/against"))
    unknown = sorted(set(options) - set(SIDES))
    if unknown or set(options) != set(SIDES):
        raise UserError(
            f"{f'unknown option {unknown[0]}' if unknown else 'two stores are needed'}: "
            "python -m benchmark.against first=FOLDER second=FOLDER [out=FOLDER]"
        )
    problems: list[str] = []
    stores = []
    for side in SIDES:
        runs, damaged = collect(folders_below(Path(options[side])))
        problems += damaged
        if not runs:
            raise UserError(f"{options[side]} holds no finished runs")
        stores.append(runs)
    command = " ".join(["python -m benchmark.against", *arguments])
    tables, written = [], []
    for first, second in _datasets(stores[0], stores[1]):
        table = against_table(first, second, options["first"], options["second"])
        for suffix, text in ((".md", table.to_markdown), (".tex", table.to_latex)):
            written.append(out / f"{table.name}{suffix}")
            write_text(written[-1], text(command))
        tables.append(table)
    return tables, written, problems


def against_table(
    first: DatasetResults, second: DatasetResults, first_name: str, second_name: str
) -> Table:
    """One row a method that both have.

    Raises:
        UserError: none is in both, or they were evaluated on other users.
    """
    k = first.headline_k
    matched = _matched(first, second)
    frame = pd.DataFrame([_row(a, b, k) for a, b in matched])
    for name in TESTS:
        frame[f"{name}_p_holm"] = holm(frame[f"{name}_p"].to_numpy(dtype=np.float64))
    frame["found"] = [found_word(row) for _, row in frame.iterrows()]
    label = f"{METRICS[METRIC].label}@{k}"
    columns = (
        Column("method", "Method"), Column("seeds", "Seeds"),
        Column("mean_a", f"{label}, first", fixed(4), spread="sd_a"),
        Column("mean_b", "second", fixed(4), spread="sd_b"),
        Column("difference", "first - second", fixed(4)),
        Column("in_sd", "in sd over seeds", fixed(2)),
        Column("ci_low", "low", fixed(4)), Column("ci_high", "high", fixed(4)),
        Column("seed_low", "seed-aware low", fixed(4)),
        Column("seed_high", "seed-aware high", fixed(4)),
        Column("seed_mdd", "seed-aware smallest", fixed(4)),
        *(Column(f"{name}_p_holm", f"{test.short}, Holm", p_value)
          for name, test in TESTS.items()),
        Column("found", "found"),
    )  # fmt: skip
    caption = (
        f"The same methods in two stores on {first.heading}, n = {len(first.users):,} users; mean "
        "± standard deviation over seeds. In sd over seeds: the difference over the standard "
        "deviation of one training's mean (both stores' variances, averaged). Low and high: 95% "
        "BCa interval of the difference over users; seed-aware: over users and trainings, from "
        f"{MIN_SEEDS} seeds a store. Smallest: difference that four such studies in five would "
        "find. p-values after Holm's correction over the methods of this table."
    )
    notes = (f"First: {first_name}{_facts(matched, 0)}.", f"Second: {second_name}"
             f"{_facts(matched, 1)}.")  # fmt: skip
    return Table(f"{first.dataset}-against", frame, columns, caption, notes)


def _datasets(
    first: list[StoredRun], second: list[StoredRun]
) -> list[tuple[DatasetResults, DatasetResults]]:
    shared = {_identity(run) for run in first} & {_identity(run) for run in second}
    if not shared:
        raise UserError("the two stores have no method with the same data set and configuration")
    sides = [
        aggregate([run for run in runs if _identity(run) in shared], method_order())
        for runs in (first, second)
    ]
    return [(sides[0][name], sides[1][name]) for name in sides[0]]


def _identity(run: StoredRun) -> tuple[str, str, str]:
    return run.dataset, run.method, run.config_sha256


def _matched(first: DatasetResults, second: DatasetResults) -> Matched:
    """Methods of both, in the first one's order."""
    splits = [results.runs[0].split_sha256 for results in (first, second)]
    if splits[0] != splits[1] or not first.users.equals(second.users) or first.ks != second.ks:
        raise UserError(
            f"the two stores' runs of {first.dataset} have other splits, users or cut-offs "
            "and cannot be compared"
        )
    others = {(m.method, m.runs[0].config_sha256): m for m in second.methods}
    return [(m, others[(m.method, m.runs[0].config_sha256)]) for m in first.methods]


def _row(a: MethodRuns, b: MethodRuns, k: int) -> pd.Series:
    values = pd.DataFrame({s: m.per_user[(METRIC, k)] for s, m in zip(SIDES, (a, b), strict=True)})
    per_seed = {
        side: np.stack([frame[(METRIC, k)].to_numpy() for frame in method.per_seed], axis=1)
        for side, method in zip(SIDES, (a, b), strict=True)
    }
    row = compare_all(values, per_seed).iloc[0].copy()
    sd = float(np.sqrt((row["sd_a"] ** 2 + row["sd_b"] ** 2) / 2))
    row["method"], row["in_sd"] = a.label, row["difference"] / sd if sd > 0 else np.nan
    row["seeds"] = f"{len(a.seeds)} / {len(b.seeds)}"
    return row


def _facts(matched: Matched, side: int) -> str:
    """`` (precision bf16; device ...)`` of the runs of one store."""
    found = []
    for words, path in FACTS.items():
        values = dict.fromkeys(str(v) for pair in matched for v in pair[side].facts(*path))
        if values:
            found.append(f"{words} {', '.join(values)}")
    return f" ({'; '.join(found)})" if found else ""


def main() -> None:
    def action() -> None:
        tables, written, problems = compare(sys.argv[1:])
        for table in tables:
            print(table.markdown_body())
        for path in written:
            print(path)
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        if problems:
            raise SystemExit(2)

    guard(action, __doc__)


if __name__ == "__main__":
    main()
