"""Run a whole experiment: ``python -m benchmark.experiment quick [--dry-run] [--jobs N]
[--jobs-per-gpu auto|N] [--mps auto|off] [--time-limit MINUTES]``.

Each cell is its own process, so a crash costs one cell. Cells run side by side, one thread each: on
the CPU one a core; on GPUs as many as their memory is expected to hold, and no more than there are
cores, since each drives its GPU from one. Those on one GPU run at the same time by NVIDIA's MPS
where that can be had, and one after another where not. What is done is skipped; what was
interrupted goes on. The report comes last. On a machine that is there for a limited time,
``--time-limit`` runs a portion (``benchmark.portions``), without a report.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, NoReturn

from omegaconf import OmegaConf

from benchmark.config import (
    CONF,
    build_method,
    compose_config,
    settings_from,
)
from benchmark.errors import UserError
from benchmark.gpu import Needs, Room, visible_gpus
from benchmark.grid import cell_overrides, read_grids
from benchmark.guard import guard
from benchmark.portions import (
    FINISHED,
    Known,
    add_arguments,
    make_limits,
    run_portion,
    state_of,
)
from benchmark.processes import Planned, run_cells
from benchmark.run import check_writable
from benchmark.sharing import shared_by_mps, side_by_side, without_a_service


def experiments() -> list[str]:
    return sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def plan(experiment: str, extra: Sequence[str] = (), check: bool = True) -> list[Planned]:
    """Every cell of an experiment; ``check`` also makes each method, which needs torch.

    Raises:
        UserError: no such experiment, or a cell with a bad setting.
    """
    base = check_overrides(experiment, extra)
    grid = OmegaConf.to_container(compose_config(base).grid, resolve=True)
    return planned([[*base, *cell] for cell in cell_overrides(experiment, grid)], check)


def check_overrides(experiment: str, extra: Sequence[str] = ()) -> list[str]:
    """What every cell of an experiment begins with.

    Raises:
        UserError: no such experiment, or an override of what its grid sets.
    """
    if experiment not in experiments():
        raise UserError(
            f"no experiment {experiment!r}; there are {', '.join(experiments())} "
            "(benchmark/conf/experiment)"
        )
    for override in extra:
        key = override.partition("=")[0]
        if key in ("dataset", "method", "seed"):
            raise UserError(
                f"{override}: the experiment's grid sets {key}; choose with grid.{key}=[...]"
            )
    return [f"experiment={experiment}", *extra]


def planned(cells_overrides: Sequence[Sequence[str]], check: bool = True) -> list[Planned]:
    """The cells that these overrides name, each once: settings that are the same are one cell.

    Raises:
        UserError: a cell with a bad setting.
    """
    found: dict[str, Planned] = {}
    for overrides in cells_overrides:
        cell = Planned(settings_from(compose_config(overrides)), list(overrides))
        found.setdefault(cell.name, cell)
    cells = list(found.values())
    if not check:
        return cells
    needs: dict[str, bool] = {}
    for cell in cells:
        key = cell.settings.cell.config_sha256
        if key not in needs:
            needs[key] = build_method(cell.settings).needs_text
    return [replace(c, needs_text=needs[c.settings.cell.config_sha256]) for c in cells]


class _Parser(argparse.ArgumentParser):
    """Bad arguments end in one line, as all bad input does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def read_arguments(
    arguments: list[str] | None,
    prog: str = "run_all.sh",
    description: str = "Run an experiment and write its report.",
) -> argparse.Namespace:
    parser = _Parser(prog=prog, description=description)
    parser.add_argument("experiment", nargs="?", default="quick", help=", ".join(experiments()))
    parser.add_argument("--dry-run", action="store_true", help="list the cells and stop")
    parser.add_argument(
        "--jobs", type=int, default=None, help="cells at a time in all (default: one a core)"
    )
    parser.add_argument(
        "--jobs-per-gpu",
        default=None,
        metavar="auto|N",
        help="cells at a time on each visible GPU; auto, the default: as many as its memory is "
        "expected to hold, and no more in all than there are cores; one where NVIDIA's MPS is not "
        "to be had, without which they take turns",
    )
    parser.add_argument(
        "--mps", choices=("auto", "off"), default="auto",
        help="whether cells on one GPU share it by NVIDIA's MPS, where it is installed and works",
    )  # fmt: skip
    add_arguments(parser)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for every cell, key=value")
    return parser.parse_intermixed_args(arguments)


def default_jobs() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def jobs_per_gpu(text: str | None) -> int | None:
    """The number that ``--jobs-per-gpu`` gives; None for auto, or where it was not given.

    Raises:
        UserError: neither.
    """
    if text is None or text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(
            f"--jobs-per-gpu must be auto or a whole number of at least 1, got {text!r}"
        )
    return int(text)


def find_room(
    jobs: int | None, per_gpu: int | None, cells: Sequence[Planned], known: Sequence[Path] = ()
) -> Room:
    """What the cells may take of this machine.

    Args:
        jobs: most cells at a time; None: the machine decides.
        per_gpu: most cells on a GPU; None: its memory decides, and no more in all than cores.
        known: other stores, whose runs say what memory cells take.

    Raises:
        UserError: there are GPUs, and they cannot be asked.
    """
    cores = default_jobs()
    gpus = visible_gpus() if any(cell.settings.device != "cpu" for cell in cells) else []
    if not gpus:
        return Room(jobs or cores)
    needs = Needs(known)
    if per_gpu is None:
        return Room(min(jobs or cores, cores), gpus, needs=needs)
    return Room(jobs or max(cores, per_gpu * len(gpus)), gpus, per_gpu, needs)


