"""A small world for the RecBole baselines, in which the next item can be learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from baselines.lightgcn import LightGCN
from baselines.recbole_adapter import RecBoleMethod
from baselines.sasrec import SasRecBCE, SasRecCE
from benchmark.data.split import Phase, Split
from benchmark.recommender import BenchmarkData
from benchmark.store import RunFolder

N_USERS, N_ITEMS, UNUSED = 60, 37, 3
METHODS = (LightGCN, SasRecCE, SasRecBCE)
PHASES: tuple[Phase, ...] = ("valid", "test")
SMALL: dict[str, Any] = {
    "epochs": 3,
    "learning_rate": 0.01,
    "train_batch_size": 64,
    "eval_users": 16,
}
NARROW: dict[str, Any] = {"hidden_size": 16, "inner_size": 32, "n_layers": 1}  # SASRec in seconds


def planted(max_history: int = 50, train_prefixes: int | None = None) -> BenchmarkData:
    """Users walk up the items from a random start, mostly by one: the next item can be learned.

    Nobody meets an item twice, some users have three interactions only, and the last ``UNUSED``
    items of the catalogue were never consumed.
    """
    random = np.random.default_rng(7)
    lengths = np.concatenate([[3, 3, 3, 4], random.integers(5, 13, N_USERS - 4)])
    walks = []
    for length in lengths:
        steps = random.choice([1, 2], p=[0.9, 0.1], size=length)
        walks.append((random.integers(N_ITEMS - UNUSED) + np.cumsum(steps)) % (N_ITEMS - UNUSED))
    items = np.concatenate(walks).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return BenchmarkData("planted", Split(items, offsets, N_ITEMS, max_history, train_prefixes))


def with_repeats() -> BenchmarkData:
    """The same walks, but every third user ends, twice over, on an item met before."""
    data = planted()
    items = data.split.items.copy()
    for user in range(0, N_USERS, 3):
        first, end = data.split.offsets[user : user + 2]
        items[end - 2 : end] = items[first]
    return BenchmarkData("repeats", Split(items, data.split.offsets, N_ITEMS))


def model_of(method: RecBoleMethod) -> Any:
    return method._after_fit().watched.trainer.model


def small(kind: type[RecBoleMethod], **settings: Any) -> RecBoleMethod:
    return kind(**{**SMALL, **({} if kind is LightGCN else NARROW), **settings})


def fitted(
    kind: type[RecBoleMethod], data: BenchmarkData, folder: Path, seed: int = 0, **settings: Any
) -> RecBoleMethod:
    method = small(kind, **settings)
    method.fit(data, seed, RunFolder(folder, folder / "cache", "cpu"))
    return method


def scores(method: RecBoleMethod, data: BenchmarkData, seen: bool = False) -> np.ndarray[Any, Any]:
    """Everything the model says about every user, best first: items and scores side by side."""
    ranking = method.rank(data, np.arange(N_USERS), N_ITEMS, "test", seen)
    return np.concatenate([ranking.items.astype(np.float32), ranking.scores], axis=1)


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
