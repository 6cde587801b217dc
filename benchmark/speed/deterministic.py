"""What ``deterministic=true`` costs, and whether it does what it says: the same bits twice."""

from __future__ import annotations

from typing import Any

import torch

from benchmark.execution import begin
from benchmark.speed.target import Target, subject
from benchmark.speed.training import GPU_WARM_UP, WARM_UP, fast_steps, take_turns

STEPS = 40  # after which the weights of two trainings are compared


def measure(target: Target, device: str, threads: int, seconds: float) -> list[dict[str, Any]]:
    """A row without the switch and one with it: milliseconds a step, and whether two trainings
    from the same seed end on the same bits. For a process of its own: CUDA reads a part of the
    switch once."""
    rows = []
    # With the switch first: what cuBLAS does is settled by the first product.
    for on in (True, False):
        settings = target.settings(device, threads, [f"deterministic={str(on).lower()}"])
        execution = settings.execution.on(device)
        begin(execution, device)
        if not on:
            torch.use_deterministic_algorithms(False)
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
            times, _ = take_turns(steps, None, device, seconds / 4, 0.0, warm_up)
        rows.append(
            {
                "experiment": target.experiment, "dataset": target.dataset,
                "method": target.method, "deterministic": on,
                "ms_per_step": sum(times) / len(times) * 1e3, "same_bits": same,
            }
        )  # fmt: skip
    return rows
