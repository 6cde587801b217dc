"""The processes that cells are, from their start to their end.

Each cell is its own process, so a crash costs one cell. One that dies because its GPU's memory ran
out is tried once more, alone on that GPU; so is one that shared it by NVIDIA's MPS and met an error
of CUDA, which there ends all who share it, whoever's it was.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmark import store
from benchmark.config import Settings
from benchmark.errors import UserError
from benchmark.gpu import Room
from benchmark.guard import undisturbed
from benchmark.progress import FILE_VARIABLE, PARENT_VARIABLE
from benchmark.scheduler import Want, make_scheduler

MayStart = Callable[["Planned"], bool]

POLL_SECONDS = 0.5
#: What torch, CUDA or its libraries say when the GPU's memory has run out.
OUT_OF_MEMORY = ("OutOfMemoryError", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
RAN_OUT = "ran out of memory"  # what this says of it
#: What they say of an error on the GPU.
CUDA_ERROR = (
    "CUDA error", "AcceleratorError", "CUBLAS_STATUS_", "CUDNN_STATUS_", "Triton Error [CUDA]",
    "CUDA initialization", "torch sees no GPU",
)  # fmt: skip
#: For cells to end by themselves; one in the middle of a long loop of C listens to nothing.
STOP_SECONDS = 10.0
#: The last part of a cell's output, which is all that is searched.
TAIL_BYTES = 65536


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


@dataclass
class _Job:
    key: int
    cell: Planned
    process: subprocess.Popen[bytes]
    bar: Any
    slot: int
    gpu: int | None
    need_bytes: int | None  # of GPU memory, as expected when it was started
    company: bool = False  # had another cell beside it on its GPU, at some time
    started: float = field(default_factory=time.monotonic)

    @property
    def progress_file(self) -> Path:
        return self.cell.settings.cell.folder / "progress.json"

    @property
    def output_file(self) -> Path:
        return self.cell.settings.cell.folder / "output.log"

    def show(self) -> None:
        """Bring its bar up to date."""
        try:
            facts = json.loads(self.progress_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if self.bar.total != facts["total"]:
            self.bar.reset(total=facts["total"])
            self.bar.unit = facts["unit"]
        self.bar.set_postfix_str(facts["note"], refresh=False)
        self.bar.update(facts["done"] - self.bar.n)

    def tail(self) -> str:
        """The end of what it printed."""
        text = self.output_file.read_bytes()[-TAIL_BYTES:].decode("utf-8", errors="replace")
        return text.replace("\r", "\n")

    def last_line(self) -> str:
        lines = [line for line in self.tail().splitlines() if line.strip()]
        return f"{lines[-1] if lines else 'no output'} (all of it: {self.output_file})"


def command_of(cell: Planned) -> list[str]:
    return [sys.executable, "-m", "benchmark.run", *cell.overrides]


def _launch(
    want: Want, cell: Planned, slot: int, place: int | None, room: Room, shares: bool
) -> _Job:
    """Start a cell on a GPU. shares: whether by the service there, if there is one."""
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
    command = command_of(cell)
    if place is not None:
        environment |= room.environment(place, shares)
        # A GPU that cannot be reached now is an error, and no reason to go on without it.
        command.append("device=cuda")
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
    settings = cell.settings
    label = f"{settings.method_name} seed {settings.seed}"
    # Bars of running cells make sense on a terminal only; a log gets one line a finished cell.
    bar = tqdm(total=1, desc=f"  {label}", position=slot + 1, leave=False,
               disable=not sys.stderr.isatty())  # fmt: skip
    return _Job(want.key, cell, process, bar, slot, place, want.need_bytes)


class _Run:
    """The cells of one call of `run_cells`."""

    def __init__(
        self, cells: Sequence[Planned], room: Room, overall: Any, may_start: MayStart | None
    ) -> None:
        self.cells, self.room, self.overall = cells, room, overall
        self.may_start = may_start
        self.scheduler = make_scheduler(room)
        self.waiting = list(range(len(cells)))
        self.alone_on: dict[int, int] = {}  # GPU of each cell that is tried again
        self.faulty: set[int] = set()  # of those, which met an error of CUDA beside others
        self.running: list[_Job] = []
        self.failures: list[str] = []

    def start_what_may(self) -> None:
        while True:
            wants = [
                Want(key, self.room.need_bytes(self.cells[key].settings), self.alone_on.get(key))
                for key in self.waiting
                if self.may_start is None or self.may_start(self.cells[key])
            ]
            start = self.scheduler.start(wants)
            if start is None:
                return
            self.waiting.remove(start.key)
            taken = {job.slot for job in self.running}
            slot = next(slot for slot in range(self.room.jobs) if slot not in taken)
            # Who comes after an error may find a service that is none any more, and one that is
            # alone needs none: unless it would find it untold.
            shares = start.key not in self.faulty or self.room.found_before
            want = next(want for want in wants if want.key == start.key)
            job = _launch(want, self.cells[start.key], slot, start.gpu, self.room, shares)
            beside = [other for other in self.running if other.gpu == start.gpu]
            for other in [*beside, job] if beside else []:
                other.company = True
            self.running.append(job)

    def ended(self, job: _Job, code: int) -> None:
        self.running.remove(job)
        self.scheduler.finish(job.key)
        job.bar.close()
        why = self._why_again(job) if code and job.key not in self.alone_on else None
        if why is not None and job.gpu is not None:
            self.alone_on[job.key] = job.gpu
            if why == RAN_OUT:
                assert job.need_bytes is not None  # it was on a GPU
                self.room.needs.ran_out(job.cell.settings.cell, job.need_bytes)
            else:
                self.faulty.add(job.key)
            self.waiting.insert(0, job.key)
            self.overall.write(
                f"{job.cell.name} {why} on {self.room.gpus[job.gpu]}: it is tried once more, alone "
                "there"
            )
            return
        self.overall.update()
        if code == 0:
            self.room.needs.learn(job.cell.settings.cell)
            seconds = time.monotonic() - job.started
            self.overall.write(f"done in {seconds:.0f} s: {job.cell.name}")
        else:
            self.failures.append(f"{job.cell.name} failed ({code}): {job.last_line()}")
            self.overall.write(self.failures[-1])

    def _why_again(self, job: _Job) -> str | None:
        """What of its end may have been its company's, in words; None: nothing."""
        if job.gpu is None:
            return None
        tail = job.tail()
        if any(sign in tail for sign in OUT_OF_MEMORY):
            return RAN_OUT
        shared = job.company and job.gpu in self.room.services
        if shared and any(sign in tail for sign in CUDA_ERROR):
            return "met an error of CUDA beside others"
        return None

    def stop(self) -> None:
        for job in self.running:
            job.process.terminate()
        patience = time.monotonic() + STOP_SECONDS
        for job in self.running:
            try:
                job.process.wait(max(0.0, patience - time.monotonic()))
            except subprocess.TimeoutExpired:
                job.process.kill()
                job.process.wait()
            job.bar.close()


def run_cells(
    cells: Sequence[Planned],
    room: Room,
    may_start: MayStart | None = None,
    over: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Run the cells, as many at a time as there is room for; returns one line per failure.

    Args:
        may_start: whether a cell may start now; None: every one.
        over: whether it is time to stop those that run; what is stopped is no failure, and goes
            on where it was when it is started again.
    """
    overall = tqdm(total=len(cells), unit="cell", desc="cells", position=0)
    run = _Run(cells, room, overall, may_start)
    try:
        run.start_what_may()
        while run.running and not over():
            time.sleep(POLL_SECONDS)
            for job in list(run.running):
                job.show()
                code = job.process.poll()
                if code is not None:
                    run.ended(job, code)
                    run.start_what_may()
    finally:
        with undisturbed(signal.SIGINT):
            run.stop()
        overall.close()
    return run.failures
