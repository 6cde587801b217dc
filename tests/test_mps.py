"""Cells that share a GPU by NVIDIA's MPS, tried with a stand-in for its control program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from benchmark import experiment, mps, processes, sharing
from benchmark.errors import UserError
from benchmark.gpu import Gpu, Room
from benchmark.guard import ENDINGS, ended_once, undisturbed
from benchmark.processes import Planned

# Notes how it is called. A daemon is a process that keeps what it writes to open, as the real one
# may; "servers" has the processes that hold the GPU once one of the service has used it.
CONTROL = """#!/bin/bash
folder="$CUDA_MPS_PIPE_DIRECTORY"
fate="$(cat "{root}/fate" 2>/dev/null)"
if [ "${{1:-}}" = -d ]; then
  echo "start $CUDA_VISIBLE_DEVICES $CUDA_MPS_LOG_DIRECTORY" >> "{root}/log"
  [ "$fate" != refuses ] || {{ echo "no such device" >&2; exit 1; }}
  [ "$fate" != hangs ] || exec sleep 60
  sleep 60 &
  echo $! > "$folder/nvidia-cuda-mps-control.pid"
  echo $! >> "{root}/pids"
  touch "$folder/control"
  exit 0
fi
read -r order
echo "$order" >> "{root}/log"
[ "$fate" != "no answer" ] || exec sleep 60
case "$order" in
  get_server_list) cat "$folder/servers" 2>/dev/null; exit 0 ;;
  quit)
    [ "$fate" != deaf ] || exec sleep 60
    [ "$fate" != slow ] || sleep 1
    kill "$(cat "$folder/nvidia-cuda-mps-control.pid")" $(cat "$folder/servers") ;;
esac
"""
TRY = """
import os, pathlib, subprocess
assert os.environ["CUDA_VISIBLE_DEVICES"] == {seen!r}, "another GPU"
folder = os.environ["CUDA_MPS_PIPE_DIRECTORY"]
assert os.environ["CUDA_MPS_LOG_DIRECTORY"] == folder
server = subprocess.Popen(["sleep", "60"], start_new_session=True)
pathlib.Path(folder, "servers").write_text(f"{{server.pid}}\\n")
with open({pids!r}, "a") as pids:
    pids.write(f"{{server.pid}}\\n")
os._exit(0)
"""


class Service:
    """What the stand-in was told, and which daemons it started."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fate(self, word: str) -> None:
        (self.root / "fate").write_text(word)

    def attempt(self, seen: str = "0") -> str:
        """What a process of the service does first, if it is to see the GPU by this name."""
        return TRY.format(seen=seen, pids=str(self.root / "pids"))

    def log(self) -> list[str]:
        file = self.root / "log"
        return file.read_text().splitlines() if file.exists() else []

    def alive(self) -> list[int]:
        file = self.root / "pids"
        pids = [int(line) for line in file.read_text().split()] if file.exists() else []
        return [pid for pid in pids if mps._lives(pid)]


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    root = tmp_path / "mps"
    root.mkdir()
    program = root / mps.CONTROL
    program.write_text(CONTROL.format(root=root))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{root}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv(mps.PIPE_VARIABLE, raising=False)
    monkeypatch.setattr(mps, "DEFAULT_FOLDER", str(root / "default"))
    made = Service(root)
    monkeypatch.setattr(mps, "_TRY", made.attempt())
    yield made
    for pid in made.alive():
        psutil.Process(pid).kill()


