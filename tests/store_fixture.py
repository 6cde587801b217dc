"""A small synthetic store: what the harness would have written, without training anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.metrics import per_user_frame
from benchmark.store import (
    Cell,
    StoredRun,
    read_run_json,
    sha256_file,
    sha256_json,
    write_json,
    write_npy,
    write_parquet,
)

KS = (5, 10, 20)
LABELS = {
    "pop": "Popularity", "lightgcn": "LightGCN", "sasrec": "SASRec (CE)",
    "sasrec_bce": "SASRec (BCE)", "tiger": "TIGER", "ste": "STE", "gumbel": "Gumbel, no decay",
    "diger_sdud": "DIGER (SDUD)", "diger_frqud": "DIGER (FrqUD)",
    "diger_frqud_detached": "DIGER (FrqUD), detached",
}  # fmt: skip
#: Chance that a user's target is in the method's list at all.
STRENGTH = {
    "pop": 0.05, "lightgcn": 0.2, "sasrec": 0.3, "sasrec_bce": 0.25, "tiger": 0.3, "ste": 0.03,
    "gumbel": 0.25, "diger_sdud": 0.35, "diger_frqud": 0.45, "diger_frqud_detached": 0.3,
}  # fmt: skip
GENERATIVE = ("tiger", "ste", "gumbel", "diger_sdud", "diger_frqud", "diger_frqud_detached")


def add_run(
    root: Path,
    method: str,
    seed: int,
    *,
    dataset: str = "toy",
    config: Mapping[str, Any] | None = None,
    n_users: int = 200,
    n_items: int = 300,
    epochs: int = 6,
    ranks: Sequence[int] | None = None,
    drop_users: Sequence[int] = (),
    **changes: Any,
) -> StoredRun:
    """Write one finished cell.

    Args:
        ranks: rank of each user's target, from 1; 0: not in the list. Drawn if not given.
        drop_users: users left out of metrics.parquet.
        changes: keys of run.json to replace; dotted with ``__`` (``protocol__users=100``).
    """
    config = {"method": method, **(config or {})}
    cell = Cell(root, dataset, method, sha256_json(config), seed)
    code = sorted(LABELS).index(method) if method in LABELS else 99
    rng = np.random.default_rng([code, seed, n_users])
    targets = rng.integers(0, n_items, n_users).astype(np.int32)
    if ranks is None:
        hit = rng.random(n_users) < STRENGTH.get(method, 0.2)
        ranks = np.where(hit, rng.integers(1, 21, n_users), 0).tolist()
    lists = _lists(targets, ranks, n_items)
    sids = _sids(rng, n_items, 2 if method == "ste" else 16) if method in GENERATIVE else None
    users = np.arange(n_users, dtype=np.int64)
    frame = per_user_frame(users, lists, targets, KS, None if sids is None else sids[:, :-1])
    write_parquet(cell.folder / "metrics.parquet", frame[~frame["user"].isin(list(drop_users))])
    if sids is not None:
        write_npy(cell.folder / "sids.npy", sids)
    if method != "pop":
        rows = [_epoch(rng, method, epoch) for epoch in range(epochs + seed)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (cell.folder / "train.jsonl").write_text(text, encoding="utf-8")
    info = _info(cell, n_users, n_items, sids is not None)
    for path, value in changes.items():
        *parents, key = path.split("__")
        part = info
        for parent in parents:
            part = part[parent]
        part[key] = value
    info["sha256"] = {"metrics.parquet": sha256_file(cell.folder / "metrics.parquet")}
    write_json(cell.folder / "run.json", info)
    return stored(cell.folder)


def stored(folder: Path) -> StoredRun:
    """A cell's folder as the reports read it."""
    info = read_run_json(folder)
    assert info is not None
    return StoredRun(folder, info)


