"""What goes beside tidy per-user values: a row on each run, and a page on the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.aggregate import DatasetResults, MethodRuns
from benchmark.report.table import Markdown, one_line
from benchmark.store import StoredRun

COLUMNS = {
    "dataset": "name of the data set in the store",
    "method": "name of the method",
    "config": "first 12 characters of the hash of everything that decides the result but the seed",
    "label": "the method as the reports name it",
    "seed": "of the training",
    "user": "id of the user, from 0, in the order of the split; negative: a user who should have "
            "been evaluated but whom no run names. Stored results do not have the names of users",
    "metric": "recall, ndcg or mrr; with code_ before it, the target's codes are a hit",
    "k": "cut-off",
    "value": "of this user in this run; 0 for one who is missing from the run, as in the reports",
}  # fmt: skip


#: Columns of runs.csv that are whole numbers, where a run has them.
WHOLE = ("users_without_list", "short_lists", "threads", "peak_memory_bytes", "parameters",
         "best_epoch")  # fmt: skip


def run_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of ``run_row`` as a frame, in which a whole number stays one where others lack."""
    return pd.DataFrame(rows).astype(dict.fromkeys(WHOLE, "Int64"))


def run_row(
    result: DatasetResults, method: MethodRuns, run: StoredRun, frame: pd.DataFrame
) -> dict[str, Any]:
    """One row of runs.csv: identity, provenance, cost, and the mean over users of every metric."""
    info = run.info
    git, device = info.get("git") or {}, info.get("device") or {}
    seconds, describe = info.get("seconds") or {}, info.get("describe") or {}
    versions = info.get("versions") or {}
    missing = len(frame) - len(np.unique(run.metric_rows().user))
    return {
        "dataset": result.dataset, "method": method.method, "config": run.config_sha256[:12],
        "label": method.label, "seed": run.seed, "config_sha256": run.config_sha256,
        "split_sha256": run.split_sha256, "embeddings_sha256": info.get("embeddings_sha256"),
        "protocol": info["protocol"].get("name"), "exclude_seen": info.get("exclude_seen"),
        "users": len(frame), "users_missing": missing,
        "users_without_list": info.get("missing_users"), "short_lists": info.get("short_lists"),
        "commit": git.get("commit"), "uncommitted_changes": git.get("dirty"),
        "device": device.get("kind"), "device_name": device.get("name"),
        "threads": device.get("threads"), "fit_seconds": seconds.get("fit"),
        "rank_seconds": seconds.get("rank"), "peak_memory_bytes": info.get("peak_memory_bytes"),
        "parameters": describe.get("parameters"), "best_epoch": describe.get("best_epoch"),
        **{f"version_{name}": versions[name] for name in sorted(versions)},
        **{f"mean_{metric}@{k}": float(frame[(metric, k)].mean()) for metric, k in pairs_of(frame)},
    }  # fmt: skip


def pairs_of(frame: pd.DataFrame) -> list[tuple[str, int]]:
    """(metric, k) of each column of per-user values."""
    return [(str(column[0]), int(column[1])) for column in frame.columns]


def readme(
    command: str, files: Sequence[Path], n_runs: int, notes: Mapping[str, tuple[str, ...]]
) -> str:
    """The page beside the files: how they were made, what the columns mean, what to know."""
    markup = Markdown()
    lines = [
        f"<!-- Made by: {one_line(command)} -->", "", "# Per-user metrics", "",
        f"{n_runs} runs, made from stored results by", "", f"    {command}", "",
        f"Files: {', '.join(path.name for path in files)}. metrics has one row a value; runs has "
        "one row a run, with its means over users, its provenance and its cost.", "",
        "| Column of metrics | Meaning |", "| :--- | :--- |",
        *(f"| {name} | {markup.escape(meaning)} |" for name, meaning in COLUMNS.items()), "",
    ]  # fmt: skip
    for dataset, said in notes.items():
        lines += [f"## {markup.escape(dataset)}", ""]
        lines += [f"- {markup.escape(note)}" for note in said] or ["Nothing to note."]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
