"""Time and memory of a full report: ``python -m benchmark.speed.reporting``.

    datasets=3 methods=12 seeds=5 users=30000 items=12000 epochs=60 seed=0    the sizes, by default

writes that many made-up runs (``benchmark.speed.synthetic_store``) to a folder, reports on them
with ``python -m benchmark.report`` in a process of its own, and prints one line of JSON.
With ``keep=FOLDER`` store and report stay there. Exit code 2 for a bad argument. Needs no torch.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.progress import make_progress
from benchmark.speed.processes import Use, watch
from benchmark.speed.synthetic_store import Sizes, sizes_from, write_store


def measure(
    sizes: Sizes | None = None,
    keep: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Time the report on made-up runs of these sizes.

    Args:
        keep: folder for the store and its report, which must not be there; None: a temporary one.

    Returns:
        The sizes; runs; cores that the report may use; store_bytes; store_seconds, to make it; and
        of the report what ``processes.Use`` has.

    Raises:
        UserError: ``keep`` is there, or the report fails.
    """
    sizes = sizes or Sizes()
    if keep is not None and keep.exists():
        raise UserError(f"{keep} is there already; name a folder that is not with keep=")
    with tempfile.TemporaryDirectory(prefix="diger-bench-report-") as folder:
        root = keep or Path(folder)
        started = time.perf_counter()
        runs = write_store(root / "results", sizes, progress)
        made = time.perf_counter()
        use = _report(root)
        files = [path for path in (root / "results").rglob("*") if path.is_file()]
        return {
            **asdict(sizes), "runs": runs, "cores": _cores(),
            "store_bytes": sum(path.stat().st_size for path in files),
            "store_seconds": made - started, **use._asdict(),
        }  # fmt: skip


def _report(root: Path) -> Use:
    """Report on ``root/results`` as a reader would."""
    options = [f"store={root / 'results'}", f"out={root / 'report'}"]
    use, done = watch(
        [sys.executable, "-m", "benchmark.report", *options], Path(__file__).parents[2]
    )
    if done.returncode != 0:
        words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"the report could not be measured: {words.removeprefix('error: ')}")
    return use


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    def action() -> None:
        folders, sizes = sizes_from(sys.argv[1:], "keep")
        progress = make_progress("store")
        try:
            print(json.dumps(measure(sizes, folders.get("keep"), progress)))
        finally:
            progress.close()

    guard(action, __doc__)


if __name__ == "__main__":
    main()
