"""What the time of a step, a validation and a tokenizer's step goes to, kernel by kernel:
``python -m benchmark.speed.profile``.

Writes ``<out>/<device>-profile.json`` and ``.md``. On a GPU kernels are counted as the device ran
them, in recorded steps too; on a CPU torch's operations are. What is beside them in wall time is
measured without the profiler, which itself takes time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmark import provenance, store
from benchmark.errors import UserError
from benchmark.execution import Execution, begin
from benchmark.guard import guard
from benchmark.run import check_writable, limit_threads, resolve_device
from benchmark.speed.synthetic import synthetic_content
from benchmark.speed.target import Target, check, file_name, subject, wait_for
from benchmark.speed.tokenizer import ITEMS, WIDTH, stepper
from benchmark.speed.training import GPU_WARM_UP, WARM_UP, fast_steps, forget

SHOWN = 20  # kernels of a table
NAME_WIDTH = 90


def profiled(what: str, device: str, run: Callable[[], Any], times: int) -> dict[str, Any]:
    """Wall and kernel milliseconds of one of ``times`` runs, and the kernels that took most."""
    run()
    wait_for(device)
    started = time.perf_counter()
    for _ in range(times):
        run()
    wait_for(device)
    wall = time.perf_counter() - started
    kind = ProfilerActivity.CPU if device == "cpu" else ProfilerActivity.CUDA
    with profile(activities=[kind], acc_events=True) as found:
        for _ in range(times):
            run()
        wait_for(device)
    kernels = []
    for event in found.key_averages():
        taken = event.self_cpu_time_total if device == "cpu" else event.self_device_time_total
        if taken > 0:
            kernels.append((event.key, event.count / times, taken / 1e3 / times))
    kernels.sort(key=lambda kernel: -kernel[2])
    return {
        "what": what, "wall_ms": wall * 1e3 / times, "kernels_ms": sum(k[2] for k in kernels),
        "kernels": sum(k[1] for k in kernels),
        "most": [
            {"name": name[:400], "count": count, "ms": taken}
            for name, count, taken in kernels[:SHOWN]
        ],
    }  # fmt: skip


def of_training(target: Target, device: str, threads: int, steps: int) -> Iterator[dict[str, Any]]:
    """Steps one after the other in their order, and one validation."""
    execution = target.settings(device, threads).execution.on(device)
    with subject(target, device, threads) as made:
        forget(device)
        trainer = made.fast(execution)
        stream = fast_steps(trainer)
        for _ in range(WARM_UP if device == "cpu" else GPU_WARM_UP):
            next(stream)()

        def one() -> None:
            next(stream)()

        yield profiled(f"{target}: a step", device, one, steps)
        yield profiled(f"{target}: a validation", device, trainer.validate, 1)


def of_tokenizer(device: str, steps: int) -> dict[str, Any]:
    """Steps of the RQ-VAE at the released sizes, on a made-up catalogue."""
    content = torch.from_numpy(synthetic_content(ITEMS, WIDTH)).to(device)
    run = stepper(content, "sinkhorn")
    rows = torch.arange(run.model.config.batch_size, device=device)
    return profiled("RQ-VAE, sinkhorn: a step", device, lambda: run.run(rows), steps)


def markdown(facts: dict[str, Any]) -> str:
    """A table for each thing that was profiled."""
    versions = facts["versions"]
    lines = [
        f"# Where the time goes: {facts['device']['name']}",
        "",
        f"`{facts['command']}`, commit {facts['git']['commit']}, torch {versions['torch']}, Python "
        f"{versions['python']}. Kernels below the first {SHOWN} of each are in the sums alone.",
        "",
    ]
    for row in facts["profiles"]:
        lines += [
            f"## {row['what']}",
            "",
            f"{row['wall_ms']:.3f} ms, of which {row['kernels_ms']:.3f} ms in "
            f"{row['kernels']:.0f} kernels.",
            "",
            "| kernel | times | ms | share |",
            "|:--|--:|--:|--:|",
        ]
        for kernel in row["most"]:
            name = kernel["name"][:NAME_WIDTH].replace("|", "\\|")
            share = kernel["ms"] / row["kernels_ms"]
            lines.append(f"| `{name}` | {kernel['count']:.1f} | {kernel['ms']:.4f} | {share:.1%} |")
        lines.append("")
    return "\n".join(lines)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.speed.profile",
        description="What the time of a step, a validation and a tokenizer's step goes to.",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--experiment", default="paper")
    parser.add_argument("--dataset", default="beauty/keyphrases")
    parser.add_argument("--methods", default="diger_frqud,tiger")
    parser.add_argument("--steps", type=int, default=64, help="that are profiled")
    parser.add_argument("--out", type=Path, default=Path("reports/speed"))
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, key=value")
    parsed = parser.parse_intermixed_args(given)

    def execute() -> None:
        if parsed.steps < 1:
            raise UserError(f"--steps must be at least 1, got {parsed.steps}")
        device = resolve_device(parsed.device)
        check_writable(parsed.out, "--out")
        limit_threads(parsed.threads)
        begin(Execution(), device)
        targets = [
            Target(parsed.experiment, parsed.dataset, method, tuple(parsed.overrides))
            for method in parsed.methods.split(",")
        ]
        for target in targets:
            check(target)
        facts: dict[str, Any] = {
            "command": " ".join(["python -m benchmark.speed.profile", *sys.argv[1:]]),
            "git": provenance.git_state(parsed.out),
            "versions": provenance.versions(),
            "device": provenance.device_facts(device, parsed.threads),
            "profiles": [],
        }  # fmt: skip
        path = parsed.out / f"{file_name(facts['device'], parsed.threads)}-profile"
        parsed.out.mkdir(parents=True, exist_ok=True)

        def keep(row: dict[str, Any]) -> None:
            facts["profiles"].append(row)
            store.write_text(path.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
            store.write_text(path.with_suffix(".md"), markdown(facts))

        for target in targets:
            for row in of_training(target, device, parsed.threads, parsed.steps):
                keep(row)
        keep(of_tokenizer(device, parsed.steps))
        print(path.with_suffix(".md"))

    guard(execute)


if __name__ == "__main__":
    main()
