"""Where a result came from: commit, versions, device, memory."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

#: numba's loops and Triton's kernels draw and add as torch's operations do, in other orders.
PACKAGES = (
    "torch", "recbole", "numpy", "scipy", "pandas", "sentence-transformers", "transformers",
    "numba", "triton",
)  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent
#: Names the commit where the checkout is a copy without git; nobody can say if it was changed.
COMMIT_VARIABLE = "DIGER_BENCH_COMMIT"


def git_state(output: Path | None = None) -> dict[str, Any]:
    """Commit and whether the working tree differs from it. Outside a repository the commit is what
    DIGER_BENCH_COMMIT says, or null, and the other null.

    Args:
        output: a folder that the command itself writes to, which is no change of the code.
    """
    apart = []
    if output is not None and (folder := output.resolve()).is_relative_to(ROOT):
        apart = ["--", ":/", f":(top,exclude,literal){folder.relative_to(ROOT)}"]
    try:
        commit = _git("rev-parse", "HEAD").strip()
        # Each file: of an untracked folder only the name would be told, whatever is excluded.
        dirty = bool(_git("status", "--porcelain", "--untracked-files=all", *apart).strip())
    except (OSError, subprocess.CalledProcessError):
        return {"commit": os.environ.get(COMMIT_VARIABLE), "dirty": None}
    return {"commit": commit, "dirty": dirty}


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def device_facts(device: str, threads: int) -> dict[str, Any]:
    """What the run ran on: kind, name, CPU threads."""
    if device == "cuda":
        import torch

        return {"kind": "cuda", "name": torch.cuda.get_device_name(), "threads": threads}
    return {"kind": "cpu", "name": _processor(), "threads": threads}


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name. A virtual machine may hide it (``AMD EPYC``): family and model, which
    tell one generation from the next, then stand behind it."""
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    facts: dict[str, str] = {}
    for line in cpuinfo.read_text(encoding="utf-8").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or platform.processor() or platform.machine()
    if any(letter.isdigit() for letter in name) or "cpu family" not in facts:
        return name
    return f"{name} (family {facts['cpu family']}, model {facts.get('model', '?')})"


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def peak_device_bytes(device: str) -> int | None:
    """Most GPU memory that torch held at a time, what it keeps for later included, but not what
    CUDA itself takes; None on a CPU."""
    if device != "cuda":
        return None
    import torch

    return int(torch.cuda.max_memory_reserved())
