"""Render the report from the store: ``python -m benchmark.report [experiment=quick]``.

Options: ``experiment=NAME`` reports that experiment's cells only, ``store=FOLDER`` reads another
store (such as results/published), ``out=FOLDER`` writes elsewhere, ``codes=linear`` colours the
heat maps of code use by items and not by their logarithm (``codes=log``); anything else is a Hydra
override of the experiment. Needs no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark import store
from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.report.code_map import Scale
from benchmark.report.damage import check_run, unreadable
from benchmark.report.render import render
from benchmark.store import StoredRun


def collect(folders: Sequence[Path]) -> tuple[list[StoredRun], list[str]]:
    """The finished runs in these folders, and one line for each damaged one."""
    runs, problems = [], []
    for folder in folders:
        try:
            if store.is_done(folder):
                run = StoredRun(folder, store.read_run_json(folder) or {})
                check_run(run)
                runs.append(run)
        except UserError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{folder} cannot be read ({error}); delete it and run the cell again")
    return runs, problems


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


def folders_below(root: Path) -> list[Path]:
    """Every cell's folder in a store; the published store inside it is not part of it."""
    if not root.is_dir():
        raise UserError(f"no results folder {root}; run ./run_all.sh first, or name it with store=")
    found = sorted(path.parent for path in root.rglob("seed=*/run.json"))
    return [folder for folder in found if "published" not in folder.relative_to(root).parts]


def write_report(arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """Render; returns the index and one line for each damaged or missing cell.

    Raises:
        UserError: a bad argument, nothing to report, or runs that cannot be compared.
    """
    options = dict(_split(argument) for argument in arguments)
    out = options.pop("out", None)
    experiment = options.get("experiment")
    root = options.pop("store", None)
    scale = _scale(options.pop("codes", "log"))
    command = " ".join(["python -m benchmark.report", *arguments])
    if experiment is None:
        if options:
            raise UserError(f"unknown option {next(iter(options))}; overrides need experiment=")
        runs, problems = collect(folders_below(Path(root or "results")))
        order = method_order()
        index = render_readable(runs, Path(out or "reports/all"), "All stored runs", command, order,
                                problems, scale)  # fmt: skip
        return index, problems
    from benchmark.experiment import plan

    options.pop("experiment")
    overrides = [f"{key}={value}" for key, value in options.items()]
    cells = plan(experiment, [*overrides, *([f"results={root}"] if root else [])], check=False)
    runs, problems = collect([cell.settings.cell.folder for cell in cells])
    missing = len(cells) - len(runs) - len(problems)
    notes = [f"{missing} of the {len(cells)} cells of {experiment} are not finished"]
    order = list(dict.fromkeys(cell.settings.method_name for cell in cells))
    folder = Path(out) if out else cells[0].settings.reports / experiment
    lines = (notes if missing else []) + problems
    index = render_readable(runs, folder, f"Experiment {experiment}", command, order, lines, scale)
    return index, [line for line in lines if line not in notes]


def method_order() -> list[str]:
    """Baselines first, then the two-stage road, then what trains the IDs."""
    variants = ["diger_sdud", "diger_frqud", "diger_sdud_frqud"]
    return ["pop", "lightgcn", "sasrec_ce", "sasrec_bce", "tiger", "letter_tiger", "ste", "gumbel",
            "gumbel_cosine", "gumbel_tau", *variants, *(f"{name}_cached" for name in variants),
            *(f"{name}_detached" for name in variants)]  # fmt: skip


def _scale(name: str) -> Scale:
    scales: dict[str, Scale] = {"log": "log", "linear": "linear"}
    if name not in scales:
        raise UserError(f"codes={name} is no colour scale: give codes=log or codes=linear")
    return scales[name]


def _split(argument: str) -> tuple[str, str]:
    key, equals, value = argument.partition("=")
    if not equals:
        raise UserError(f"expected key=value, got {argument!r}")
    return key, value


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
