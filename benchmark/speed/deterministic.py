"""What ``deterministic=true`` costs, and whether it does what it says: the same bits twice."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmark.errors import UserError
from benchmark.speed.target import Target, subject
from benchmark.speed.training import GPU_WARM_UP, WARM_UP, fast_steps, take_turns

STEPS = 40  # after which the weights of two trainings are compared


def measure(target: Target, device: str, threads: int, seconds: float) -> Iterator[dict[str, Any]]:
    """A row with the switch and one without it: milliseconds a step, and whether two trainings
    from the same seed end on the same bits. Each in a process of its own: CUDA reads a part of the
    switch once, and then keeps to it.

    Raises:
        UserError: such a process failed.
    """
    for on in (True, False):
        command = [
            sys.executable, "-m", "benchmark.speed.deterministic", target.experiment,
            target.dataset, target.method, device, str(threads), str(seconds / 2),
            *target.overrides, f"deterministic={str(on).lower()}",
        ]  # fmt: skip
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            raise UserError(f"deterministic={str(on).lower()} ended early; its reason is above")
        yield json.loads(done.stdout.splitlines()[-1])


def row(target: Target, device: str, threads: int, seconds: float) -> dict[str, Any]:
    """That of the target's settings, in this process."""
    execution = target.settings(device, threads).execution.on(device)
    with subject(target, device, threads) as made:
        ends = []
        for _ in range(2):
            trainer = made.fast(execution)
            trainer.noise.manual_seed(0)
            steps = fast_steps(trainer)
            for _ in range(STEPS):
                next(steps)()
            state = trainer.modules.state_dict()
            ends.append({name: value.detach().cpu().clone() for name, value in state.items()})
        same = all(value.equal(ends[1][name]) for name, value in ends[0].items())
        warm_up = GPU_WARM_UP if trainer.steps.fixed else WARM_UP
        times, _ = take_turns(steps, None, device, seconds / 2, 0.0, warm_up)
    return {
        "experiment": target.experiment, "dataset": target.dataset, "method": target.method,
        "precision": execution.precision, "deterministic": execution.deterministic,
        "ms_per_step": sum(times) / len(times) * 1e3, "same_bits": same,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("experiment", "dataset", "method", "device"):
        parser.add_argument(name)
    parser.add_argument("threads", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    target = Target(given.experiment, given.dataset, given.method, tuple(given.overrides))
    print(json.dumps(row(target, given.device, given.threads, given.seconds)), flush=True)


if __name__ == "__main__":
    main()
