"""Render the report from the store: ``python -m benchmark.report [experiment=quick]``.

Options: ``experiment=NAME`` reports that experiment's cells only (``NAME,NAME``: those of several
together), ``store=FOLDER`` reads another store (such as results/published), ``out=FOLDER`` writes
elsewhere than to reports or reports/NAME, ``codes=linear`` colours the heat maps of code use by
items and not by their logarithm (``codes=log``); anything else is a Hydra override of the
experiment. Needs no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.report.code_map import Scale
from benchmark.report.damage import unreadable
from benchmark.report.render import render
from benchmark.selection import select, split_option
from benchmark.store import StoredRun


def render_readable(
    runs: list[StoredRun], out: Path, title: str, command: str, order: list[str],
    problems: list[str], scale: Scale = "log",
) -> Path:  # fmt: skip
    """``render``, but runs that cannot be aggregated even alone are left out, and a line each is
    added to ``problems``: one bad run does not cost the report of the others."""
    try:
        return render(runs, out, title, command, order, problems, scale)
    except (UserError, ValueError, KeyError, TypeError, OSError):
        bad = unreadable(runs)
        if not bad:
            raise
        problems += bad.values()
        kept = [run for run in runs if run.folder not in bad]
        return render(kept, out, title, command, order, problems, scale)


def write_report(arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """Render; returns the index and one line for each damaged cell.

    Raises:
        UserError: a bad argument, nothing to report, or runs that cannot be compared.
    """
    options = dict(split_option(argument) for argument in arguments)
    out, root = options.pop("out", None), options.pop("store", None)
    experiment, scale = options.pop("experiment", None), _scale(options.pop("codes", "log"))
    overrides = [f"{key}={value}" for key, value in options.items()]
    command = " ".join(["python -m benchmark.report", *arguments])
    chosen = select(experiment, overrides, root)
    title = _title(experiment)
    folder = Path(out) if out else chosen.reports / (experiment or "")
    lines = chosen.missing + chosen.problems
    index = render_readable(chosen.runs, folder, title, command, chosen.method_order, lines, scale)
    return index, [line for line in lines if line not in chosen.missing]


def _title(experiment: str | None) -> str:
    if experiment is None:
        return "All stored runs"
    return f"Experiment{'s' if ',' in experiment else ''} {experiment.replace(',', ', ')}"


def _scale(name: str) -> Scale:
    scales: dict[str, Scale] = {"log": "log", "linear": "linear"}
    if name not in scales:
        raise UserError(f"codes={name} is no colour scale: give codes=log or codes=linear")
    return scales[name]


def main() -> None:
    def action() -> None:
        index, problems = write_report(sys.argv[1:])
        print(index)
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        if problems:
            raise SystemExit(2)

    guard(action, __doc__)


if __name__ == "__main__":
    main()