@pytest.mark.parametrize(
    ("visible", "seen"), [("3", "0"), ("GPU-1b", "GPU-1b"), ("MIG-2", "MIG-2")]
)
def test_a_service_is_for_one_gpu_and_ends(
    visible: str, seen: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers begin anew for those who use it; other names stay."""
    monkeypatch.setattr(mps, "_TRY", service.attempt(seen))
    with mps.serve(visible) as given:
        folder = Path(given[mps.PIPE_VARIABLE])
        assert given == {
            mps.PIPE_VARIABLE: str(folder), mps.LOG_VARIABLE: str(folder),
            "CUDA_VISIBLE_DEVICES": seen,
        }  # fmt: skip
        assert len(service.alive()) == 2
    assert service.log() == [
        f"start {visible} {folder}", "get_server_list", "get_server_list", "quit"
    ]  # fmt: skip
    assert service.alive() == [] and not folder.exists()


def test_a_service_ends_after_an_error(service: Service) -> None:
    with pytest.raises(KeyboardInterrupt), mps.serve("0"):
        raise KeyboardInterrupt
    assert service.alive() == []


@pytest.mark.parametrize("fate", ["deaf", "no answer"])
def test_one_that_does_not_listen_is_killed(
    fate: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the process that holds the GPU, and before somebody loses patience with this one."""
    monkeypatch.setattr(mps, "END_SECONDS", 0.5)
    children = mps._processes
    with mps.serve("0"):
        _, server = service.alive()
        # The stand-in's server is no child of its daemon's.
        monkeypatch.setattr(mps, "_processes", lambda folder: children(folder) | {server})
        if fate == "deaf":
            monkeypatch.setattr(mps, "_processes", children)
        service.fate(fate)
        started = time.monotonic()
    assert time.monotonic() - started < 10
    deadline = time.monotonic() + 10
    while service.alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert service.alive() == []


def test_a_daemon_is_known_with_what_it_started(tmp_path: Path) -> None:
    code = "import subprocess; subprocess.run(['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", code]) as daemon:
        (tmp_path / mps.PID_FILE).write_text(f"{daemon.pid}\n")
        deadline = time.monotonic() + 30
        while len(found := mps._processes(tmp_path)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in found:
            psutil.Process(pid).kill()
    assert daemon.pid in found and len(found) == 2
    assert mps._processes(tmp_path) == set()


def test_the_end_is_not_interrupted(service: Service) -> None:
    """By a batch system, say, whose patience ends while the service does."""
    service.fate("slow")
    with mps.serve("0"):
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
    timer.join()
    assert service.alive() == []


SERVE = """
import signal, sys, time
from benchmark import mps
from benchmark.guard import guard
mps._TRY = {attempt!r}
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, {hup})
def work():
    with mps.serve("0"):
        print("ready", flush=True)
        time.sleep({seconds})
    print("done", flush=True)
guard(work)
"""
ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@pytest.mark.parametrize("numbers", [*((one,) for one in ENDS), *((one, one) for one in ENDS),
                                     (signal.SIGTERM, signal.SIGINT)])  # fmt: skip
def test_whoever_ends_this_process_ends_the_service(
    numbers: tuple[signal.Signals, ...], service: Service
) -> None:
    """A batch system, a terminal that is closed, or Ctrl-C; they come in twos, and no second one
    leaves it half ended."""
    code = SERVE.format(attempt=service.attempt(), hup="signal.SIG_DFL", seconds=60)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert len(service.alive()) == 2
        service.fate("slow")
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.2)
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "interrupted: " in errors and "Traceback" not in errors
    assert service.alive() == []


def test_what_is_ignored_stays_so(service: Service) -> None:
    """As by nohup."""
    code = SERVE.format(attempt=service.attempt(), hup="signal.SIG_IGN", seconds=2)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "done\n")
    assert service.alive() == []


