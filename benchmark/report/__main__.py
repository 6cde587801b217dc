"""Render the report from the store: ``python -m benchmark.report [experiment=quick]``.

Options: ``experiment=NAME`` reports that experiment's cells only, ``store=FOLDER`` reads another
store (such as results/published), ``out=FOLDER`` writes elsewhere than to reports or
reports/NAME; anything else is a Hydra override of the experiment. Needs no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark import store
from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.report.render import render
from benchmark.store import StoredRun


def collect(folders: Sequence[Path]) -> tuple[list[StoredRun], list[str]]:
    """The finished runs in these folders, and one line for each damaged one."""
    runs, problems = [], []
    for folder in folders:
        try:
            if store.is_done(folder):
                runs.append(StoredRun(folder, store.read_run_json(folder) or {}))
        except UserError as error:
            problems.append(str(error))
    return runs, problems


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
    command = " ".join(["python -m benchmark.report", *arguments])
    if experiment is None:
        if options:
            raise UserError(f"unknown option {next(iter(options))}; overrides need experiment=")
        runs, problems = collect(folders_below(Path(root or "results")))
        order = method_order()
        return render(runs, Path(out or "reports"), "All stored runs", command, order,
                      problems), problems  # fmt: skip
    from benchmark.experiment import plan

    options.pop("experiment")
    overrides = [f"{key}={value}" for key, value in options.items()]
    cells = plan(experiment, [*overrides, *([f"results={root}"] if root else [])], check=False)
    runs, problems = collect([cell.settings.cell.folder for cell in cells])
    missing = len(cells) - len(runs) - len(problems)
    notes = [f"{missing} of the {len(cells)} cells of {experiment} are not finished"]
    order = list(dict.fromkeys(cell.settings.method_name for cell in cells))
    folder = Path(out) if out else cells[0].settings.reports / experiment
    index = render(runs, folder, f"Experiment {experiment}", command, order,
                   problems + (notes if missing else []))  # fmt: skip
    return index, problems


def method_order() -> list[str]:
    """Baselines first, then the two-stage road, then what trains the IDs."""
    variants = ["diger_sdud", "diger_frqud", "diger_sdud_frqud"]
    return ["pop", "lightgcn", "sasrec_ce", "sasrec_bce", "tiger", "letter_tiger", "ste", "gumbel",
            "gumbel_cosine", "gumbel_tau", *variants, *(f"{name}_cached" for name in variants),
            *(f"{name}_detached" for name in variants)]  # fmt: skip


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
