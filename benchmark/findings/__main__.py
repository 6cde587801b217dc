"""For and against the paper's claims: ``python -m benchmark.findings experiment=beauty,yelp``.

Options: ``experiment=A,B`` names the experiments, judged apart, and ``A+B`` some that have
different methods on the same split, judged together; ``store=FOLDER`` reads another store (such as
results/published), with its notes.yaml; ``out=FILE`` writes elsewhere than reports/findings.md.
Ends with code 2 where runs are damaged or a method that is far below its reported value has no
paragraph. Needs no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmark.aggregate import DatasetResults, aggregate
from benchmark.errors import UserError
from benchmark.findings.notes import below_reported, missing_notes, read_notes
from benchmark.findings.page import Section, write_page
from benchmark.guard import guard
from benchmark.selection import select, split_option
from benchmark.store import write_text

OPTIONS = ("experiment", "store", "out")


def write_findings(arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """Write the page; returns its path and one line for each damaged run or missing paragraph.

    Raises:
        UserError: a bad argument, or runs that cannot be compared.
    """
    options = dict(map(split_option, arguments))
    for key in options:
        if key not in OPTIONS:
            raise UserError(f"unknown option {key}; there are {', '.join(OPTIONS)}")
    names = [name for name in options.get("experiment", "").split(",") if name]
    if not names:
        raise UserError("name the experiments: experiment=beauty,yelp")
    root = options.get("store", "results")
    sections: list[Section] = []
    problems: list[str] = []
    unfinished: list[str] = []
    for name in dict.fromkeys(names):
        chosen = select(name.replace("+", ","), [], root)
        problems += chosen.problems
        unfinished += chosen.missing
        found = aggregate(chosen.runs, chosen.method_order)
        if "+" in name:
            check_together(name, found.values())
        sections += [Section(name, result) for result in found.values()] or [Section(name, None)]
    below = below_reported([section.result for section in sections if section.result])
    notes = read_notes(Path(root))
    missing = missing_notes(below, notes)
    command = " ".join(["python -m benchmark.findings", *arguments])
    path = Path(options.get("out", "reports/findings.md"))
    write_text(path, write_page(sections, below, notes, command, problems + unfinished))
    return path, problems + missing


def check_together(name: str, results: Iterable[DatasetResults]) -> None:
    """That nothing is pooled, where several experiments are judged together.

    Raises:
        UserError: a method is in them with different settings.
    """
    for result in results:
        names = [method.method for method in result.methods]
        twice = sorted({one for one in names if names.count(one) > 1})
        if twice:
            raise UserError(
                f"{name}: {', '.join(twice)} on {result.dataset} with different settings; these "
                "experiments can be judged apart only, with commas"
            )


def main() -> None:
    def action() -> None:
        path, problems = write_findings(sys.argv[1:])
        print(path)
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        if problems:
            raise SystemExit(2)

    guard(action, __doc__)


if __name__ == "__main__":
    main()
