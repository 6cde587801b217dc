"""Single runs: a table of them, and what the page of each one shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import pandas as pd

from benchmark.aggregate import DatasetResults
from benchmark.metrics import METRICS
from benchmark.report.diagnostics import MIB, epochs
from benchmark.report.page.embed import rounded
from benchmark.report.table import Column, Table, fixed, integer, significant
from benchmark.store import StoredRun

LOG_DIGITS = 4
INFO_DIGITS = 6
#: Stands for the seed in a config that all seeds share.
SEED_MARK = "\0"


def address(run: StoredRun) -> str:
    """The part of the page's address that opens the run's own page."""
    parts = [run.dataset, run.method, run.config_sha256[:12], f"seed={run.seed}"]
    return "#run=" + "/".join(quote(part, safe="=") for part in parts)


def runs_table(result: DatasetResults) -> Table:
    """One row a run: where it comes from, how it ended and what it cost."""
    k = result.headline_k
    rows = []
    for method in result.methods:
        for run, values in zip(method.runs, method.per_seed, strict=True):
            info, git = run.info, run.info.get("git") or {}
            memory = info.get("peak_memory_bytes")
            rows.append(
                {
                    "method": method.label,
                    "seed": run.seed,
                    "value": float(values[("ndcg", k)].mean()),
                    "best": (info.get("describe") or {}).get("best_epoch"),
                    "fit": (info.get("seconds") or {}).get("fit"),
                    "memory": None if memory is None else memory / MIB,
                    "device": (info.get("device") or {}).get("name"),
                    "config": run.config_sha256[:12],
                    "commit": (git.get("commit") or "unknown")[:12]
                    + (" with changes" if git.get("dirty") else ""),
                }
            )
    columns = (
        Column("method", "Method"), Column("seed", "Seed", integer),
        Column("value", f"{METRICS['ndcg'].label}@{k}", fixed(4)),
        Column("best", "Best epoch", integer), Column("fit", "Training, s", significant),
        Column("memory", "Peak memory, MiB", integer), Column("device", "Device"),
        Column("config", "Config hash"), Column("commit", "Commit"),
    )  # fmt: skip
    caption = (
        f"Every run on {result.heading}. Best epoch: the one that validation chose. A method's "
        "name leads to the page of its run: curves, configuration, provenance."
    )
    return Table(f"{result.dataset}-runs", pd.DataFrame(rows), columns, caption)


def run_pages(result: DatasetResults) -> dict[str, Any]:
    """All that the pages of a data set's runs show, as JSON, nothing twice.

    Keys: dataset, heading, ks, shared (the part of run.json that all runs have in common), configs
    (texts, with ``SEED_MARK`` for the seed), and runs: address, label, method, seed, config (its
    position, or null), info (the rest of run.json), metrics (by label, means at each k), and log:
    for each key of train.jsonl a list of series, one a level.
    """
    infos = [run.info for run in result.runs]
    shared = common(infos)
    configs: dict[str, int] = {}
    pages = []
    for method in result.methods:
        for run, values in zip(method.runs, method.per_seed, strict=True):
            text = _config(run)
            means = values.mean()
            pages.append(
                {
                    "address": address(run),
                    "label": method.label,
                    "method": method.key,
                    "seed": run.seed,
                    "config": None if text is None else configs.setdefault(text, len(configs)),
                    "info": rounded(without(run.info, shared), INFO_DIGITS),
                    "metrics": {
                        metric.label: [
                            rounded(float(means[(name, k)]), INFO_DIGITS) for k in result.ks
                        ]
                        for name, metric in METRICS.items()
                    },
                    "log": log_series(epochs(run)),
                }
            )
    return {
        "dataset": result.dataset,
        "heading": result.heading,
        "ks": list(result.ks),
        "shared": rounded(shared, INFO_DIGITS),
        "configs": list(configs),
        "runs": pages,
    }


def log_series(log: Sequence[Mapping[str, Any]]) -> dict[str, list[list[Any]]]:
    """By key of the log, one list over epochs for each level, [1 x epochs] for plain numbers.

    Null where an epoch lacks the value. Values that are no numbers are left out.
    """
    keys = dict.fromkeys(key for row in log for key in row)
    series: dict[str, list[list[Any]]] = {}
    for key in keys:
        rows = [_levels(row.get(key)) for row in log]
        levels = max(map(len, rows))
        if levels == 0:
            continue
        series[key] = [
            [rounded(row[level], LOG_DIGITS) if level < len(row) else None for row in rows]
            for level in range(levels)
        ]
    return series


def _levels(value: Any) -> list[Any]:
    """A logged value by level; empty if there is no number in it."""
    values = value if isinstance(value, list) else [value]
    return values if any(isinstance(v, int | float) for v in values) else []


def common(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The part that all of them share, key by key and inside of what is nested."""
    first, *others = infos
    shared: dict[str, Any] = {}
    for key, value in first.items():
        if not all(key in other for other in others):
            continue
        found = [other[key] for other in others]
        if isinstance(value, Mapping) and all(isinstance(other, Mapping) for other in found):
            inner = common([value, *found])
            if inner or not any([value, *found]):
                shared[key] = inner
        elif all(other == value and type(other) is type(value) for other in found):
            shared[key] = value
    return shared


def without(info: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of ``info`` without its part in ``shared``."""
    rest: dict[str, Any] = {}
    for key, value in info.items():
        if key not in shared:
            rest[key] = value
        elif isinstance(value, Mapping) and (inner := without(value, shared[key])):
            rest[key] = inner
    return rest


def _config(run: StoredRun) -> str | None:
    path = run.folder / "config.yaml"
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8")
    return re.sub(rf"(?m)^seed: {run.seed}$", f"seed: {SEED_MARK}", text)
