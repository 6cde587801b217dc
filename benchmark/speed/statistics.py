"""Time and memory of comparing all pairs of methods: ``python -m benchmark.speed.statistics``.

    methods=12 users=30431 seeds=5 flips=10000 draws=10000 seed=0     the sizes, these by default

makes up per-user values, compares every pair by every test and with both intervals, and prints one
line of JSON. 30,431 is the number of users of Yelp, the largest of the paper's data sets. Exit code
2 for a bad argument. Needs no torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.provenance import peak_memory_bytes
from benchmark.significance import compare_all

SIZES = {"methods": 12, "users": 30_431, "seeds": 5, "flips": 10_000, "draws": 10_000, "seed": 0}
SMALLEST = {"methods": 2, "users": 2, "seeds": 1, "flips": 1, "draws": 1, "seed": 0}
TOP = 10
HIT = 0.06  # mean chance that a target is among the first ten
MANY = 3  # seeds


def measure(
    methods: int = SIZES["methods"],
    users: int = SIZES["users"],
    seeds: int = SIZES["seeds"],
    flips: int = SIZES["flips"],
    draws: int = SIZES["draws"],
    seed: int = SIZES["seed"],
) -> dict[str, float | int]:
    """Time ``compare_all`` on made-up values, in a fresh process: nothing loaded here counts.

    Returns:
        methods, users, seeds, pairs, flips, draws, seconds (of the comparison alone) and
        peak_memory_bytes (of the whole process, Python and its libraries included).

    Raises:
        UserError: a size is too small, or the process fails.
    """
    sizes = {"methods": methods, "users": users, "seeds": seeds, "flips": flips, "draws": draws,
             "seed": seed}  # fmt: skip
    _check(sizes)
    command = [sys.executable, "-m", "benchmark.speed.statistics"]
    done = subprocess.run(
        [*command, *(f"{name}={size}" for name, size in sizes.items())],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    if done.returncode != 0:
        words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"the comparison could not be measured: {words.removeprefix('error: ')}")
    result: dict[str, float | int] = json.loads(done.stdout)
    return result


def measure_here(
    methods: int, users: int, seeds: int, flips: int, draws: int, seed: int
) -> dict[str, float | int]:
    """As ``measure``, in this process: the peak is that of everything this process has done."""
    runs = made_up_runs(methods, users, [seeds] * methods, seed)
    values = pd.DataFrame({name: run.mean(axis=1) for name, run in runs.items()})
    start = time.perf_counter()
    frame = compare_all(values, runs, flips=flips, draws=draws, seed=seed)
    seconds = time.perf_counter() - start
    return {
        "methods": methods, "users": users, "seeds": seeds, "pairs": len(frame), "flips": flips,
        "draws": draws, "seconds": seconds, "peak_memory_bytes": peak_bytes(),
    }  # fmt: skip


def made_up_values(methods: int, users: int, seed: int = 0) -> pd.DataFrame:
    """NDCG@10 of each user and method, float64 [users x methods]: ``made_up_runs``, every second
    method being the mean over three seeds, which makes its values more varied."""
    counts = [MANY if method % 2 else 1 for method in range(methods)]
    runs = made_up_runs(methods, users, counts, seed)
    return pd.DataFrame({name: run.mean(axis=1) for name, run in runs.items()})


def made_up_runs(
    methods: int, users: int, seeds: Sequence[int], seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """NDCG@10 of each user with each training, [users, trainings], by method.

    Hits are rare and shared: each user has a chance that the target is among the first ten, the
    same for all methods but for their strength, and for half the users it is next to none (a beta
    distribution). A hit at rank r gives 1 / log2(r + 1), each rank being as likely. With the
    default sizes and one or three seeds seven in ten users score 0 with every method. One training
    differs from the next by chance alone.
    """
    rng = np.random.default_rng(seed)
    chance = rng.beta(2 * HIT / (1 - HIT), 2, size=users)
    runs = {}
    for method in range(methods):
        strength = 0.6 + 0.4 * method / (methods - 1)
        hit = rng.random((seeds[method], users)) < strength * chance
        rank = rng.integers(1, TOP + 1, size=(seeds[method], users))
        runs[f"method_{method}"] = np.where(hit, 1 / np.log2(rank + 1.0), 0.0).T
    return runs


def peak_bytes() -> int:
    """Largest resident size of this program. Where Linux tells it, not by getrusage: that counts
    what the parent held when it started this process."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return found[0] if found else peak_memory_bytes()


def _check(sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        if size < SMALLEST[name]:
            raise UserError(f"{name}={size} is too small; {SMALLEST[name]} is the least")


def _sizes(arguments: Sequence[str]) -> dict[str, int]:
    sizes = dict(SIZES)
    for argument in arguments:
        name, _, size = argument.partition("=")
        if name not in sizes or not size.removeprefix("-").isdecimal():
            raise UserError(
                f"unknown argument {argument!r}; give whole numbers for {', '.join(SIZES)}, "
                "such as users=1000"
            )
        sizes[name] = int(size)
    _check(sizes)
    return sizes


def main() -> None:
    guard(lambda: print(json.dumps(measure_here(**_sizes(sys.argv[1:])))), __doc__)


if __name__ == "__main__":
    main()
