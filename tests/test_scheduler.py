"""Cells side by side: on which GPU, within which memory, and what becomes of one that ran out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import experiment, gpu, mps, processes
from benchmark.errors import UserError
from benchmark.gpu import CONTEXT_BYTES, UNKNOWN_BYTES, Gpu, Needs, Room
from benchmark.processes import Planned
from benchmark.scheduler import MOST_ON_ONE, Scheduler, Start, Want

# -- the pure part ---------------------------------------------------------------------------------

BUDGETS = st.lists(st.integers(1, 20), min_size=1, max_size=4)
NEEDS = st.lists(st.integers(0, 30), min_size=1, max_size=25)
JOBS = st.integers(1, 12)
PER_GPU = st.none() | st.integers(1, 4)


class World:
    """Runs cells to their end in any order, and checks every start against the rules."""

    def __init__(self, jobs: int, budgets: list[int], per_gpu: int | None) -> None:
        self.jobs, self.budgets, self.per_gpu = jobs, budgets, per_gpu
        self.scheduler = Scheduler(jobs, budgets, per_gpu)
        self.running: dict[int, tuple[Want, int | None]] = {}

    def on(self, place: int) -> list[Want]:
        return [want for want, where in self.running.values() if where == place]

    def fits(self, want: Want, place: int) -> bool:
        """The rules again, in other words than the scheduler's."""
        after = [*self.on(place), want]
        if len(after) == 1:
            return want.alone_on in (None, place)
        if any(one.alone_on is not None for one in after):
            return False
        if self.per_gpu is not None:
            return len(after) <= self.per_gpu
        return sum(one.need_bytes or 0 for one in after) <= self.budgets[place]

    def start_all(self, waiting: list[Want]) -> None:
        while (start := self.scheduler.start(waiting)) is not None:
            at = next(i for i, want in enumerate(waiting) if want.key == start.key)
            want = waiting[at]
            if start.gpu is None:
                assert want.need_bytes is None
            else:
                assert self.fits(want, start.gpu)
                overtaken = [w for w in waiting[:at] if w.need_bytes is not None]
                assert not any(self.fits(w, start.gpu) for w in overtaken)
            self.running[want.key] = want, start.gpu
            assert len(self.running) <= self.jobs
            del waiting[at]

    def end(self, key: int) -> tuple[Want, int | None]:
        self.scheduler.finish(key)
        return self.running.pop(key)


@given(JOBS, BUDGETS, PER_GPU, NEEDS, st.sets(st.integers(0, 24)), st.data())
def test_every_cell_runs_within_the_rules(
    jobs: int,
    budgets: list[int],
    per_gpu: int | None,
    needs: list[int],
    failing: set[int],
    data: st.DataObject,
) -> None:
    """Never over budget, earlier cells first where they fit, and all of them in the end, those
    included that are tried again alone."""
    world = World(jobs, budgets, per_gpu)
    waiting = [Want(key, need) for key, need in enumerate(needs)]
    ended: list[int] = []
    while waiting or world.running:
        world.start_all(waiting)
        assert world.running, "cells wait, and none is running"
        want, place = world.end(data.draw(st.sampled_from(sorted(world.running))))
        if want.key in failing and want.alone_on is None:
            waiting.insert(0, want._replace(alone_on=place))
        else:
            ended.append(want.key)
    assert sorted(ended) == list(range(len(needs)))


def test_a_gpu_on_which_they_would_take_turns_takes_one() -> None:
    waiting = [Want(key, 1) for key in range(6)]
    world = World(9, [10, 10], None)
    world.scheduler = Scheduler(9, [10, 10], None, in_turns={0})
    world.start_all(waiting)
    assert [len(world.on(0)), len(world.on(1))] == [1, 5]
    told = Scheduler(9, [10], 2, in_turns={0})
    starts = [told.start([Want(key, 1)]) for key in range(3)]
    assert starts == [Start(0, 0), Start(1, 0), None]


