"""Run a whole experiment: ``python -m benchmark.experiment quick [--dry-run] [--jobs N]``.

Each cell is its own process, so a crash costs one cell. Cells run side by side, one thread each.
What is done is skipped; what was interrupted goes on. The report comes last.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import OmegaConf
from tqdm import tqdm

from benchmark import store
from benchmark.config import (
    CONF,
    Settings,
    build_method,
    compose_config,
    settings_from,
)
from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.progress import FILE_VARIABLE, PARENT_VARIABLE
from benchmark.run import check_writable

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Planned:
    """A cell of the experiment and the command-line overrides that run it.

    ``needs_text`` is what its method says; True where no method was made to ask.
    """

    settings: Settings
    overrides: list[str]
    needs_text: bool = True

    @property
    def name(self) -> str:
        return str(self.settings.cell)

    def state(self) -> str:
        """done, left or damaged."""
        try:
            return "done" if store.is_done(self.settings.cell.folder) else "left"
        except UserError:
            return "damaged"


def experiments() -> list[str]:
    return sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def plan(experiment: str, extra: Sequence[str] = (), check: bool = True) -> list[Planned]:
    """Every cell of an experiment; ``check`` also makes each method, which needs torch.

    Raises:
        UserError: no such experiment, or a cell with a bad setting.
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
    base = [f"experiment={experiment}", *extra]
    grid = OmegaConf.to_container(compose_config(base), resolve=True)
    grid = grid["grid"] if isinstance(grid, dict) else None
    if not isinstance(grid, dict) or sorted(grid) != ["dataset", "method", "seed"]:
        raise UserError(f"experiment {experiment} needs a grid of dataset, method and seed")
    cells = []
    for dataset, method, seed in itertools.product(grid["dataset"], grid["method"], grid["seed"]):
        overrides = [*base, f"dataset={dataset}", f"method={method}", f"seed={seed}"]
        cells.append(Planned(settings_from(compose_config(overrides)), overrides))
    if not check:
        return cells
    needs: dict[str, bool] = {}
    for cell in cells:
        key = cell.settings.cell.config_sha256
        if key not in needs:
            needs[key] = build_method(cell.settings).needs_text
    return [replace(c, needs_text=needs[c.settings.cell.config_sha256]) for c in cells]


@dataclass
class _Job:
    cell: Planned
    process: subprocess.Popen[bytes]
    bar: Any
    slot: int
    started: float = field(default_factory=time.monotonic)

    @property
    def progress_file(self) -> Path:
        return self.cell.settings.cell.folder / "progress.json"

    @property
    def output_file(self) -> Path:
        return self.cell.settings.cell.folder / "output.log"


def _start(cell: Planned, slot: int) -> _Job:
    folder = cell.settings.cell.folder
    folder.mkdir(parents=True, exist_ok=True)
    threads = str(cell.settings.threads)
    environment = {
        **os.environ,
        FILE_VARIABLE: str(folder / "progress.json"),
        PARENT_VARIABLE: str(os.getpid()),
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmark.run", *cell.overrides],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
    settings = cell.settings
    label = f"{settings.method_name} seed {settings.seed}"
    # Bars of running cells make sense on a terminal only; a log gets one line a finished cell.
    bar = tqdm(total=1, desc=f"  {label}", position=slot + 1, leave=False,
               disable=not sys.stderr.isatty())  # fmt: skip
    return _Job(cell, process, bar, slot)


def _show(job: _Job) -> None:
    try:
        facts = json.loads(job.progress_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if job.bar.total != facts["total"]:
        job.bar.reset(total=facts["total"])
        job.bar.unit = facts["unit"]
    job.bar.set_postfix_str(facts["note"], refresh=False)
    job.bar.update(facts["done"] - job.bar.n)


def run_cells(cells: Sequence[Planned], jobs: int) -> list[str]:
    """Run the cells, ``jobs`` at a time; returns one line per failure."""
    waiting, running, failures = list(cells), list[_Job](), list[str]()
    slots = list(range(jobs))
    overall = tqdm(total=len(cells), unit="cell", desc="cells", position=0)
    try:
        while waiting or running:
            while waiting and slots:
                running.append(_start(waiting.pop(0), slots.pop(0)))
            time.sleep(POLL_SECONDS)
            for job in list(running):
                _show(job)
                code = job.process.poll()
                if code is None:
                    continue
                running.remove(job)
                slots.append(job.slot)
                job.bar.close()
                overall.update()
                seconds = time.monotonic() - job.started
                if code == 0:
                    overall.write(f"done in {seconds:.0f} s: {job.cell.name}")
                else:
                    failures.append(f"{job.cell.name} failed ({code}): {_last_line(job)}")
                    overall.write(failures[-1])
    finally:
        for job in running:
            job.process.terminate()
        for job in running:
            job.process.wait()
            job.bar.close()
        overall.close()
    return failures


def _last_line(job: _Job) -> str:
    text = job.output_file.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    lines = [line for line in text.splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'no output'} (all of it: {job.output_file})"


class _Parser(argparse.ArgumentParser):
    """Bad arguments end in one line, as all bad input does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="run_all.sh", description="Run an experiment and write its report.")
    parser.add_argument("experiment", nargs="?", default="quick", help=", ".join(experiments()))
    parser.add_argument("--dry-run", action="store_true", help="list the cells and stop")
    parser.add_argument(
        "--jobs", type=int, default=None, help="cells at a time (default: one a core)"
    )
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for every cell, key=value")
    return parser.parse_intermixed_args(arguments)


def default_jobs() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def execute(parsed: argparse.Namespace) -> None:
    if "=" in parsed.experiment:
        raise UserError(
            f"the first word names the experiment ({', '.join(experiments())}), "
            f"got {parsed.experiment!r}"
        )
    if parsed.jobs is not None and parsed.jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {parsed.jobs}")
    cells = plan(parsed.experiment, parsed.overrides)
    states = [cell.state() for cell in cells]
    done = states.count("done")
    if parsed.dry_run:
        for cell, state in zip(cells, states, strict=True):
            print(f"{state:8}{cell.name}")
        print(f"{len(cells)} cells: {done} done, {len(cells) - done} left")
        return
    check_writable(cells[0].settings.results)
    left = [cell for cell, state in zip(cells, states, strict=True) if state != "done"]
    print(f"{parsed.experiment}: {len(cells)} cells, {done} done, {len(left)} left", flush=True)
    prepare_all(left)
    failures = run_cells(left, parsed.jobs or default_jobs()) if left else []
    from benchmark.report.__main__ import write_report

    index, problems = write_report([f"experiment={parsed.experiment}", *parsed.overrides])
    for problem in dict.fromkeys(failures or problems):
        print(f"error: {problem}", file=sys.stderr)
    print(f"report: {index}")
    if failures or problems:
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
    guard(lambda: execute(_arguments(arguments)))


if __name__ == "__main__":
    main()
