"""Cells on a machine that is there for a limited time: which may start, and what is left.

A cell starts only if it is expected to finish in time. What it is expected to take is what an
earlier run took of the same data set, method and protocol on the same kind of device: of the same
configuration if there is one, else the slowest; without any, what ``--assume`` says. A cell that
was stopped before has the seconds of its finished epochs behind it.

``python -m benchmark.portions STORE FOLDER`` copies what ``--known`` needs of a store's finished
cells, their run.json, for a machine that has to know what is done but not the results.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark import store
from benchmark.errors import UserError
from benchmark.gpu import Room
from benchmark.guard import guard
from benchmark.processes import Planned, run_cells
from benchmark.store import Cell, StoredRun

#: What a cell takes beside training and ranking: imports, data, checksums. A guess, rather high.
START_SECONDS = 20.0
#: A cell must fit with this much to spare: those beside it slow it down by more or less.
SAFETY = 1.15
#: What a cell is expected to take where nothing is known and nothing was said.
ASSUMED_MINUTES = 5.0


@dataclass(frozen=True)
class Limits:
    """Of one portion, in seconds since ``started``.

    Attributes:
        stop: when running cells are stopped; the next portion goes on from their last epoch.
        finish: when a cell must be expected to be done, or it is not started. Later than ``stop``
            where the machine, and what it keeps, is there for another portion.
        started: of the clock that ``now`` reads.
    """

    stop: float
    finish: float
    now: Callable[[], float] = time.monotonic
    started: float = field(default=math.nan)

    def __post_init__(self) -> None:
        if math.isnan(self.started):
            object.__setattr__(self, "started", self.now())

    def elapsed(self) -> float:
        return self.now() - self.started

    def over(self) -> bool:
        return self.elapsed() >= self.stop

    def admit(self, expected_seconds: float) -> bool:
        """Whether a cell that takes so long may start now."""
        return not self.over() and self.elapsed() + SAFETY * expected_seconds <= self.finish


def make_limits(stop_minutes: float | None, finish_minutes: float | None) -> Limits | None:
    """Limits from the command line; None where there are none.

    Raises:
        UserError: a limit that is none, or one to finish within before the time limit.
    """
    for name, value in (("--time-limit", stop_minutes), ("--finish-within", finish_minutes)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name} must be a number of minutes above 0, got {value:g}")
    if stop_minutes is None:
        if finish_minutes is not None:
            raise UserError("--finish-within needs --time-limit")
        return None
    finish = stop_minutes if finish_minutes is None else finish_minutes
    if finish < stop_minutes:
        raise UserError("--finish-within must be at least --time-limit")
    return Limits(60 * stop_minutes, 60 * finish)


@dataclass
class Known:
    """What is known of finished cells, here and in other stores, from their run.json alone.

    Attributes:
        elsewhere: stores of which run.json is enough: a cell that is done there is not run again.
        kind: of the device that counts for expectations, ``cpu`` or ``cuda``.
        assumed_seconds: where nothing is known.
    """

    elsewhere: Sequence[Path] = ()
    kind: str = "cpu"
    assumed_seconds: float = 60 * ASSUMED_MINUTES
    _read: dict[Path, tuple[int, float | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for root in self.elsewhere:
            if not root.is_dir():
                raise UserError(f"no results folder {root}; name a store with --known")

    def done_elsewhere(self, cell: Cell) -> bool:
        return any(_is_finished(replace(cell, root=root).folder) for root in self.elsewhere)

    def expected_seconds(self, planned: Planned) -> float:
        """What a cell has still to take, its start included."""
        cell, protocol = planned.settings.cell, planned.settings.protocol.name
        took: dict[str, list[float]] = {}
        for root in (cell.root, *self.elsewhere):
            for folder, seconds in self._of_method(replace(cell, root=root), protocol).items():
                took.setdefault(folder.parent.name, []).append(seconds)
        own = took.get(cell.folder.parent.name)
        expected = max(own or [second for group in took.values() for second in group],
                       default=self.assumed_seconds)  # fmt: skip
        return START_SECONDS + max(0.0, expected - seconds_behind(cell.folder))

    def _of_method(self, cell: Cell, protocol: str) -> dict[Path, float]:
        """Seconds of the finished runs of a cell's data set, method and protocol, by folder."""
        paths = sorted(cell.folder.parent.parent.glob("*/seed=*/run.json"))
        found = {path.parent: self._seconds(path, protocol) for path in paths}
        return {folder: seconds for folder, seconds in found.items() if seconds is not None}

    def _seconds(self, path: Path, protocol: str) -> float | None:
        """What the run of a run.json took; None where it is of no use. Read again if it changes."""
        changed = path.stat().st_mtime_ns
        if self._read.get(path, (None, None))[0] != changed:
            info = _record(path.parent)
            facts = (info.get("status"), (info.get("protocol") or {}).get("name"),
                     (info.get("device") or {}).get("kind"))  # fmt: skip
            seconds = _took(info) if facts == ("done", protocol, self.kind) else None
            self._read[path] = changed, seconds
        return self._read[path][1]


#: States of cells that are not run.
FINISHED = ("done", "elsewhere")


def state_of(cell: Planned, known: Known) -> str:
    """done, elsewhere (in a store named by --known), left or damaged."""
    state = cell.state()
    return "elsewhere" if state == "left" and known.done_elsewhere(cell.settings.cell) else state


