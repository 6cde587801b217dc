"""Portions of a limited time: what may start, in which order, what is stopped and goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark import experiment, portions, processes, store
from benchmark.errors import UserError
from benchmark.gpu import CONTEXT_BYTES, Needs, Room
from benchmark.portions import SAFETY, START_SECONDS, Known, Limits, make_limits
from benchmark.processes import Planned
from tests.test_cli import call, one_error


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_a_cell_starts_if_it_is_expected_to_finish_with_some_to_spare() -> None:
    clock = Clock()
    limits = Limits(60.0, 100.0, clock)
    assert limits.admit(100 / SAFETY - 0.01)
    assert not limits.admit(100 / SAFETY + 0.01)
    clock.time = 50
    assert limits.admit(50 / SAFETY - 0.01)
    assert not limits.admit(50 / SAFETY + 0.01)
    clock.time = 60
    assert limits.over()
    assert not limits.admit(1.0)


@pytest.mark.parametrize(
    ("stop", "finish", "message"),
    [(0, None, "--time-limit must be"), (float("nan"), None, "--time-limit must be"),
     (1, -1, "--finish-within must be a"), (None, 2, "needs --time-limit"),
     (3, 2, "at least --time-limit")],
)  # fmt: skip
def test_bad_limits(stop: float | None, finish: float | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_limits(stop, finish)


def test_limits_are_minutes_and_one_is_enough() -> None:
    assert make_limits(None, None) is None
    limits = make_limits(9, None)
    assert limits is not None
    assert (limits.stop, limits.finish) == (540, 540)


@pytest.fixture
def cells(tmp_path: Path) -> list[Planned]:
    """pop and tiger, two seeds each, of smoke."""
    grid = ["grid.method=[pop,tiger]", "grid.seed=[0,1]", f"results={tmp_path}/r"]
    return experiment.plan("smoke", grid, check=False)


def record(cell: Planned, root: Path | None = None, **changes: Any) -> None:
    """What a finished run of the cell says of its time."""
    place = cell.settings.cell if root is None else replace(cell.settings.cell, root=root)
    info: dict[str, Any] = {
        "status": "done", "seconds": {"fit": 30.0, "shared": 5.0, "earlier": 9.0, "rank": 1.0},
        "protocol": {"name": "smoke"}, "device": {"kind": "cpu"}, **changes,
    }  # fmt: skip
    place.folder.mkdir(parents=True, exist_ok=True)
    store.write_json(place.folder / "run.json", info)


def test_expectations(cells: list[Planned], tmp_path: Path) -> None:
    """Another seed of the configuration says it best, then the slowest of the method."""
    known = Known(assumed_seconds=300.0)
    tiger, other = cells[2:]
    assert known.expected_seconds(tiger) == START_SECONDS + 300
    slow = experiment.plan("smoke", ["grid.method=[tiger]", "method.train.epochs=9",
                                     f"results={tmp_path}/r"], check=False)[0]  # fmt: skip
    record(slow, seconds={"fit": 70.0, "shared": None, "rank": 2.0})
    assert known.expected_seconds(tiger) == START_SECONDS + 72  # learned without a new Known
    record(other)
    assert known.expected_seconds(tiger) == START_SECONDS + 36
    assert known.expected_seconds(cells[0]) == START_SECONDS + 300


@pytest.mark.parametrize(
    "changes",
    [{"status": "running"}, {"device": {"kind": "cuda"}}, {"protocol": {"name": "paper"}},
     {"device": None}],
)  # fmt: skip
def test_runs_of_another_kind_say_nothing(cells: list[Planned], changes: dict[str, Any]) -> None:
    record(cells[2], **changes)
    assert Known(assumed_seconds=7.0).expected_seconds(cells[3]) == START_SECONDS + 7


def begin(cell: Planned, *seconds: float) -> None:
    rows = [{"epoch": i, "seconds": value} for i, value in enumerate(seconds)]
    folder = cell.settings.cell.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_a_begun_cell_has_behind_it_counts(cells: list[Planned]) -> None:
    known = Known(assumed_seconds=100.0)
    begin(cells[2], 30.0, 40.0)
    assert known.expected_seconds(cells[2]) == START_SECONDS + 30
    begin(cells[2], 300.0)
    assert known.expected_seconds(cells[2]) == START_SECONDS
    (cells[2].settings.cell.folder / "train.jsonl").write_text("nonsense")
    assert known.expected_seconds(cells[2]) == START_SECONDS + 100


def test_other_stores_are_known_by_their_records_alone(
    cells: list[Planned], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "e"
    record(cells[2], elsewhere, peak_device_bytes=7)
    known = Known([elsewhere])
    states = [portions.state_of(cell, known) for cell in cells]
    assert states == ["left", "left", "elsewhere", "left"]
    assert known.expected_seconds(cells[3]) == START_SECONDS + 36
    needs = Needs([elsewhere])
    assert needs.expected_bytes(cells[3].settings.cell) == CONTEXT_BYTES + 7
    with pytest.raises(UserError, match="no results folder"):
        Known([tmp_path / "none"])


def test_begun_first_then_cheap_and_seeds_together(cells: list[Planned], tmp_path: Path) -> None:
    record(cells[2], tmp_path / "e")  # tiger takes 36 s, pop what is assumed
    known = Known([tmp_path / "e"], assumed_seconds=100.0)
    names = [cell.name for cell in cells]

    def order(given: list[Planned]) -> list[int]:
        return [names.index(cell.name) for cell in portions.in_order(given, known)]

    assert order(cells) == [2, 3, 0, 1]
    begin(cells[1], 1.0)
    assert order(cells) == [1, 0, 2, 3]
    mixed = [cells[0], cells[2], cells[1], cells[3]]
    assert order(mixed) == [1, 0, 2, 3]


def test_what_is_left_is_said(cells: list[Planned]) -> None:
    known = Known(assumed_seconds=100.0)
    begin(cells[0], 10.0)
    assert portions.left_line(cells, [], known) == "all 4 cells are done"
    assert portions.left_line(cells, cells[:2], known) == (
        "2 of 4 cells left, 1 of them begun; expected to take 4 min one after the other: the same "
        "command goes on"
    )
    limits = Limits(60.0, SAFETY * 115, Clock())
    (line,) = portions.too_long(cells, known, limits)[:1]
    assert line.startswith("ml-100k-150u/pop/")
    assert len(portions.too_long(cells, known, limits)) == 2
    assert portions.too_long(cells, known, Limits(60.0, 1000.0, Clock())) == []


# -- processes -------------------------------------------------------------------------------------

SLEEPER = """
import pathlib, sys, time
folder, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
(folder / "began").write_text("")
time.sleep(seconds)
(folder / "ended").write_text("")
"""


@pytest.fixture
def sleepers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cells that sleep: tiger for a minute, the others not at all."""

    def command_of(cell: Planned) -> list[str]:
        seconds = "60" if cell.settings.method_name == "tiger" else "0"
        return [sys.executable, "-I", "-S", "-c", SLEEPER, str(cell.settings.cell.folder), seconds]

    monkeypatch.setattr(processes, "command_of", command_of)
    monkeypatch.setattr(processes, "POLL_SECONDS", 0.02)
    yield


