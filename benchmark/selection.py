"""Which stored runs a command is about: everything in a store, or the cells of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark import store
from benchmark.errors import UserError
from benchmark.kept import kept_record
from benchmark.report.damage import check_run
from benchmark.store import StoredRun


@dataclass(frozen=True)
class Selection:
    """Finished runs, and what there is to say of the others.

    Attributes:
        runs: the finished and whole ones.
        problems: one line for each damaged one.
        missing: one line on cells that are not finished; empty if there are none.
        method_order: methods in the order of tables.
        reports: where the runs' reports go.
    """

    runs: list[StoredRun]
    problems: list[str]
    missing: list[str]
    method_order: list[str]
    reports: Path


def select(
    experiment: str | None, overrides: Sequence[str] = (), root: str | None = None
) -> Selection:
    """The runs of an experiment or of several, or all of a store if none is named.

    Args:
        experiment: its name, or several with commas, or None.
        overrides: Hydra overrides of the experiment, key=value.
        root: the store; None: the experiment's own, or ``results``.

    Raises:
        UserError: no such experiment or store, a bad override, or overrides without an experiment.
    """
    if experiment is not None:
        return _of_experiment(experiment, overrides, root)
    if overrides:
        raise UserError(
            f"unknown option {overrides[0].partition('=')[0]}; overrides need experiment="
        )
    runs, problems = collect(folders_below(Path(root or "results")))
    return Selection(runs, problems, [], method_order(), Path("reports"))


def _of_experiment(experiment: str, overrides: Sequence[str], root: str | None) -> Selection:
    from benchmark.experiment import plan

    store_of = [f"results={root}"] if root else []
    plans = {name: plan(name, [*overrides, *store_of], check=False)
             for name in dict.fromkeys(experiment.split(","))}  # fmt: skip
    cells = {cell.name: cell for cells in plans.values() for cell in cells}
    found = {name: collect([cell.settings.cell.folder]) for name, cell in cells.items()}
    missing = []
    for name, its in plans.items():
        left = sum(not any(found[cell.name]) for cell in its)
        if left:
            missing.append(f"{left} of the {len(its)} cells of {name} are not finished")
    runs = [run for runs, _ in found.values() for run in runs]
    problems = [problem for _, problems in found.values() for problem in problems]
    order = list(dict.fromkeys(cell.settings.method_name for cell in cells.values()))
    return Selection(runs, problems, missing, order, next(iter(cells.values())).settings.reports)


def collect(folders: Sequence[Path]) -> tuple[list[StoredRun], list[str]]:
    """The finished runs in these folders, and one line for each damaged one.

    Their records are those that a published store or a bundle would have, so that reports do not
    differ by where the runs are."""
    runs, problems = [], []
    for folder in folders:
        try:
            if store.is_done(folder):
                run = StoredRun(folder, kept_record(folder))
                check_run(run)
                runs.append(run)
        except UserError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{folder} cannot be read ({error}); delete it and run the cell again")
    return runs, problems


def folders_below(root: Path) -> list[Path]:
    """Every cell's folder in a store; the published store inside it is not part of it, and neither
    is what has a name that begins with a dot (an import that was cut)."""
    if not root.is_dir():
        raise UserError(f"no results folder {root}; run ./run_all.sh first, or name it with store=")
    found = sorted(path.parent for path in root.rglob("seed=*/run.json"))
    return [folder for folder in found if not any(map(_is_apart, folder.relative_to(root).parts))]


def _is_apart(part: str) -> bool:
    return part == "published" or part.startswith(".")


def method_order() -> list[str]:
    """Baselines first, then the two-stage road, then what trains the IDs."""
    variants = ["diger_sdud", "diger_frqud", "diger_sdud_frqud"]
    return ["pop", "lightgcn", "sasrec_ce", "sasrec_bce", "tiger", "letter_tiger", "ste", "gumbel",
            "gumbel_cosine", "gumbel_tau", *variants, *(f"{name}_cached" for name in variants),
            *(f"{name}_detached" for name in variants)]  # fmt: skip


def split_option(argument: str) -> tuple[str, str]:
    """``key=value`` as (key, value)."""
    key, equals, value = argument.partition("=")
    if not equals:
        raise UserError(f"expected key=value, got {argument!r}")
    return key, value