@pytest.mark.parametrize("per_gpu", [None, 64])
def test_a_service_takes_no_more_than_it_can(per_gpu: int | None) -> None:
    told = Scheduler(100, [1000], per_gpu)
    starts = [told.start([Want(key, 1)]) for key in range(60)]
    assert sum(start is not None for start in starts) == MOST_ON_ONE == 48


@given(BUDGETS, PER_GPU, NEEDS)
def test_no_gpu_is_left_idle(budgets: list[int], per_gpu: int | None, needs: list[int]) -> None:
    world = World(len(needs) + 1, budgets, per_gpu)
    waiting = [Want(key, need) for key, need in enumerate(needs)]
    world.start_all(waiting)
    busy = [bool(world.on(place)) for place in range(len(budgets))]
    assert all(busy) or not waiting
    assert sum(busy) == min(len(needs), len(budgets))


@given(st.lists(st.integers(10, 20), min_size=1, max_size=3), st.data())
def test_a_hungry_cell_is_not_overtaken_for_ever(budgets: list[int], data: st.DataObject) -> None:
    """Small cells never stop coming, none runs for more than five ticks, and one that needs a
    whole GPU gets its turn."""
    world = World(30, budgets, None)
    small = (Want(key, 3) for key in range(1, 10_000))
    waiting, ends = [next(small) for _ in range(20)], dict[int, int]()
    world.start_all(waiting)
    waiting.insert(0, Want(0, max(budgets)))
    for tick in range(5 * (max(budgets) // 3 + 1)):
        waiting += [next(small) for _ in range(8 - len(waiting))]
        world.start_all(waiting)
        for key in set(world.running) - set(ends):
            ends[key] = tick + data.draw(st.integers(0, 4))
        if 0 in ends:
            return
        for key in [key for key in world.running if ends[key] == tick]:
            world.end(key)
    pytest.fail("it still waits")


def test_the_first_cell_that_has_room_starts_on_the_emptiest_gpu() -> None:
    plan = Scheduler(9, [10, 10])
    wants = [Want(0, 6), Want(1, 3), Want(2, 3), Want(3, 6), Want(4, 1), Want(5, 1)]
    starts = []
    while (start := plan.start(wants)) is not None:
        starts.append(start)
        wants = [want for want in wants if want.key != start.key]
    # The GPU with fewer cells comes first, if it has room; in the end both are full.
    assert starts == [Start(0, 0), Start(1, 1), Start(2, 0), Start(3, 1), Start(4, 0), Start(5, 1)]


def test_a_cell_on_the_cpu_waits_for_a_job_only() -> None:
    plan = Scheduler(3, [10])
    wants = [Want(0, 10), Want(1, 10), Want(2, None), Want(3, None)]
    assert plan.start(wants) == Start(0, 0)
    assert plan.start(wants[1:]) == Start(2, None)
    assert plan.start([wants[1], wants[3]]) == Start(3, None)
    plan.finish(3)
    assert plan.start([wants[1]]) is None
    plan.finish(0)
    assert plan.start([wants[1]]) == Start(1, 0)


def test_nothing_joins_a_cell_that_must_be_alone() -> None:
    plan = Scheduler(9, [10, 10], per_gpu=3)
    assert plan.start([Want(0, 1)]) == Start(0, 0)
    retry, later = Want(1, 1, alone_on=0), [Want(2, 1), Want(3, 1)]
    assert plan.start([retry, *later]) == Start(2, 1)  # the first GPU is kept clear
    plan.finish(0)
    assert plan.start([retry, later[1]]) == Start(1, 0)
    assert plan.start(later[1:]) == Start(3, 1)
    assert plan.start([Want(4, 1)]) == Start(4, 1)
    assert plan.start([Want(5, 1)]) is None
    plan.finish(1)
    assert plan.start([Want(5, 1)]) == Start(5, 0)


# -- which GPUs there are, and what cells need -----------------------------------------------------

FOUND = [("Card A", 80_000_000_000), ("Card B", 40_000_000_000)]


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["0", "1"]),
        ("3,1", ["3", "1"]),
        ("GPU-8f2a, MIG-77c0", ["GPU-8f2a", "MIG-77c0"]),
        ("2,0,9,1", ["2", "0"]),  # no GPU 9 here, so CUDA stops before it
    ],
)
def test_gpus_have_the_names_that_cuda_visible_devices_gives(
    visible: str | None, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.cuda.is_built", lambda: True)
    monkeypatch.setattr(gpu, "_probe", lambda: FOUND)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpus = gpu.visible_gpus()
    assert [one.visible for one in gpus] == names
    assert [one.name for one in gpus] == ["Card A", "Card B"]
    assert gpus[1].budget_bytes == 36_000_000_000


def test_a_torch_without_cuda_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.cuda.is_built", lambda: False)
    monkeypatch.setattr(gpu, "_probe", lambda: pytest.fail("asked"))
    assert gpu.visible_gpus() == []


def answer(code: int, out: str, err: str = "") -> Callable[..., Any]:
    return lambda command, **_: subprocess.CompletedProcess(command, code, out, err)


def test_the_probe_gives_names_and_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code runs on a torch that is told of two GPUs, in a process of its own."""
    fake = (
        "import torch; c = torch.cuda; c.is_available = lambda: True; c.device_count = lambda: 2; "
        "c.get_device_name = lambda i: f'Card {i}'; c.mem_get_info = lambda i: (5 + i, 9)\n"
    )
    monkeypatch.setattr(gpu, "_PROBE", fake + gpu._PROBE)
    assert gpu._probe() == [("Card 0", 5), ("Card 1", 6)]


def test_gpus_that_cannot_be_asked_end_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", answer(1, "", "Traceback\nRuntimeError: busy"))
    with pytest.raises(UserError, match=r"how much memory is free \(RuntimeError: busy\)"):
        gpu._probe()
    monkeypatch.setattr(subprocess, "run", answer(0, "nonsense"))
    with pytest.raises(UserError, match="cannot be asked"):
        gpu._probe()


@pytest.fixture
def cells(tmp_path: Path) -> list[Planned]:
    """Two methods, two seeds each, that nothing has run yet."""
    overrides = [f"results={tmp_path}/r", "grid.method=[pop,tiger]", "grid.seed=[0,1]"]
    return experiment.plan("smoke", overrides, check=False)


def record(cell: Planned, peak: int | None, config: str | None = None) -> None:
    """Store what a cell, or one of another configuration, took at most."""
    folder = cell.settings.cell.folder
    if config is not None:
        folder = folder.parents[1] / config / folder.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"peak_device_bytes": peak}))


def test_expected_needs_come_from_earlier_runs(cells: list[Planned]) -> None:
    pop, tiger = cells[0], cells[2]
    assert tiger.settings.method_name == "tiger"
    assert Needs().expected_bytes(tiger.settings.cell) == UNKNOWN_BYTES
    record(tiger, 1000, config="aaaaaaaaaaaa")
    record(tiger, 5000, config="bbbbbbbbbbbb")
    record(pop, None)
    needs = Needs()
    assert needs.expected_bytes(tiger.settings.cell) == 5000 + CONTEXT_BYTES
    assert needs.expected_bytes(pop.settings.cell) == UNKNOWN_BYTES  # it ran on a CPU
    # Cells that finish while the others wait: the same configuration says it best.
    record(cells[3], 2000)
    needs.learn(cells[3].settings.cell)
    record(tiger, 1500)  # another seed that happened to need less
    needs.learn(tiger.settings.cell)
    assert needs.expected_bytes(tiger.settings.cell) == 2000 + CONTEXT_BYTES


def test_what_other_methods_took_is_the_least_of_a_guess(cells: list[Planned]) -> None:
    pop, tiger = cells[0], cells[2]
    record(tiger, 2 * UNKNOWN_BYTES)
    needs = Needs()
    assert needs.expected_bytes(pop.settings.cell) == 2 * UNKNOWN_BYTES + CONTEXT_BYTES
    record(pop, 1000)
    needs.learn(pop.settings.cell)
    assert needs.expected_bytes(pop.settings.cell) == 1000 + CONTEXT_BYTES
    record(tiger, 1000)
    assert Needs().expected_bytes(tiger.settings.cell) == 1000 + CONTEXT_BYTES


def test_a_cell_that_is_set_to_the_cpu_needs_no_gpu(tmp_path: Path) -> None:
    overrides = [f"results={tmp_path}/r", "grid.method=[pop]"]
    (anywhere,) = experiment.plan("smoke", overrides, check=False)
    (on_cpu,) = experiment.plan("smoke", [*overrides, "device=cpu"], check=False)
    room = Room(8, GPUS)
    assert room.need_bytes(anywhere.settings) == UNKNOWN_BYTES
    assert room.need_bytes(on_cpu.settings) is None


def test_a_damaged_record_is_passed_over(cells: list[Planned]) -> None:
    record(cells[0], 1000)
    (cells[0].settings.cell.folder / "run.json").write_text("{")
    assert Needs().expected_bytes(cells[0].settings.cell) == UNKNOWN_BYTES


# -- the command's options -------------------------------------------------------------------------

GPUS = [Gpu("GPU-a", "Card A", 40_000_000_000), Gpu("GPU-b", "Card B", 20_000_000_000)]


def room_of(
    cells: Sequence[Planned], monkeypatch: pytest.MonkeyPatch, *arguments: str, cores: int = 8
) -> tuple[Room, str]:
    """The room on a machine with GPUS, and what is said of it."""
    monkeypatch.setattr(experiment, "visible_gpus", lambda: GPUS)
    monkeypatch.setattr(experiment, "default_jobs", lambda: cores)
    parsed = experiment.read_arguments(["smoke", *arguments])
    per_gpu = experiment.jobs_per_gpu(parsed.jobs_per_gpu)
    room = experiment.find_room(parsed.jobs, per_gpu, cells)
    return room, experiment.at_a_time(cells, room) or ""


@pytest.mark.parametrize(
    ("arguments", "cores", "jobs", "on_a", "on_b"),
    [
        ([], 32, 32, 4, 2),  # 36 and 18 GB at 9 GB a cell
        (["--jobs-per-gpu", "auto"], 32, 32, 4, 2),
        ([], 4, 4, 2, 2),
        (["--jobs", "3"], 32, 3, 2, 1),
        (["--jobs", "9"], 4, 4, 2, 2),  # each needs a core to drive its GPU
        (["--jobs-per-gpu", "7"], 2, 14, 7, 7),
        (["--jobs-per-gpu", "7", "--jobs", "5"], 2, 5, 3, 2),
    ],
)
def test_how_many_cells_a_gpu_gets(
    arguments: list[str],
    cores: int,
    jobs: int,
    on_a: int,
    on_b: int,
    cells: list[Planned],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room, line = room_of(cells * 10, monkeypatch, *arguments, cores=cores)
    assert room.jobs == jobs
    plural = "" if on_b == 1 else "s"
    assert line == (
        f"{on_a} cells at a time on GPU GPU-a (Card A, 40.0 GB free) and "
        f"{on_b} cell{plural} at a time on GPU GPU-b (Card B, 20.0 GB free)"
    )


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_jobs_per_gpu_is_auto_or_a_number(text: str) -> None:
    with pytest.raises(UserError, match="--jobs-per-gpu must be auto or a whole number"):
        experiment.jobs_per_gpu(text)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_a_gpu_the_same_command_runs_on_the_cpu(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiment, "visible_gpus", lambda: GPUS if device == "cpu" else [])
    monkeypatch.setattr(experiment, "default_jobs", lambda: 5)
    overrides = [f"results={tmp_path}/r", "grid.method=[pop]", f"device={device}"]
    experiment.main(["smoke", "--dry-run", "--jobs-per-gpu", "auto", *overrides])
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "1 cells: 0 done, 1 left"
    why = "no GPU here" if device == "auto" else "device=cpu"
    assert err == f"--jobs-per-gpu: {why}, so cells run on the CPU, one a core\n"
    (cell,) = experiment.plan("smoke", overrides, check=False)
    room = experiment.find_room(None, None, [cell])
    assert (room.jobs, room.gpus) == (5, ())
    experiment.main(["smoke", "--dry-run", *overrides])
    assert capsys.readouterr().err == ""


def test_a_dry_run_says_how_gpus_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiment, "visible_gpus", lambda: GPUS[:1])
    monkeypatch.setattr(experiment, "default_jobs", lambda: 5)
    overrides = [f"results={tmp_path}/r", "grid.method=[pop,tiger]"]
    for installed, off, n in ((True, [], "2 cells"), (False, [], "1 cell"),
                              (True, ["--mps", "off"], "1 cell")):  # fmt: skip
        monkeypatch.setattr(mps, "is_installed", lambda found=installed: found)
        experiment.main(["smoke", "--dry-run", *off, *overrides])
        told = f"{n} at a time on GPU GPU-a (Card A, 40.0 GB free)\n"
        assert capsys.readouterr().err == told
    assert not (tmp_path / "r").exists()


# -- processes -------------------------------------------------------------------------------------

# A cell that notes where it ran and waits until as many have started as a file says. It ends as the
# next line of another file says, well if there is none, and leaves the record that a third holds.
CELL = """
import os, pathlib, sys, time
folder, name, own = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
log, fates, together, peak = (
    folder / file for file in ("log", name, f"{name}-together", f"{name}-peak")
)
def note(line):
    with log.open("a") as file:
        file.write(line + "\\n")
note(f"start {name} {os.environ.get('CUDA_VISIBLE_DEVICES')}")
wanted = int(together.read_text()) if together.exists() else 0
patience = time.monotonic() + 30
while log.read_text().count("start ") < wanted:
    if time.monotonic() > patience:
        sys.exit("the others did not start")
    time.sleep(0.01)
note(f"end {name}")
lines = fates.read_text().splitlines() if fates.exists() else []
if lines:
    fates.write_text("\\n".join(lines[1:]))
    sys.exit(lines[0])
if peak.exists():
    (own / "run.json").write_text(peak.read_text())
"""
TOGETHER = {f"{name}_together": "4" for name in ("pop_0", "pop_1", "tiger_0", "tiger_1")}
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


def name_of(cell: Planned) -> str:
    return f"{cell.settings.method_name}-{cell.settings.seed}"


@pytest.fixture
def run(
    tmp_path: Path, cells: list[Planned], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[list[str], list[list[str]]]]]:
    """Run the four cells as fake processes; gives failures and what the processes noted."""

    def command_of(cell: Planned) -> list[str]:
        folder, name = cell.settings.cell.folder, name_of(cell)
        return [sys.executable, "-I", "-S", "-c", CELL, str(tmp_path), name, str(folder)]

    def run_all(room: Room, **files: str) -> tuple[list[str], list[list[str]]]:
        (tmp_path / "log").write_text("")
        for name, content in files.items():
            (tmp_path / name.replace("_", "-")).write_text(content)
        failures = processes.run_cells(cells, room)
        lines = (tmp_path / "log").read_text().splitlines()
        return failures, [line.split() for line in lines]

    monkeypatch.setattr(processes, "command_of", command_of)
    monkeypatch.setattr(processes, "POLL_SECONDS", 0.02)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    yield run_all


def starts(log: list[list[str]]) -> list[tuple[str, str]]:
    return [(line[1], line[2]) for line in log if line[0] == "start"]


def test_a_cell_on_a_gpu_is_not_run_elsewhere(
    cells: list[Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the GPU cannot be reached for a moment, ``device=auto`` would be the CPU."""
    code = "import sys; sys.exit(' '.join(sys.argv[1:]) or 'nothing')"
    monkeypatch.setattr(processes, "command_of", lambda cell: [sys.executable, "-c", code])
    monkeypatch.setattr(processes, "POLL_SECONDS", 0.02)
    (failure,) = processes.run_cells(cells[:1], Room(1, GPUS))
    assert "failed (1): device=cuda " in failure
    (failure,) = processes.run_cells(cells[:1], Room(1))
    assert "failed (1): nothing " in failure


def test_each_cell_sees_its_own_gpu(
    run: Callable[..., tuple[list[str], list[list[str]]]],
) -> None:
    failures, log = run(Room(8, GPUS, per_gpu=2), **TOGETHER)
    assert failures == []
    assert sorted(starts(log)) == [
        ("pop-0", "GPU-a"), ("pop-1", "GPU-b"), ("tiger-0", "GPU-a"), ("tiger-1", "GPU-b"),
    ]  # fmt: skip


def test_without_gpus_cells_see_what_there_is(
    run: Callable[..., tuple[list[str], list[list[str]]]],
) -> None:
    failures, log = run(Room(2))
    assert failures == []
    assert {place for _, place in starts(log)} == {"GPU-a,GPU-b"}
    running = 0
    for line in log:
        running += 1 if line[0] == "start" else -1
        assert running <= 2


def test_a_cell_out_of_memory_is_tried_once_more_alone(
    run: Callable[..., tuple[list[str], list[list[str]]]], capsys: pytest.CaptureFixture[str]
) -> None:
    failures, log = run(Room(8, GPUS[:1], per_gpu=3), pop_0=OOM)
    assert failures == []
    again = [i for i, line in enumerate(log) if line[:2] == ["start", "pop-0"]]
    assert len(again) == 2
    before = log[: again[1]]
    ended = {line[1] for line in before if line[0] == "end"}
    assert {line[1] for line in before if line[0] == "start"} == ended  # all others had finished
    assert log[again[1] + 1] == ["end", "pop-0"]  # and none joined it
    said = capsys.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if "ran out of memory" in line]
    assert len(lines) == 1
    assert lines[0].endswith("(Card A, 40.0 GB free): it is tried once more, alone there")


