"""Render the report from the store: ``python -m benchmark.report [experiment=quick]``.

Options: ``experiment=NAME`` reports that experiment's cells only, ``store=FOLDER`` reads another
store (such as results/published), ``out=FOLDER`` writes elsewhere; anything else is a Hydra
override of the experiment. Needs no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.report.render import render
from benchmark.selection import collect, folders_below, method_order, select, split_option


def write_report(arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """Render; returns the index and one line for each damaged or missing cell.

    Raises:
        UserError: a bad argument, nothing to report, or runs that cannot be compared.
    """
    options = dict(split_option(argument) for argument in arguments)
    out = options.pop("out", None)
    experiment = options.get("experiment")
    root = options.pop("store", None)
    command = " ".join(["python -m benchmark.report", *arguments])
    if experiment is None:
        if options:
            raise UserError(f"unknown option {next(iter(options))}; overrides need experiment=")
        runs, problems = collect(folders_below(Path(root or "results")))
        order = method_order()
        return render(runs, Path(out or "reports/all"), "All stored runs", command, order,
                      problems), problems  # fmt: skip
    options.pop("experiment")
    overrides = [f"{key}={value}" for key, value in options.items()]
    chosen = select(experiment, overrides, root)
    folder = Path(out) if out else chosen.reports / experiment
    index = render(chosen.runs, folder, f"Experiment {experiment}", command, chosen.method_order,
                   chosen.problems + chosen.missing)  # fmt: skip
    return index, chosen.problems


def main() -> None:
    def action() -> None:
        index, problems = write_report(sys.argv[1:])
        print(index)
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        if problems:
            raise SystemExit(2)

    guard(action)


if __name__ == "__main__":
    main()
