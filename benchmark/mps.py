"""NVIDIA's multi-process service (MPS): cells on one GPU at the same time, where they take turns
without it.

A service is for one GPU, and for the processes that are given its environment; it lies in a folder
of its own, beside any other that runs on the machine. Whether it works is tried before it is used:
a process that cannot reach one runs without it, and says nothing.

Source: NVIDIA, Multi-Process Service, "Appendix: Environment Variables"
(docs.nvidia.com/deploy/mps), and the manual page of nvidia-cuda-mps-control.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import which
from typing import Any

import psutil

from benchmark.errors import UserError
from benchmark.guard import ENDINGS, ended_once, undisturbed

CONTROL = "nvidia-cuda-mps-control"
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
PIPE_VARIABLE, LOG_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
#: The control program answers at once or, where the service does not work, not at all.
ANSWER_SECONDS = 20.0
#: For each of two orders by which a service is ended, and once more before what is left is killed:
#: whoever stops this process may not give it long.
END_SECONDS = 2.0
#: To import torch and to make the first context, which starts the service's server.
TRY_SECONDS = 120.0
PID_FILE = f"{CONTROL}.pid"
DEFAULT_FOLDER = "/tmp/nvidia-mps"  # NVIDIA's

# What a cell does first, in a process of its own.
_TRY = """
import torch
assert torch.cuda.device_count() == 1, f"{torch.cuda.device_count()} GPUs are seen"
assert torch.ones(8, device="cuda").sum().item() == 8
"""


class NoAnswer(UserError):
    """The service, or who uses it, was waited for in vain."""


def is_installed() -> bool:
    return which(CONTROL) is not None


def running() -> dict[str, str] | None:
    """Of a service that somebody started before, and that processes started now find without being
    told: what `in_use` knows it by. None where there is none."""
    folder = Path(os.environ.get(PIPE_VARIABLE, DEFAULT_FOLDER))
    if not is_installed() or not (folder / "control").exists():
        return None
    try:
        code, _ = _control("get_server_list", os.environ, ANSWER_SECONDS)
    except UserError:
        return None
    return {PIPE_VARIABLE: str(folder)} if code == 0 else None


def in_use() -> bool:
    """Whether this process was told of a service: by `serve`, by `running`, or by somebody else."""
    return PIPE_VARIABLE in os.environ


@contextmanager
def ended_between_kernels() -> Iterator[None]:
    """Where this process shares the GPU by a service, have SIGTERM end it as Ctrl-C does, and wait
    for its kernels at the end: who ends in the middle of one may leave the service, and so all who
    share it, in any state."""
    if not in_use():
        yield
        return
    with ended_once():
        try:
            yield
        finally:
            torch = sys.modules.get("torch")
            if torch is not None and torch.cuda.is_initialized():
                with suppress(Exception):  # an error on the GPU has been told
                    torch.cuda.synchronize()


@contextmanager
def serve(visible: str) -> Iterator[dict[str, str]]:
    """A service for one GPU while it lasts; gives the environment of the processes that use it.

    All of them must have ended before this does.

    Args:
        visible: the GPU, as CUDA_VISIBLE_DEVICES names it here: its number, UUID or MIG name.

    Raises:
        UserError: there is none for that GPU; why, as the end of a sentence. NoAnswer: found out by
            waiting.
    """
    if not is_installed():
        raise UserError(f"{CONTROL} is not installed")
    # A batch system or a closed terminal says SIGTERM or SIGHUP, and nobody else ends the service.
    with (
        ended_once(),
        tempfile.TemporaryDirectory(prefix="mps-", ignore_cleanup_errors=True) as folder,
    ):
        places = {PIPE_VARIABLE: folder, LOG_VARIABLE: folder}
        # The service sees this GPU alone, and numbers what it sees anew for who uses it.
        own = {**os.environ, **places, VISIBLE_VARIABLE: visible}
        given = {**places, VISIBLE_VARIABLE: "0" if visible.isdecimal() else visible}
        try:
            _start(own, Path(folder))
            _try(given)
            if not _servers(own, ANSWER_SECONDS):
                raise UserError("NVIDIA's MPS was started, but a process did not use it")
            yield given
        finally:
            with undisturbed(*ENDINGS):
                _stop(own, Path(folder))


def _start(environment: Mapping[str, str], folder: Path) -> None:
    # Not into pipes, which a daemon may keep open for as long as it lives.
    said = folder / "start.txt"
    with said.open("wb") as output:
        code = _run([CONTROL, "-d"], environment, ANSWER_SECONDS, stdout=output, stderr=output)
    if code:
        raise UserError(f"NVIDIA's MPS does not start ({_last_line(said) or f'code {code}'})")


def _try(given: Mapping[str, str]) -> None:
    """Compute something on the GPU as a cell would."""
    with tempfile.TemporaryFile() as output:
        environment = {**os.environ, **given}
        try:
            code = _run([sys.executable, "-c", _TRY], environment, TRY_SECONDS,
                        stdout=subprocess.DEVNULL, stderr=output)  # fmt: skip
        except UserError:
            raise NoAnswer(
                f"a process with NVIDIA's MPS gave no answer within {TRY_SECONDS:.0f} s"
            ) from None
        output.seek(0)
        lines = output.read().decode("utf-8", errors="replace").strip().splitlines()
    if code:
        raise UserError(f"NVIDIA's MPS does not work here ({lines[-1] if lines else code})")


def _stop(environment: Mapping[str, str], folder: Path) -> None:
    """End the service; what of it does not end by itself is killed."""
    pids = _processes(folder)
    with suppress(UserError, OSError):
        pids |= set(_servers(environment, END_SECONDS))
    with suppress(UserError, OSError):
        _control("quit", environment, END_SECONDS)  # which waits for those who use it
    patience = time.monotonic() + END_SECONDS
    while any(map(_lives, pids)) and time.monotonic() < patience:
        time.sleep(0.05)
    for pid in filter(_lives, pids):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _servers(environment: Mapping[str, str], seconds: float) -> list[int]:
    """Of the service of this environment: who holds the GPU, once somebody uses it."""
    code, said = _control("get_server_list", environment, seconds)
    return [] if code else [int(word) for word in said.split() if word.isdecimal()]


def _processes(folder: Path) -> set[int]:
    """The daemon of the service in this folder, and what it has started."""
    try:
        daemon = psutil.Process(int((folder / PID_FILE).read_text(encoding="ascii")))
        return {process.pid for process in (daemon, *daemon.children(recursive=True))}
    except (OSError, ValueError, psutil.Error):
        return set()


def _lives(pid: int) -> bool:
    try:
        # Of a daemon whose parent collects no children, a zombie is left.
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _control(order: str, environment: Mapping[str, str], seconds: float) -> tuple[int, str]:
    """Exit code and answer of an order to the service of this environment.

    Raises:
        UserError: there was none in time.
    """
    with tempfile.TemporaryFile() as orders, tempfile.TemporaryFile() as output:
        orders.write(f"{order}\n".encode())
        orders.seek(0)
        code = _run([CONTROL], environment, seconds, stdin=orders, stdout=output,
                    stderr=subprocess.DEVNULL)  # fmt: skip
        output.seek(0)
        return code, output.read().decode("utf-8", errors="replace").strip()


def _run(command: Sequence[str], environment: Mapping[str, str], seconds: float, **to: Any) -> int:
    """Exit code. Ctrl-C is this process's business, not theirs.

    Raises:
        NoAnswer: it took longer, and was killed.
    """
    try:
        return subprocess.run(
            command, env=environment, timeout=seconds, check=False, start_new_session=True,
            **{"stdin": subprocess.DEVNULL, **to},
        ).returncode  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command[0]} gave no answer within {seconds:.0f} s") from None


def _last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