def run_portion(
    cells: Sequence[Planned], left: Sequence[Planned], room: Room, known: Known, limits: Limits
) -> list[str]:
    """Run what fits into the limits, and say what is left of all cells; one line per failure."""

    def may_start(cell: Planned) -> bool:
        return limits.admit(known.expected_seconds(cell))

    failures = run_cells(in_order(left, known), room, may_start, limits.over) if left else []
    still = [cell for cell in left if state_of(cell, known) not in FINISHED]
    for line in [left_line(cells, still, known), *too_long(still, known, limits)]:
        print(line, flush=True)
    return failures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a portion."""
    group = parser.add_argument_group("on a machine that is there for a limited time")
    minutes: dict[str, Any] = {"type": float, "metavar": "MINUTES"}
    group.add_argument(
        "--time-limit", **minutes,
        help="start no cell that is not expected to be done by then, stop what still runs then, "
        "and write no report; the same command goes on",
    )  # fmt: skip
    group.add_argument(
        "--finish-within", **minutes,
        help="start cells that are expected to be done by then, later than --time-limit: for a "
        "machine that keeps its files until the next portion",
    )  # fmt: skip
    group.add_argument(
        "--assume", default=ASSUMED_MINUTES, **minutes,
        help="what a cell is expected to take where no run of its data set, method and protocol is "
        f"known (default {ASSUMED_MINUTES:g})",
    )  # fmt: skip
    group.add_argument(
        "--known", action="append", type=Path, default=[], metavar="STORE",
        help="a store whose finished cells are not run again; of each, run.json is enough",
    )  # fmt: skip


def _record(folder: Path) -> Mapping[str, Any]:
    try:
        return store.read_run_json(folder) or {}
    except UserError:  # a damaged record is the business of whoever wants that cell
        return {}


def _is_finished(folder: Path) -> bool:
    return _record(folder).get("status") == "done"


def _took(info: Mapping[str, Any]) -> float:
    seconds = info.get("seconds") or {}
    return float(sum(float(seconds.get(part) or 0.0) for part in ("fit", "shared", "rank")))


def seconds_behind(folder: Path) -> float:
    """What the logged epochs of an unfinished cell took; 0 where there are none."""
    try:
        return float(sum(row.get("seconds", 0.0) for row in StoredRun(folder, {}).train_log()))
    except UserError:  # a damaged log is the business of whoever runs that cell
        return 0.0


def in_order(cells: Sequence[Planned], known: Known) -> list[Planned]:
    """Begun cells first, then the cheap ones, the seeds of a configuration together: so that each
    portion ends with as many whole configurations as it can."""
    expected = {cell.name: known.expected_seconds(cell) for cell in cells}
    groups: dict[Path, list[Planned]] = {}
    for cell in cells:
        groups.setdefault(cell.settings.cell.folder.parent, []).append(cell)

    def begun(cell: Planned) -> bool:
        return seconds_behind(cell.settings.cell.folder) > 0

    ordered = sorted(groups.values(), key=lambda group: (
        not any(map(begun, group)), min(expected[cell.name] for cell in group)))  # fmt: skip
    return [cell for group in ordered for cell in sorted(group, key=lambda one: not begun(one))]


def left_line(cells: Sequence[Planned], left: Sequence[Planned], known: Known) -> str:
    """One line on what a portion has left of the cells."""
    if not left:
        return f"all {len(cells)} cells are done"
    begun = sum(seconds_behind(cell.settings.cell.folder) > 0 for cell in left)
    minutes = sum(map(known.expected_seconds, left)) / 60
    return (
        f"{len(left)} of {len(cells)} cells left, {begun} of them begun; expected to take "
        f"{minutes:.0f} min one after the other: the same command goes on"
    )


def too_long(left: Sequence[Planned], known: Known, limits: Limits) -> list[str]:
    """A line for each configuration of which no cell fits into a whole portion."""
    lines: dict[Path, str] = {}
    for cell in left:
        seconds = known.expected_seconds(cell)
        if SAFETY * seconds > limits.finish:
            folder = cell.settings.cell.folder.parent
            lines[folder] = (
                f"{cell.settings.cell.dataset}/{cell.settings.method_name}/{folder.name} is "
                f"expected to take {seconds / 60:.0f} min, more than a portion of "
                f"{limits.finish / 60:g} has room for: raise --finish-within"
            )
    return list(lines.values())


def copy_records(source: Path, target: Path) -> int:
    """Copy run.json of every finished cell in a store, the published ones in it included; returns
    how many there are now.

    Raises:
        UserError: there is no such store.
    """
    if not source.is_dir():
        raise UserError(f"no results folder {source}; name a store")
    done = [path for path in sorted(source.rglob("seed=*/run.json")) if _is_finished(path.parent)]
    for path in done:
        parts = path.relative_to(source).parts
        place = target.joinpath(*parts[1:] if parts[0] == "published" else parts)
        store.write_text(place, path.read_text(encoding="utf-8"))
    return len(list(target.rglob("seed=*/run.json")))


def main() -> None:
    def action() -> None:
        if len(sys.argv) != 3:
            raise UserError("usage: python -m benchmark.portions STORE FOLDER")
        print(f"{copy_records(Path(sys.argv[1]), Path(sys.argv[2]))} finished cells are known")

    guard(action, __doc__)


if __name__ == "__main__":
    main()
