"""Item embeddings of a trained SASRec, for tokenizers that follow who consumes what.

It is trained on the cell's own split and seed and selected on the validation rows like the
baseline ``sasrec_ce``; test targets are never read. All cells that need the same one share it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from baselines.sasrec import SasRecCE
from benchmark.data.vectors import open_npy
from benchmark.errors import UserError
from benchmark.recommender import BenchmarkData, Run
from benchmark.store import RunFolder, write_npy
from diger.checks import SettingError, build

FORMAT = "collaborative-2"  # raise when the same settings come to give other embeddings
WHERE = "method.collaborative"


def make_sasrec(settings: Mapping[str, Any]) -> SasRecCE:
    """The SASRec of the group ``method.collaborative``, untrained.

    Raises:
        ValueError: an unknown key or an impossible value, named with its place.
    """
    try:
        return build(SasRecCE, settings, WHERE)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if WHERE in text else f"{WHERE}.{text}") from None


def item_embeddings(
    settings: Mapping[str, Any], data: BenchmarkData, seed: int, run: Run
) -> NDArray[np.float32]:
    """Embeddings in the order of our items, float32 [n_items, hidden_size].

    Stored under the run's cache by the hash of all that decides them (the device is no part of
    it), beside SASRec's own training log. Other processes that want the same ones wait; an
    interrupted training goes on from its checkpoint.

    Raises:
        SettingError: the loss is not a number.
    """
    sasrec = make_sasrec(settings)
    key = [FORMAT, data.split.sha256, seed, bool(run.exclude_seen), repr(sasrec)]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    folder = run.cache / "collaborative" / name
    folder.mkdir(parents=True, exist_ok=True)

    def show(done: int, total: int, unit: str, note: str) -> None:
        run.progress(done, total, unit, f"SASRec for the tokenizer {note}".strip())

    path, shape = folder / "items.npy", (data.split.n_items, sasrec.hidden_size)
    with FileLock(folder / ".lock"):
        stored = _read(path, shape)
        if stored is not None:
            return stored
        try:
            inner = RunFolder(folder, run.cache, run.device, show, run.exclude_seen)
            sasrec.fit(data, seed, inner)
        except SettingError as error:
            raise SettingError(str(error).replace("method.", f"{WHERE}.")) from None
        embeddings = sasrec.item_embeddings()
        write_npy(path, embeddings)
        for leftover in [*folder.glob("checkpoint*"), *folder.glob(".*.tmp")]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        return embeddings


def _read(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """The stored table; None if there is none or it is damaged, so that it is made again."""
    try:
        table = np.array(open_npy(path))
    except UserError:
        return None
    return table if table.shape == shape and table.dtype == np.float32 else None