def test_a_second_time_out_of_memory_is_a_failure(
    run: Callable[..., tuple[list[str], list[list[str]]]],
) -> None:
    failures, log = run(Room(8, GPUS, per_gpu=2), tiger_1=f"{OOM}\n{OOM}")
    (failure,) = failures
    assert "tiger" in failure and "CUDA out of memory" in failure
    assert [name for name, _ in starts(log)].count("tiger-1") == 2


@pytest.mark.parametrize(
    ("room", "end"),
    [(Room(8, GPUS, per_gpu=2), "error: no such file"), (Room(8), OOM)],
    ids=["another failure", "not on a GPU"],
)
def test_other_failures_are_not_tried_again(
    room: Room, end: str, run: Callable[..., tuple[list[str], list[list[str]]]]
) -> None:
    failures, log = run(room, pop_1=end)
    assert len(failures) == 1 and end in failures[0]
    assert len(starts(log)) == 4


def test_the_second_try_comes_before_cells_that_wait(
    run: Callable[..., tuple[list[str], list[list[str]]]],
) -> None:
    _, log = run(Room(8, GPUS[:1], per_gpu=1), pop_0=OOM)
    assert [name for name, _ in starts(log)] == ["pop-0", "pop-0", "pop-1", "tiger-0", "tiger-1"]


def test_what_a_cell_took_is_known_to_those_that_wait(
    run: Callable[..., tuple[list[str], list[list[str]]]],
) -> None:
    """Room for one cell of unknown need and a small one: once the first pop has shown that it is
    small, the second has company."""
    room = Room(8, [Gpu("GPU-a", "Card A", int((UNKNOWN_BYTES + 2 * CONTEXT_BYTES) / 0.9))])
    peak = json.dumps({"peak_device_bytes": 1000})
    failures, log = run(room, pop_0_peak=peak, pop_1_together="3")
    assert failures == []
    assert log[1] == ["end", "pop-0"]


def test_what_cells_took_decides_how_many_come_next(
    run: Callable[..., tuple[list[str], list[list[str]]]],
    cells: list[Planned],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One at a time while nothing is known; then, with small peaks on record, all together."""
    small = Gpu("GPU-a", "Card A", int(1.1 * UNKNOWN_BYTES))
    _, log = run(Room(8, [small]))
    assert [line[0] for line in log] == ["start", "end"] * 4
    for cell in cells:
        record(cell, 1000)
    failures, _ = run(Room(8, [small]), **TOGETHER)
    assert failures == []
