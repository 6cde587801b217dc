"""Run a command and see what it and the processes it starts take of the machine."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import NamedTuple

import psutil

PAUSE = 0.05  # seconds between two looks


class Use(NamedTuple):
    """What a command took.

    Attributes:
        seconds: from its start to its end.
        cpu_seconds: of all its processes that were waited for; what else the machine does makes
            them hardly longer.
        peak_memory_bytes: the largest sum of the processes that were alive at one time, each with
            its own largest resident size so far. What processes share counts in each, and their
            peaks need not fall together, so that no more than this was needed at once, but for
            what a process takes in its last moments.
        processes: the most that were alive at one time.
    """

    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    processes: int


def watch(command: Sequence[str], folder: Path) -> tuple[Use, subprocess.CompletedProcess[str]]:
    """Run the command in ``folder`` to its end, whatever its exit code."""
    before, started = _cpu_seconds(), time.perf_counter()
    peak, most = 0, 1
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          cwd=folder) as process:  # fmt: skip
        while True:
            try:
                output, errors = process.communicate(timeout=PAUSE)
                break
            except subprocess.TimeoutExpired:
                sizes = _sizes(process.pid)
                peak, most = max(peak, sum(sizes)), max(most, len(sizes))
    seconds = time.perf_counter() - started
    use = Use(seconds, _cpu_seconds() - before, peak, most)
    return use, subprocess.CompletedProcess(command, process.returncode, output, errors)


def _cpu_seconds() -> float:
    """Of this process's children that have ended, and of theirs."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _sizes(pid: int) -> list[int]:
    """Largest resident size so far of a process and of each that it has started, in bytes."""
    try:
        main = psutil.Process(pid)
        family = [main, *main.children(recursive=True)]
    except psutil.Error:
        return []
    return [size for size in map(_largest, family) if size]


def _largest(process: psutil.Process) -> int:
    """0 for a process that is gone; the size of now where the system does not tell the largest."""
    status = Path(f"/proc/{process.pid}/status")
    try:
        lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
        return found[0] if found else int(process.memory_info().rss)
    except (psutil.Error, OSError):
        return 0
