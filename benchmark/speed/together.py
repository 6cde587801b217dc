"""Several trainings side by side on one device, as processes: what each more of them adds."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing.process import BaseProcess
from typing import Any

from benchmark import mps, provenance
from benchmark.errors import UserError
from benchmark.experiment import default_jobs
from benchmark.guard import ENDINGS, guard, undisturbed
from benchmark.run import limit_threads
from benchmark.speed.target import Target, subject, wait_for
from benchmark.speed.training import WARM_UP, fast_steps, plain_steps
from benchmark.speed.ways import PLAIN, SUITE, WITH_BF16, WITH_MPS

ON_A_GPU = (1, 8)  # a process takes seconds to start, and a node may be there for ten minutes
GPU_WARM_UP = 100  # the first one records all lengths
END_SECONDS = 5.0  # for them to end by themselves
#: For several to start and to record their steps, data and tokenizer being there: four of them took
#: 26 s on sixteen cores. One that lost its service would wait for ever.
START_SECONDS = 120.0


def counts(device: str) -> Sequence[int]:
    """How many are tried: up to one a core, since each drives the device from one thread."""
    cores = default_jobs()
    if device != "cpu":
        return [n for n in ON_A_GPU if n == 1 or n <= cores]
    return sorted({1, cores})


def measure(target: Target, device: str, threads: int, seconds: float) -> Iterator[dict[str, Any]]:
    """For each number of processes: steps a second of all together, over those of one, and on a
    CPU over those of the plain reference in whatever way it takes most there: by itself with all
    cores, or side by side, too. (On a GPU a step is compared with the plain one where steps are
    timed.)

    Raises:
        UserError: NVIDIA's MPS is in the way or does not work, or there are too few cores for all
            that is to be tried on a GPU; what could be measured has been.
    """
    runs = [(SUITE, n, threads) for n in counts(device)]
    precision = target.settings(device, threads).execution.on(device).precision
    if device == "cpu":
        if precision == "fp32":
            runs += [(WITH_BF16, n, threads) for n in counts(device)]
        # In this order, or its first rows would be set beside less than its most.
        runs[:0] = [(PLAIN, 1, default_jobs()), *((PLAIN, n, 1) for n in counts(device) if n > 1)]
    elif mps.is_installed():
        # Before those without: a node may be there for minutes, and this is the faster way.
        runs[1:1] = [(WITH_MPS, n, threads) for n in counts(device) if n > 1]
    if device != "cpu" and mps.running() is not None:
        raise UserError(
            "NVIDIA's MPS is running already, so nothing could be measured without it: end it "
            f"(echo quit | {mps.CONTROL})"
        )
    plain, alone = None, dict[str, float]()
    failed: UserError | None = None
    if device != "cpu" and (missing := [n for n in ON_A_GPU if n not in counts(device)]):
        failed = UserError(
            f"{missing[0]} side by side want a core each, and there are {default_jobs()}"
        )
    for way, n, each in runs:
        with ExitStack() as stack:
            more = ("precision=bf16",) if way == WITH_BF16 else ()
            given = replace(target, overrides=(*target.overrides, *more))
            try:
                here = os.environ.get(mps.VISIBLE_VARIABLE, "0").partition(",")[0].strip()
                environment = stack.enter_context(mps.serve(here)) if way == WITH_MPS else {}
                found = _run(given, device, each, seconds / len(runs), n, way, environment)
            except UserError as error:
                if way != WITH_MPS:
                    raise
                failed = error  # the service may be installed and not work
                continue
        total = sum(child["steps_per_second"] for child in found)
        if way == PLAIN:
            plain = max(total, plain or 0.0)
        if n == 1:
            alone[way] = total
        yield {
            "experiment": target.experiment, "dataset": target.dataset, "method": target.method,
            "way": way, "precision": found[0]["precision"], "processes": n, "threads": each,
            "steps_per_second": total,
            # One process by itself is the same with and without NVIDIA's service.
            "over_one": total / alone[way if way in alone else SUITE],
            "over_plain": None if plain is None or way == PLAIN else total / plain,
            "peak_device_bytes": sum(c["peak_device_bytes"] or 0 for c in found) or None,
        }  # fmt: skip
    if failed is not None:
        raise failed


def _run(
    target: Target, device: str, threads: int, seconds: float, n: int, way: str,
    environment: Mapping[str, str],
) -> list[dict[str, Any]]:  # fmt: skip
    command = _command(target, device, threads, seconds, n, way)
    # The first one prepares data and tokenizer, where they are not there.
    limit = None if device == "cpu" or n == 1 else START_SECONDS + seconds
    # A group of their own, so that none is left if this is interrupted.
    with subprocess.Popen(
        command, text=True, env={**os.environ, **environment}, stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            raise UserError(f"{n} side by side ({way}) had not ended after {limit:.0f} s") from None
        finally:
            _end(process)
    # What prepares data may have said so before.
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    if process.returncode or len(found) != n:
        raise UserError("a training of those side by side ended early; its reason is above")
    return found


def _command(
    target: Target, device: str, threads: int, seconds: float, n: int, way: str
) -> list[str]:
    return [
        sys.executable, "-m", "benchmark.speed.together", way, target.experiment, target.dataset,
        target.method, device, str(threads), str(seconds), str(n), *target.overrides,
    ]  # fmt: skip


def _end(process: subprocess.Popen[str]) -> None:
    """End what is left of its group: those who share a GPU by NVIDIA's MPS between two kernels."""
    with undisturbed(*ENDINGS), suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        patience = time.monotonic() + END_SECONDS
        while time.monotonic() < patience:
            process.poll()
            os.killpg(process.pid, 0)  # raises once nobody is left
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)