def example_store(
    root: Path,
    methods: Sequence[str] = tuple(LABELS),
    seeds: Sequence[int] = (0, 1),
    **options: Any,
) -> list[StoredRun]:
    """Every method with every seed."""
    return [add_run(root, method, seed, **options) for method in methods for seed in seeds]


def _lists(targets: np.ndarray, ranks: Sequence[int], n_items: int) -> np.ndarray:
    """int32 [n_users, 20]: lists of other items with the target at its rank."""
    offsets = np.arange(1, 21, dtype=np.int32)
    lists = (targets[:, None] + offsets) % n_items
    for user, rank in enumerate(ranks):
        if rank:
            lists[user, rank - 1] = targets[user]
    return np.asarray(lists, dtype=np.int32)


def _sids(rng: np.random.Generator, n_items: int, n_codes: int) -> np.ndarray:
    """int32 [n_items, 4]: three codes and the number among the items that share them."""
    codes = np.minimum(rng.geometric(0.15, (n_items, 3)) - 1, n_codes - 1)
    suffix = pd.DataFrame(codes).groupby([0, 1, 2]).cumcount().to_numpy()
    return np.column_stack([codes, suffix]).astype(np.int32)


def _epoch(rng: np.random.Generator, method: str, epoch: int) -> dict[str, Any]:
    top = STRENGTH.get(method, 0.2) / 2
    row: dict[str, Any] = {
        "epoch": epoch, "seconds": 1.5, "loss/total": 5.0 / (epoch + 1),
        "valid/ndcg@10": top * (1 - 0.6**epoch) + 0.005 * rng.random(), "valid/recall@10": top,
    }  # fmt: skip
    if method in GENERATIVE:
        norm = 0.0 if method in ("tiger",) or method.endswith("detached") else 0.1 / (epoch + 1)
        still = method == "tiger"
        row |= {
            "codes/used": [16.0, 15.0, 14.0 - (epoch if method == "ste" else 0)],
            "drift/full": 0.0 if still else 0.5**epoch, "grad/codebook": [norm, norm, 2 * norm],
            "snr": None if still else [0.5, 1.0, 1.5],
        }  # fmt: skip
    if "sdud" in method:
        row["sigma"] = [0.9**epoch, 0.8**epoch, 0.7**epoch]
    if "frqud" in method:
        row["hot_share"] = [0.2 + 0.01 * epoch] * 3
    return row


def _info(cell: Cell, n_users: int, n_items: int, generative: bool) -> dict[str, Any]:
    facts = {"codebook_size": 16, "levels": 3, "logit_scale": "gap"} if generative else {}
    return {
        "status": "done", "dataset": cell.dataset, "method": cell.method,
        "method_label": LABELS.get(cell.method, cell.method), "seed": cell.seed,
        "config_sha256": cell.config_sha256, "split_sha256": "5" * 64,
        "embeddings_sha256": "e" * 64 if generative else None,
        "exclude_seen": cell.method in ("pop", "lightgcn"),
        "protocol": {"name": "quick", "max_history": 20, "train_prefixes": 20, "users": None,
                     "top_k": 20, "ks": list(KS)},
        "counts": {"users": n_users, "items": n_items, "interactions": 10 * n_users,
                   "train_rows": 7 * n_users, "dropped_users": 3},
        "dataset_info": {"text_source": "title & genre", "encoder": "all-MiniLM-L6-v2"},
        "git": {"commit": "c" * 40, "dirty": False},
        "versions": {"torch": "2.11.0", "numpy": "2.4.6"},
        "device": {"kind": "cpu", "name": "Example CPU", "threads": 2},
        "seconds": {"fit": 12.5, "rank": 0.4, "total": 13.0}, "peak_memory_bytes": 512 * 2**20,
        "coverage": {"5": 0.4, "10": 0.6, "20": 0.8}, "short_lists": 0, "missing_users": 0,
        "describe": {"parameters": 123456, "best_epoch": 4, "notes": [], **facts},
    }  # fmt: skip
