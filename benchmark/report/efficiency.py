"""The table of costs: parameters, times, memory, and on what and with what they were measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmark.aggregate import DatasetResults, MethodRuns, evaluated_users
from benchmark.report.table import Column, Table, integer, significant
from benchmark.store import StoredRun

MIB = 2**20
SHORT_COMMIT = 8

#: Of a run's versions, those that decide how fast it is.
_VERSIONS = ("python", "torch", "numpy", "recbole")


def efficiency_table(result: DatasetResults) -> Table:
    """One row a method."""
    frame = pd.DataFrame([_row(method) for method in result.methods])
    columns = [
        Column("method", "Method"), Column("parameters", "Parameters", integer),
        Column("fit", "Training, s", significant), Column("shared", "Shared, s", significant),
        Column("rank", "Ranking, ms a user", significant),
        Column("total", "Whole run, s", significant),
        Column("memory", "Peak memory, MiB", integer),
    ]  # fmt: skip
    if frame["device_memory"].notna().any():
        columns.append(Column("device_memory", "Peak device memory, MiB", integer))
    columns += [Column("device", "Device"), Column("threads", "Threads")]
    if frame["execution"].notna().any():
        columns.append(Column("execution", "Steps"))
    columns.append(Column("commit", "Commit"))
    caption = (
        f"Cost on {result.heading}, means over seeds. Training: fitting alone. Shared: what other "
        "runs use, too, such as a tokenizer, made or found in the cache. Whole run: training, "
        "shared part and ranking. Times are wall-clock and include whatever else the machine was "
        "doing; compare them only on the same device and threads. Peak memory is the process's. "
        "Commit: an asterisk marks uncommitted changes."
    )
    return Table(
        f"{result.dataset}-efficiency", frame, tuple(columns), caption, tuple(_notes(result))
    )


def _row(method: MethodRuns) -> dict[str, Any]:
    milliseconds = [1000 * rank / evaluated_users(run.info) for run in method.runs
                    if (rank := _seconds(run, "rank")) is not None]  # fmt: skip
    totals = [total for run in method.runs if (total := _whole(run)) is not None]
    return {
        "method": method.label,
        "parameters": method.mean_fact("describe", "parameters"),
        "fit": method.mean_fact("seconds", "fit"),
        "shared": method.mean_fact("seconds", "shared"),
        "rank": _mean(milliseconds),
        "total": _mean(totals),
        "memory": method.mean_fact("peak_memory_bytes") / MIB,
        "device_memory": method.mean_fact("peak_device_bytes") / MIB,
        "device": _distinct(method.facts("device", "name")),
        "threads": _distinct(method.facts("device", "threads")),
        "execution": _distinct(filter(None, map(_execution, method.runs))),
        "commit": _distinct(map(_commit, method.runs)),
    }


def _seconds(run: StoredRun, part: str) -> float | None:
    value = (run.info.get("seconds") or {}).get(part)
    return None if value is None else float(value)


def _whole(run: StoredRun) -> float | None:
    """Training, shared part and ranking together; None where training was not timed."""
    fit, rank = _seconds(run, "fit"), _seconds(run, "rank")
    if fit is None or rank is None:
        return None
    return fit + rank + (_seconds(run, "shared") or 0.0)


def _execution(run: StoredRun) -> str | None:
    """``eager, fp32, numba``, of a generative method; None where the run does not say."""
    facts = run.info.get("execution") or {}
    step = (run.info.get("describe") or {}).get("step") or {}
    said = [facts.get("step"), facts.get("precision"), step.get("passes")]
    return ", ".join(str(fact) for fact in said if fact) or None


def _commit(run: StoredRun) -> str:
    git = run.info.get("git") or {}
    commit = str(git.get("commit") or "unknown")[:SHORT_COMMIT]
    return f"{commit}*" if git.get("dirty") else commit


def _notes(result: DatasetResults) -> list[str]:
    """Which versions made which methods; one line where all had the same."""
    makers: dict[str, dict[str, None]] = {}
    for method in result.methods:
        for run in method.runs:
            versions = run.info.get("versions") or {}
            words = ", ".join(f"{name} {versions[name]}" for name in _VERSIONS if name in versions)
            makers.setdefault(words or "not stored", {})[method.label] = None
    if len(makers) == 1:
        return [f"Versions: {next(iter(makers))}."]
    return [f"Versions: {words} ({'; '.join(labels)})." for words, labels in makers.items()]


def _distinct(values: Iterable[Any]) -> str | None:
    return ", ".join(dict.fromkeys(str(value) for value in values)) or None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