def _child(
    way: str, target: Target, device: str, threads: int, seconds: float, start: Any, results: Any
) -> None:
    with mps.ended_between_kernels(), subject(target, device, threads) as made:
        execution = target.settings(device, threads).execution.on(device)
        trainer = made.fast(execution)
        steps = plain_steps(made.plain(trainer)) if way == PLAIN else fast_steps(trainer)
        for _ in range(WARM_UP if device == "cpu" or way == PLAIN else GPU_WARM_UP):
            next(steps)()
        wait_for(device)
        start.wait()
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            next(steps)()
            count += 1
            if count % 32 == 0:
                wait_for(device)
        wait_for(device)
        results.put(
            {
                "steps_per_second": count / (time.perf_counter() - started),
                "peak_device_bytes": provenance.peak_device_bytes(device),
                "precision": "fp32" if way == PLAIN else execution.precision,
            }
        )


def side_by_side(
    way: str, target: Target, device: str, threads: int, seconds: float, n: int
) -> list[dict[str, Any]]:
    """What each of n trainings says, which start their clocks together.

    They are forked from this process, which has imported everything and touched no device: eight
    imports of torch and transformers take longer than what is measured.

    Raises:
        UserError: one of them ended early.
    """
    limit_threads(threads)
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(n), context.SimpleQueue()
    given = (way, target, device, threads, seconds, start, results)
    # Not daemons, which may have no children, as the loader of a plain reference on a GPU has.
    children = [context.Process(target=_child, args=given) for _ in range(n)]
    for child in children:
        child.start()
    try:
        while any(child.is_alive() for child in children):
            _check_all(children)
            time.sleep(0.05)
        _check_all(children)
    finally:
        for child in children:  # those left would be waited for at the end of this process
            child.kill()
    return [results.get() for _ in children]


def _check_all(children: Sequence[BaseProcess]) -> None:
    if any(child.exitcode for child in children):
        raise UserError("a training of those side by side ended early; its reason is above")


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("way", "experiment", "dataset", "method", "device"):
        parser.add_argument(name)
    parser.add_argument("threads", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("processes", type=int)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    target = Target(given.experiment, given.dataset, given.method, tuple(given.overrides))
    for facts in side_by_side(
        given.way, target, given.device, given.threads, given.seconds, given.processes
    ):
        print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    guard(main)
