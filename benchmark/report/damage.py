"""Is a finished cell what a report can read? Said before anything is made of it, in one line.

Checksums tell of bytes that changed after the run; a file that was damaged before, or that has no
checksum, is found here: a record that lacks what every report needs, a metrics file without its
end, a log that is no JSON, semantic IDs of another shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from benchmark.aggregate import aggregate, evaluated_users
from benchmark.errors import UserError
from benchmark.store import StoredRun

METRIC_COLUMNS = {"user", "metric", "k", "value"}

#: What every report reads of run.json: a dotted key and the type it must have.
_NEEDED: tuple[tuple[str, type], ...] = (
    ("dataset", str), ("method", str), ("config_sha256", str), ("split_sha256", str),
    ("seed", int), ("protocol", Mapping), ("protocol.ks", list), ("counts", Mapping),
    ("counts.users", int), ("counts.items", int), ("counts.interactions", int),
)  # fmt: skip

#: What may be missing or null, but must have the type where it is there.
_OPTIONAL = ("dataset_info", "describe", "git", "device", "seconds", "versions", "execution")


def check_run(run: StoredRun) -> None:
    """Raise ``UserError`` in one line, naming the file, for a cell that no report can read.

    Reads the small files, and of metrics.parquet no more than where its end says the columns are.
    """
    _check(run, "run.json", _record)
    _check(run, "metrics.parquet", _metrics)
    _check(run, "train.jsonl", _log)
    _check(run, "sids.npy", _sids)
    _check(run, "config.yaml", _config)


def unreadable(runs: Sequence[StoredRun]) -> dict[Path, str]:
    """The folders of runs that cannot be aggregated even alone, with a line each. It reads every
    metrics file, so it is asked only when all together could not be."""
    found = {}
    for run in runs:
        try:
            aggregate([run])
        except UserError as error:
            found[run.folder] = str(error)
        except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
            found[run.folder] = _line(run, "metrics.parquet", error)
    return found


def _check(run: StoredRun, name: str, look: Callable[[StoredRun], None]) -> None:
    try:
        look(run)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, OSError, EOFError, pa.ArrowException) as error:
        raise UserError(_line(run, name, error)) from None


def _line(run: StoredRun, name: str, error: Exception) -> str:
    why = " ".join(str(error).split()) or type(error).__name__
    return (
        f"{run.folder / name} is damaged ({why[:200]}); "
        f"delete {run.folder} and run the cell again"
    )  # fmt: skip


def _record(run: StoredRun) -> None:
    for key, kind in _NEEDED:
        value: Any = run.info
        for step in key.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{key} is missing or of another kind")
    for key in _OPTIONAL:
        if not isinstance(run.info.get(key) or {}, Mapping):
            raise ValueError(f"{key} is of another kind")
    if not run.info["protocol"]["ks"]:
        raise ValueError("protocol.ks is empty")
    evaluated_users(run.info)


def _metrics(run: StoredRun) -> None:
    names = set(pq.read_schema(run.folder / "metrics.parquet").names)
    if not names >= METRIC_COLUMNS:
        raise ValueError(f"no column {', '.join(sorted(METRIC_COLUMNS - names))}")


def _log(run: StoredRun) -> None:
    for row in run.train_log():
        if not isinstance(row, Mapping) or not isinstance(row.get("epoch"), int):
            raise ValueError("a line has no epoch")


def _sids(run: StoredRun) -> None:
    chosen = run.sids()
    if chosen is None:
        return
    _check_sids(chosen, run.info["counts"]["items"])
    last = run.last_sids()
    if last is not None:
        _check_sids(last, len(chosen))
        if last.shape[1] != chosen.shape[1]:
            raise ValueError(f"{chosen.shape[1]} columns, those of the last epoch {last.shape[1]}")


def _check_sids(sids: NDArray[Any], items: int) -> None:
    """int [items, m + 1], none below 0, m at least 1."""
    if sids.ndim != 2 or len(sids) != items or sids.shape[1] < 2:
        raise ValueError(f"semantic IDs of {items} items have shape {sids.shape}")
    if not np.issubdtype(sids.dtype, np.integer) or sids.min() < 0:
        raise ValueError("semantic IDs must be whole numbers from 0")


def _config(run: StoredRun) -> None:
    path = run.folder / "config.yaml"
    if path.exists():
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from None
        if not isinstance(loaded, Mapping):
            raise ValueError("no settings in it")