def at_a_time(cells: Sequence[Planned], room: Room) -> str | None:
    """One line on how many of the cells start side by side on which GPU; None where none does."""
    used = [(n, gpu) for n, gpu in zip(side_by_side(cells, room), room.gpus, strict=True) if n]
    return " and ".join(f"{n} cell{'s' * (n > 1)} at a time on {gpu}" for n, gpu in used) or None


def _say_room(parsed: argparse.Namespace, cells: Sequence[Planned], room: Room) -> None:
    """Say on standard error how GPUs are shared, or that they are not."""
    line = at_a_time(cells, room)
    if line is None and parsed.jobs_per_gpu is not None and not room.gpus:
        why = "no GPU here" if any(c.settings.device != "cpu" for c in cells) else "device=cpu"
        rule = "one a core" if parsed.jobs is None else f"{room.jobs} at a time"
        line = f"--jobs-per-gpu: {why}, so cells run on the CPU, {rule}"
    if line is not None:
        print(line, file=sys.stderr, flush=True)


def execute(parsed: argparse.Namespace) -> None:
    if "=" in parsed.experiment:
        raise UserError(
            f"the first word names the experiment ({', '.join(experiments())}), "
            f"got {parsed.experiment!r}"
        )
    cells = plan(parsed.experiment, parsed.overrides)
    line = untuned_line(parsed.experiment, cells)
    if line and not parsed.dry_run:
        raise UserError(line)
    outcome = carry_out(parsed, cells)
    if line:
        print(f"note: {line}", file=sys.stderr)
    if outcome is None:
        return
    if outcome.portion:
        end_with(outcome.failures)
        return
    from benchmark.report.__main__ import write_report

    index, problems = write_report([f"experiment={parsed.experiment}", *parsed.overrides])
    print(f"report: {index}")
    end_with(outcome.failures or problems)


def untuned_line(experiment: str, cells: Sequence[Planned]) -> str | None:
    """Which methods' settings were to be chosen on validation and have not been; None where all
    have. Run as they are they would be other cells than those of the experiment."""
    _, grids = read_grids()
    lacking: dict[str, dict[str, None]] = {}
    for cell in cells:
        settings = cell.settings
        if settings.untuned and settings.method_name in grids:
            lacking.setdefault(settings.dataset.store_name, {})[settings.method_name] = None
    if not lacking:
        return None
    what = "; ".join(f"{', '.join(methods)} on {name}" for name, methods in lacking.items())
    return (
        f"{experiment} takes settings that were chosen on validation, and benchmark/conf/tuned has "
        f"none of {what}: choose them with python -m benchmark.tune {experiment}, or take the "
        "presets with tuning=none"
    )


class Outcome(NamedTuple):
    """What became of the cells.

    Attributes:
        failures: one line a failed cell.
        portion: whether there was a time limit, and cells may be left for it.
    """

    failures: list[str]
    portion: bool


def carry_out(parsed: argparse.Namespace, cells: Sequence[Planned]) -> Outcome | None:
    """Run those of the cells that are not done, as the command line says; None after a dry run.

    Raises:
        UserError: a bad argument.
    """
    if parsed.jobs is not None and parsed.jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {parsed.jobs}")
    if not parsed.assume > 0:
        raise UserError(f"--assume must be a number of minutes above 0, got {parsed.assume:g}")
    per_gpu = jobs_per_gpu(parsed.jobs_per_gpu)
    limits = make_limits(parsed.time_limit, parsed.finish_within)
    known = Known(parsed.known, assumed_seconds=60 * parsed.assume)
    states = {cell.name: state_of(cell, known) for cell in cells}
    left = [cell for cell in cells if states[cell.name] not in FINISHED]
    done = len(cells) - len(left)
    if parsed.dry_run:
        for cell in cells:
            print(f"{states[cell.name]:11}{cell.name}")
        print(f"{len(cells)} cells: {done} done, {len(left)} left", flush=True)
    else:
        check_writable(cells[0].settings.results)
        print(f"{parsed.experiment}: {len(cells)} cells, {done} done, {len(left)} left", flush=True)
    room = find_room(parsed.jobs, per_gpu, left, parsed.known)
    known.kind = "cuda" if room.gpus else "cpu"
    if parsed.dry_run:
        if left:
            _say_room(parsed, left, without_a_service(left, room, parsed.mps))
        return None
    prepare_all(left)
    with shared_by_mps(left, room, parsed.mps) as room:
        if left:
            _say_room(parsed, left, room)
        if limits is None:
            return Outcome(run_cells(left, room) if left else [], False)
        return Outcome(run_portion(cells, left, room, known, limits), True)


def end_with(problems: Sequence[str]) -> None:
    """Name the problems, and end with code 2 if there are any."""
    for problem in dict.fromkeys(problems):
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        raise SystemExit(2)


def prepare_all(cells: Sequence[Planned]) -> None:
    """Build data and embeddings once, in a process of its own, before cells ask for them.

    Where only the texts cannot be had, the cells that need none still run; the others end with
    the same one-line reason.
    """
    groups: dict[str, list[Planned]] = {}
    for cell in cells:
        groups.setdefault(cell.settings.dataset.store_name, []).append(cell)
    for group in groups.values():
        texts = [] if any(cell.needs_text for cell in group) else ["--no-embeddings"]
        command = [sys.executable, "-m", "benchmark.prepare", "--best-effort", *texts]
        code = subprocess.run([*command, *group[0].overrides], check=False).returncode
        if code:
            raise SystemExit(code)


def main(arguments: list[str] | None = None) -> None:
    guard(lambda: execute(read_arguments(arguments)))


if __name__ == "__main__":
    main()