def has(cells: list[Planned], name: str) -> list[bool]:
    return [(cell.settings.cell.folder / name).exists() for cell in cells]


def test_a_cell_that_may_not_start_waits_and_the_others_run(
    cells: list[Planned], sleepers: None
) -> None:
    failures = processes.run_cells(cells, Room(1), lambda cell: cell.settings.method_name == "pop")
    assert failures == []
    assert has(cells, "ended") == [True, True, False, False]
    assert has(cells, "began") == [True, True, False, False]


def test_what_runs_at_the_limit_is_stopped_and_is_no_failure(
    cells: list[Planned], sleepers: None
) -> None:
    def over() -> bool:
        return all(has(cells[2:], "began"))

    assert processes.run_cells(cells, Room(2), over=over) == []
    assert has(cells, "ended") == [True, True, False, False]


def test_a_portion_that_ends_goes_on_with_the_same_result(tmp_path: Path, data_cache: Path) -> None:
    """The command: stopped in the middle of training, started again, the same bytes."""
    words = [
        "smoke", "grid.method=[tiger]", "method.train.epochs=30", "method.train.patience=30",
        f"cache={data_cache}", "device=cpu",
    ]  # fmt: skip
    whole = call("benchmark.experiment", *words, f"results={tmp_path}/whole", "--time-limit", "9",
                 "--assume", "1")  # fmt: skip
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.splitlines()[-1] == "all 1 cells are done"
    assert not (tmp_path / "reports").exists()
    (done,) = (tmp_path / "whole").rglob("ranks.parquet")
    # As if the first portion had ended within training: its checkpoint is there, its lists are not.
    program = (
        "import sys, pathlib\nfrom benchmark import experiment, portions\n"
        f"root = pathlib.Path({str(tmp_path / 'cut')!r})\n"
        "portions.Limits.over = lambda self: bool(list(root.rglob('epoch=0003.npy')))\n"
        "experiment.main(sys.argv[1:])\n"
    )
    (tmp_path / "program.py").write_text(program)
    options = [f"results={tmp_path}/cut", "--time-limit", "9", "--assume", "1"]
    cut = call("program", *words, *options, PYTHONPATH=str(tmp_path))
    assert cut.returncode == 0, cut.stderr
    assert "1 of 1 cells left, 1 of them begun" in cut.stdout
    assert not list((tmp_path / "cut").rglob("ranks.parquet"))
    again = call("benchmark.experiment", *words, *options)
    assert again.returncode == 0, again.stderr
    (other,) = (tmp_path / "cut").rglob("ranks.parquet")
    assert other.read_bytes() == done.read_bytes()


def test_a_cell_that_does_not_fit_is_named(tmp_path: Path, data_cache: Path) -> None:
    done = call("benchmark.experiment", "smoke", "grid.method=[pop]", f"results={tmp_path}/r",
                f"cache={data_cache}", "--time-limit", "1", "--assume", "60")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 of 1 cells left, 0 of them begun" in done.stdout
    assert "more than a portion of 1 has room for: raise --finish-within" in done.stdout
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize(
    "options", [["--time-limit", "0"], ["--finish-within", "3"], ["--assume", "0"],
                ["--known", "nowhere"]],
)  # fmt: skip
def test_bad_options_of_a_portion(options: list[str]) -> None:
    one_error(call("benchmark.experiment", "smoke", "grid.method=[pop]", *options))