def test_a_way_out_is_not_disturbed() -> None:
    with ended_once(), undisturbed(*ENDINGS):
        for number in ENDINGS:
            os.kill(os.getpid(), number)
    for number in ENDINGS:
        with ended_once():
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
                time.sleep(5)
            os.kill(os.getpid(), number)  # on the way out
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("fate", "attempt", "words"),
    [
        ("refuses", None, r"does not start \(no such device\)"),
        ("hangs", None, r"gave no answer within 1 s"),
        ("", "raise SystemExit('CUDA error: 805')", r"does not work here \(CUDA error: 805\)"),
        ("", "import time; time.sleep(60)", r"a process with NVIDIA's MPS gave no answer within 1"),
        ("", "", "a process did not use it"),  # as if the connection had failed
    ],
)
def test_a_service_that_does_not_work(
    fate: str, attempt: str | None, words: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.fate(fate)
    monkeypatch.setattr(mps, "_TRY", service.attempt() if attempt is None else attempt)
    monkeypatch.setattr(mps, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(mps, "TRY_SECONDS", 1.0)
    with pytest.raises(UserError, match=words), mps.serve("0"):
        pytest.fail("it does not work")
    assert service.alive() == []


def test_without_the_program_there_is_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mps, "which", lambda name: None)
    assert mps.running() is None
    with pytest.raises(UserError, match="nvidia-cuda-mps-control is not installed"), mps.serve("0"):
        pytest.fail("there is none")


# -- an experiment ---------------------------------------------------------------------------------

GPUS = [Gpu("0", "Card A", 40_000_000_000), Gpu("1", "Card B", 10_000_000_000)]


@pytest.fixture
def cells(tmp_path: Path) -> list[Planned]:
    overrides = [f"results={tmp_path}/r", "grid.method=[pop,tiger]", "grid.seed=[0,1]"]
    return experiment.plan("smoke", overrides, check=False)


def test_cells_share_gpus_by_a_service_each(
    service: Service, cells: list[Planned], capsys: pytest.CaptureFixture[str]
) -> None:
    """The second one, too, which has room for one cell: of what others take more is known later."""
    room = Room(8, [GPUS[0], GPUS[1]._replace(visible="0")])
    assert sharing.side_by_side(cells, room) == [3, 1]
    with sharing.shared_by_mps(cells, room, "auto") as shared:
        assert sorted(shared.services) == [0, 1]
        assert shared.environment(0) == shared.services[0]
        assert shared.services[0][mps.PIPE_VARIABLE] != shared.services[1][mps.PIPE_VARIABLE]
        assert shared.in_turns == frozenset() and not shared.found_before
        assert sharing.side_by_side(cells, shared) == [3, 1]
        assert len(service.alive()) == 4
    assert service.alive() == []
    assert room.environment(0) == {"CUDA_VISIBLE_DEVICES": "0"}
    assert capsys.readouterr().err.splitlines() == [
        "GPU 0 (Card A, 40.0 GB free): cells run at the same time, by NVIDIA's MPS",
        "GPU 0 (Card B, 10.0 GB free): cells run at the same time, by NVIDIA's MPS",
    ]


@pytest.mark.parametrize(
    ("per_gpu", "wanted", "at_once", "rule"),
    [(None, "auto", 1, "run one after another (--jobs-per-gpu N: N)"),
     (2, "auto", 2, "take turns"),
     (None, "off", 1, "run one after another (--jobs-per-gpu N: N)")],
)  # fmt: skip
def test_without_a_service_a_gpu_takes_a_cell_at_a_time(
    per_gpu: int | None, wanted: str, at_once: int, rule: str, service: Service,
    cells: list[Planned], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Unless more are asked for: they would take turns, and be no faster."""
    service.fate("refuses")
    with sharing.shared_by_mps(cells, Room(8, GPUS[:1], per_gpu), wanted) as shared:
        assert shared.services == {}
        assert sharing.side_by_side(cells, shared) == [at_once]
    why = "--mps off" if wanted == "off" else "NVIDIA's MPS does not start (no such device)"
    assert capsys.readouterr().err == f"note: GPU 0 (Card A, 40.0 GB free): cells {rule}: {why}\n"


def test_after_one_that_is_silent_no_other_is_waited_for(
    service: Service, cells: list[Planned], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Where it refuses at once the next GPU is tried, which may be another kind."""
    tried: list[str] = []
    reasons: list[UserError] = []

    @contextmanager
    def serve(visible: str) -> Iterator[dict[str, str]]:
        tried.append(visible)
        raise reasons[-1]
        yield {}

    monkeypatch.setattr(mps, "serve", serve)
    for reason, number in ((mps.NoAnswer("no answer"), 1), (UserError("refused"), 2)):
        tried.clear()
        reasons.append(reason)
        with sharing.shared_by_mps(cells * 2, Room(8, GPUS), "auto") as shared:
            assert shared.services == {} and shared.in_turns == {0, 1}
        assert len(tried) == number
        lines = capsys.readouterr().err.splitlines()
        assert lines[1].endswith("not tried, after the one before" if number == 1 else "refused")


def test_no_service_is_started_in_vain(service: Service, cells: list[Planned]) -> None:
    """Not where no GPU can get two cells."""
    for room, some in (
        (Room(8, GPUS, per_gpu=1), cells), (Room(8), cells), (Room(8, GPUS), cells[:2]),
        (Room(1, GPUS), cells),
    ):  # fmt: skip
        with sharing.shared_by_mps(some, room, "auto") as shared:
            assert shared is room
    assert service.log() == []


@pytest.mark.parametrize("wanted", ["auto", "off"])
def test_a_service_that_runs_already_is_used(
    wanted: str, service: Service, cells: list[Planned], capsys: pytest.CaptureFixture[str]
) -> None:
    """As it would be by any process: so cells are told, which then end between kernels."""
    theirs = service.root / "default"
    theirs.mkdir()
    (theirs / "control").touch()
    with sharing.shared_by_mps(cells, Room(8, GPUS[:1]), wanted) as shared:
        assert shared.environment(0) == {
            "CUDA_VISIBLE_DEVICES": "0", mps.PIPE_VARIABLE: str(theirs)
        }  # fmt: skip
        assert shared.found_before
    assert service.log() == ["get_server_list"]
    assert capsys.readouterr().err == (
        "GPU 0 (Card A, 40.0 GB free): cells run at the same time, by NVIDIA's MPS, which was "
        "running before\n"
    )


# Ends as the next line of its own file says; the first two wait for each other.
CELL = """
import os, pathlib, sys, time
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
with (folder / "log").open("a") as file:
    file.write(f"{name} {os.environ.get('CUDA_MPS_PIPE_DIRECTORY')}\\n")
patience = time.monotonic() + 30
while len((folder / "log").read_text().splitlines()) < 2:
    assert time.monotonic() < patience
    time.sleep(0.01)
fates = folder / name
lines = fates.read_text().splitlines() if fates.exists() else []
if lines:
    fates.write_text("\\n".join(lines[1:]))
    sys.exit(lines[0])
"""
FAULT = "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"


@pytest.mark.parametrize(
    ("served", "per_gpu", "tries"), [(True, 2, 2), (False, 2, 1), (True, 1, 1)],
    ids=["shared", "in turns", "alone"],
)  # fmt: skip
def test_an_error_of_cuda_may_be_a_neighbours(
    served: bool, per_gpu: int, tries: int, tmp_path: Path, cells: list[Planned],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Where a GPU is shared by the service it ends all who do: those are tried again alone, and
    whose it was fails there, too."""
    names = [f"{cell.settings.method_name}-{cell.settings.seed}" for cell in cells[:2]]

    def command_of(cell: Planned) -> list[str]:
        name = f"{cell.settings.method_name}-{cell.settings.seed}"
        return [sys.executable, "-I", "-S", "-c", CELL, str(tmp_path), name]

    monkeypatch.setattr(processes, "command_of", command_of)
    monkeypatch.setattr(processes, "POLL_SECONDS", 0.02)
    if per_gpu == 1:
        (tmp_path / "log").write_text("one\ntwo\n")
    (tmp_path / names[0]).write_text(f"{FAULT}\n{FAULT}")
    (tmp_path / names[1]).write_text(FAULT)
    services = {0: {mps.PIPE_VARIABLE: "here"}} if served else {}
    failures = processes.run_cells(cells[:2], Room(4, GPUS[:1], per_gpu, services=services))
    log = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert len(failures) == (1 if tries == 2 else 2)
    assert all(FAULT in failure for failure in failures)
    first = ["here" if served else "None"]
    for name in names:  # alone there is nobody to share with
        assert [place for who, *place in log if who == name] == [first, ["None"]][:tries]


@pytest.mark.parametrize(("said", "found_before", "second"), [
    (FAULT, False, "None"), (FAULT, True, "here"),
    ("torch.OutOfMemoryError: CUDA out of memory", False, "here"),
])  # fmt: skip
def test_one_that_is_tried_again_leaves_only_a_service_that_may_be_broken(
    said: str, found_before: bool, second: str, tmp_path: Path, cells: list[Planned],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """On a GPU for one process at a time the service holds the only place, so that outside there is
    none; and one that was there before is found by who is not told of it, too."""
    names = [f"{cell.settings.method_name}-{cell.settings.seed}" for cell in cells[:2]]

    def command_of(cell: Planned) -> list[str]:
        name = f"{cell.settings.method_name}-{cell.settings.seed}"
        return [sys.executable, "-I", "-S", "-c", CELL, str(tmp_path), name]

    monkeypatch.setattr(processes, "command_of", command_of)
    monkeypatch.setattr(processes, "POLL_SECONDS", 0.02)
    for name in names:  # both at once, which says no more of what a cell needs than one
        (tmp_path / name).write_text(said)
    room = Room(4, GPUS[:1], 2, services={0: {mps.PIPE_VARIABLE: "here"}},
                found_before=found_before)  # fmt: skip
    guess = room.need_bytes(cells[0].settings)
    assert processes.run_cells(cells[:2], room) == []
    log = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    for name in names:
        assert [place for who, place in log if who == name] == ["here", second]
    told = room.need_bytes(cells[0].settings)
    assert guess is not None and told == (guess if said == FAULT else int(1.5 * guess))


@pytest.mark.parametrize("shared", [True, False])
def test_who_shares_a_gpu_ends_between_kernels(shared: bool, tmp_path: Path) -> None:
    """SIGTERM is then what Ctrl-C is."""
    code = (
        "import time; from benchmark.guard import guard; from benchmark.mps import "
        "ended_between_kernels as ended\n"
        "with ended(): guard(lambda: (print('ready', flush=True), time.sleep(60))[0])"
    )
    environment = {name: value for name, value in os.environ.items() if name != mps.PIPE_VARIABLE}
    if shared:
        environment[mps.PIPE_VARIABLE] = str(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == (130 if shared else -signal.SIGTERM)
    assert ("interrupted" in errors) == shared


def test_a_cell_that_does_not_end_is_killed(
    tmp_path: Path, cells: list[Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in the middle of a long loop of C hears no signal."""
    ready = tmp_path / "ready"
    deaf = (
        "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"pathlib.Path({json.dumps(str(ready))}).touch(); time.sleep(60)"
    )
    monkeypatch.setattr(processes, "command_of", lambda cell: [sys.executable, "-c", deaf])
    monkeypatch.setattr(processes, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.2)
    started = time.monotonic()
    assert processes.run_cells(cells[:1], Room(1), over=ready.exists) == []
    assert time.monotonic() - started < 30


# Starts a cell that waits, says its number, and is gone.
SCHEDULER = """
import os, subprocess, sys
cell = (
    "import time; from benchmark import mps; from benchmark.guard import guard; "
    "from benchmark.progress import end_with_scheduler; end_with_scheduler()\\n"
    "with mps.ended_between_kernels():\\n"
    "    guard(lambda: (open({ready!r}, 'w').close(), time.sleep(60))[0])"
)
environment = os.environ | {{"DIGER_BENCH_PARENT": str(os.getpid())}}
print(subprocess.Popen([sys.executable, "-c", cell], env=environment).pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("shared", [True, False])
def test_a_cell_whose_scheduler_is_killed_ends(shared: bool, tmp_path: Path) -> None:
    """Between two kernels, where others share the GPU."""
    environment = {name: value for name, value in os.environ.items() if name != mps.PIPE_VARIABLE}
    if shared:
        environment[mps.PIPE_VARIABLE] = str(tmp_path)
    errors = tmp_path / "errors"
    code = SCHEDULER.format(ready=str(tmp_path / "ready"))
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=file, text=True,
        )  # fmt: skip
    assert process.stdout is not None
    cell = int(process.stdout.readline())
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    while mps._lives(cell) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not mps._lives(cell)
    assert ("interrupted: " in errors.read_text()) == shared


@pytest.mark.parametrize("shared", [True, False])
def test_kernels_are_waited_for_at_the_end(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after an error on the GPU, which this one would meet again."""
    torch, waited = pytest.importorskip("torch"), []

    def synchronize() -> None:
        waited.append(True)
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.delenv(mps.PIPE_VARIABLE, raising=False)
    if shared:
        monkeypatch.setenv(mps.PIPE_VARIABLE, "here")
    with pytest.raises(SystemExit), mps.ended_between_kernels():
        raise SystemExit(2)
    assert waited == [True] * shared
