"""Stored results: one folder per cell, whose path is its identity.

``<root>/<dataset>/<method>/<config hash>/seed=<s>/`` holds ``run.json``, ``config.yaml``,
``ranks.parquet``, ``metrics.parquet``, ``train.jsonl``, ``sids.npy`` and ``sids/epoch=<e>.npy``.
Every file is written under another name and renamed, and ``run.json`` is marked done last, so a
cell is either done or it is not. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmark.errors import UserError
from benchmark.execution import Execution

if TYPE_CHECKING:
    from torch import Tensor

#: Files whose checksums run.json holds, where the method has them.
CHECKED_FILES = ("ranks.parquet", "metrics.parquet", "config.yaml", "train.jsonl", "sids.npy")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_npy(path: Path, array: NDArray[Any]) -> None:
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write without pandas' own metadata: equal frames give equal bytes."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hash of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Cell:
    """One (dataset, method, config, seed): the unit that is run, stored, skipped and compared."""

    root: Path
    dataset: str
    method: str
    config_sha256: str
    seed: int

    @property
    def folder(self) -> Path:
        return (
            self.root / self.dataset / self.method / self.config_sha256[:12] / f"seed={self.seed}"
        )

    def __str__(self) -> str:
        return f"{self.dataset}/{self.method}/{self.config_sha256[:12]}/seed={self.seed}"


def read_run_json(folder: Path) -> dict[str, Any] | None:
    """run.json of a cell's folder, or None where there is none."""
    path = folder / "run.json"
    if not path.exists():
        return None
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete {folder} and run again") from None
    if not isinstance(run, dict):
        raise UserError(f"{path} is not a run record; delete {folder} and run again")
    return run


def is_done(folder: Path) -> bool:
    """Whether the cell is finished and whole; a damaged one is an error, never 'done'."""
    run = read_run_json(folder)
    if run is None or run.get("status") != "done":
        return False
    sums = run.get("sha256")
    if not isinstance(sums, dict) or "metrics.parquet" not in sums:
        raise UserError(
            f"{folder / 'run.json'} is damaged: it has no checksums; delete {folder} and run again"
        )
    # A published run may leave the lists out, and says so by not naming them.
    for name, digest in sums.items():
        path = folder / name
        if not path.exists() or sha256_file(path) != digest:
            raise UserError(
                f"{path} is damaged: it does not have the checksum in run.json; "
                f"restore it, or delete {folder} and run the cell again"
            )
    return True


class MetricRows(NamedTuple):
    """metrics.parquet as arrays, each [n_rows].

    Attributes:
        user, k: int64.
        names: the metrics, in the order of the alphabet.
        metric: int64, place in ``names``.
        value: float64.
    """

    user: NDArray[np.int64]
    names: tuple[str, ...]
    metric: NDArray[np.int64]
    k: NDArray[np.int64]
    value: NDArray[np.float64]


@dataclass(frozen=True)
class StoredRun:
    """A finished cell as the reports see it. Files are read when asked for."""

    folder: Path
    info: Mapping[str, Any]  # run.json

    @property
    def dataset(self) -> str:
        return str(self.info["dataset"])

    @property
    def method(self) -> str:
        return str(self.info["method"])

    @property
    def config_sha256(self) -> str:
        return str(self.info["config_sha256"])

    @property
    def seed(self) -> int:
        return int(self.info["seed"])

    @property
    def split_sha256(self) -> str:
        return str(self.info["split_sha256"])

    def metrics(self) -> pd.DataFrame:
        """Columns user, metric, k, value."""
        return pd.read_parquet(self.folder / "metrics.parquet")

    def metric_rows(self) -> MetricRows:
        """The same rows as arrays, without a string a row: some ten times as fast."""
        path = self.folder / "metrics.parquet"
        try:
            table = pq.read_table(path, read_dictionary=["metric"]).unify_dictionaries()
            metric = table["metric"].combine_chunks()
            words = [str(word) for word in metric.dictionary.to_pylist()]
            names = tuple(sorted(words))
            rank = np.array([names.index(word) for word in words], dtype=np.int64)
            return MetricRows(
                table["user"].to_numpy().astype(np.int64), names,
                rank[metric.indices.to_numpy()], table["k"].to_numpy().astype(np.int64),
                table["value"].to_numpy().astype(np.float64),
            )  # fmt: skip
        except (pa.ArrowException, KeyError, IndexError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); delete {self.folder} and run the cell again"
            ) from None

    def ranks(self) -> pd.DataFrame:
        """Columns user, rank (from 1), item, score."""
        return pd.read_parquet(self.folder / "ranks.parquet")

    def train_log(self) -> list[dict[str, Any]]:
        """One dict an epoch; empty for methods that do not train in epochs."""
        path = self.folder / "train.jsonl"
        if not path.exists():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except ValueError:
            raise UserError(
                f"{path} is damaged; delete {self.folder} and run the cell again"
            ) from None

    def last_sids(self) -> NDArray[np.int32] | None:
        """As ``sids``, but of the last epoch, whichever one validation chose; its suffix may be
        larger than the codebook where the codes have collapsed. None where it was not kept."""
        path = last_sids(self.folder)
        return None if path is None else np.load(path, allow_pickle=False)

    def sids(self) -> NDArray[np.int32] | None:
        """int32 [n_items, m + 1], last column the suffix; None for methods without."""
        path = self.folder / "sids.npy"
        return np.load(path, allow_pickle=False) if path.exists() else None


def last_sids(folder: Path) -> Path | None:
    """The kept semantic IDs of a run's last epoch; None where none were kept."""
    return max(folder.glob("sids/epoch=*.npy"), default=None)


class RunFolder:
    """What a method gets to train in; implements ``benchmark.recommender.Run``."""

    def __init__(
        self,
        folder: Path,
        cache: Path,
        device: str,
        show: Any = None,
        exclude_seen: bool | None = None,
        execution: Execution | None = None,
    ) -> None:
        self.execution = execution or Execution()
        self.folder = folder
        self.cache = cache
        self.device = device
        self.exclude_seen = exclude_seen
        self._show = show
        folder.mkdir(parents=True, exist_ok=True)

    def log(self, row: Mapping[str, Any]) -> None:
        path = self.folder / "train.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        try:
            kept = [line for line in lines if json.loads(line)["epoch"] < row["epoch"]]
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{path} is damaged; delete {self.folder} and run the cell again"
            ) from None
        # JSON knows no NaN or infinity: a diverged loss becomes null rather than a bad file.
        kept.append(json.dumps(_finite(row), allow_nan=False))
        write_text(path, "\n".join(kept) + "\n")

    def save_sids(self, epoch: int, sids: NDArray[np.int32]) -> None:
        write_npy(self.folder / "sids" / f"epoch={epoch:04d}.npy", sids.astype(np.int32))

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        if self._show is not None:
            self._show(done, total, unit, note)

    def released_tokenizer(
        self, name: str, sha256: str | None
    ) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        from benchmark.data.download import Downloads
        from benchmark.data.tokenizer_choice import released_checkpoint

        found = released_checkpoint(name, sha256, Downloads.from_environment(self.cache))
        return found.settings, found.state


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
