"""Prepared tables on disk: parquet, and a manifest whose presence says that they are whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from benchmark.data.interactions import Interactions
from benchmark.store import sha256_file, write_json, write_parquet

TABLES = ("interactions.parquet", "items.parquet", "users.parquet")


def row_tables(interactions: Interactions) -> list[pd.DataFrame]:
    """The tables named by `TABLES`, a row an interaction, an item and a user."""
    start = np.searchsorted(interactions.user, np.arange(interactions.n_users))
    position = np.arange(len(interactions.user)) - start[interactions.user]
    return [
        pd.DataFrame(
            {
                "user": interactions.user,
                "item": interactions.item,
                "position": position.astype(np.int32),
            }
        ),
        pd.DataFrame(
            {
                "item": np.arange(interactions.n_items, dtype=np.int32),
                "token": interactions.item_tokens,
                "catalogue_row": interactions.catalogue_row,
            }
        ),
        pd.DataFrame(
            {
                "user": np.arange(interactions.n_users, dtype=np.int32),
                "token": interactions.user_tokens,
            }
        ),
    ]


def read_rows(folder: Path, facts: Mapping[str, Any]) -> Interactions:
    """What `row_tables` took apart, without texts."""
    pairs, items, users = (pq.read_table(folder / name) for name in TABLES)
    return Interactions(
        user=pairs["user"].to_numpy(),
        item=pairs["item"].to_numpy(),
        user_tokens=users["token"].to_pylist(),
        item_tokens=items["token"].to_pylist(),
        catalogue_row=items["catalogue_row"].to_numpy(),
        facts=facts,
    )


def lock_of(folder: Path) -> Path:
    """The lock file beside a folder, whose own folder is made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.with_suffix(".lock")


def save(
    folder: Path,
    tables: list[pd.DataFrame],
    manifest: Mapping[str, Any],
    names: tuple[str, ...] = TABLES,
) -> None:
    """Write the tables, and then the manifest, whose presence says that they are whole."""
    (folder / "manifest.json").unlink(missing_ok=True)
    for name, frame in zip(names, tables, strict=True):
        write_parquet(folder / name, frame)
    sums = {name: sha256_file(folder / name) for name in names}
    write_json(folder / "manifest.json", {**manifest, "tables_sha256": sums})


def load(folder: Path, names: tuple[str, ...]) -> dict[str, Any] | None:
    """The manifest of what `save` wrote; None if it is not there or not whole."""
    try:
        manifest: dict[str, Any] = json.loads(
            (folder / "manifest.json").read_text(encoding="utf-8")
        )
        sums = manifest.pop("tables_sha256")
        if any(sha256_file(folder / name) != sums[name] for name in names):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest
