"""Compare methods with themselves: ``python -m benchmark.aa [experiment=quick]``.

Which tests find differences where there are none? Writes ``<data set>-aa.md`` and ``.tex`` for
every stored data set, the table that reports have, from more repeats, and prints the rates.

Options: ``experiment=NAME`` takes that experiment's cells only, ``store=FOLDER`` reads another
store (such as results/published), ``out=FOLDER`` writes elsewhere than reports/aa; ``repeats=``,
``users=`` (of a repeat, at most) and ``trainings=`` (made up, on each side) are whole numbers;
anything else is a Hydra override of the experiment. Needs no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.aggregate import DatasetResults, aggregate
from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.progress import make_progress
from benchmark.report.aa import CHECKS, aa_table
from benchmark.report.table import Table
from benchmark.selection import select, split_option
from benchmark.self_comparison import Size
from benchmark.store import write_text

NUMBERS = {"repeats": 2000, "users": 5000, "trainings": 5}
SMALLEST = {"repeats": 1, "users": 2, "trainings": 2}


@dataclass(frozen=True)
class Checked:
    """What the command has made.

    Attributes:
        tables: one a data set that has values to tell anything by.
        written: their files.
        problems: a line for each damaged cell and each data set that could not be checked.
    """

    tables: list[Table]
    written: list[Path]
    problems: list[str]


def check(arguments: Sequence[str]) -> Checked:
    """Compare every stored method with itself and write the tables.

    Raises:
        UserError: a bad argument, nothing stored, or runs that cannot be compared.
    """
    options = dict(split_option(argument) for argument in arguments)
    numbers = {name: _number(name, options.pop(name, str(default)))
               for name, default in NUMBERS.items()}  # fmt: skip
    out = Path(options.pop("out", Path("reports/aa") / options.get("experiment", "all")))
    results, problems = _stored(options)
    size = Size(numbers["repeats"], numbers["users"], trainings=numbers["trainings"])
    command = " ".join(["python -m benchmark.aa", *arguments])
    tables, written = [], []
    for table, result in zip(_tables(results, size), results, strict=True):
        if table is None:
            problems.append(f"{result.dataset}: no method's values could tell anything")
            continue
        for suffix, text in ((".md", table.to_markdown), (".tex", table.to_latex)):
            written.append(out / f"{table.name}{suffix}")
            write_text(written[-1], text(command))
        tables.append(table)
    return Checked(tables, written, problems)


def _tables(results: Sequence[DatasetResults], size: Size) -> list[Table | None]:
    progress, total, done = make_progress("A/A"), len(CHECKS) * len(results), 0
    found = []
    try:
        for result in results:

            def begin(check: str, dataset: str = result.dataset) -> None:
                nonlocal done
                progress(done, total, "check", f"{dataset}, {check}")
                done += 1

            found.append(aa_table(result, size, begin=begin))
        progress(total, total, "check")
    finally:
        progress.close()
    return found


def _stored(options: dict[str, str]) -> tuple[list[DatasetResults], list[str]]:
    """The data sets that the remaining options name, and a line for each damaged cell."""
    experiment, root = options.pop("experiment", None), options.pop("store", None)
    chosen = select(experiment, [f"{key}={value}" for key, value in options.items()], root)
    if not chosen.runs:
        why = f" ({chosen.problems[0]})" if chosen.problems else ""
        raise UserError(f"no finished runs to compare{why}; run the benchmark first")
    return list(aggregate(chosen.runs, chosen.method_order).values()), chosen.problems


def _number(name: str, given: str) -> int:
    if not given.isdecimal() or int(given) < SMALLEST[name]:
        raise UserError(f"{name}={given}: give a whole number, {SMALLEST[name]} or more")
    return int(given)


def main() -> None:
    def action() -> None:
        made = check(sys.argv[1:])
        for table in made.tables:
            print(table.markdown_body())
        for path in made.written:
            print(path)
        for problem in made.problems:
            print(f"error: {problem}", file=sys.stderr)
        if made.problems:
            raise SystemExit(2)

    guard(action, __doc__)


if __name__ == "__main__":
    main()
