"""From a data set's config to what the methods get: read, check, split, embed, and remember.

The canonical form is kept under ``<cache>/<store name>/<hash>/`` (interactions.parquet,
items.parquet, users.parquet, manifest.json), where the hash covers the input files and every
option that decides the form; embeddings are under ``<cache>/embeddings/``. Several processes may
prepare at once; a damaged cache is built again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from filelock import FileLock

from benchmark.data.config import DatasetConfig, plain
from benchmark.data.embed import item_embeddings
from benchmark.data.encoder import render
from benchmark.data.interactions import Interactions, canonical
from benchmark.data.sources import Source, open_source
from benchmark.data.split import Split
from benchmark.errors import UserError
from benchmark.recommender import BenchmarkData
from benchmark.store import sha256_file, sha256_json, write_json, write_parquet

__all__ = ["DatasetConfig", "Prepared", "prepare"]

# Part of the cache's hash; raise it when a change here or in interactions.py changes the form.
FORMAT = 1
TABLES = ("interactions.parquet", "items.parquet", "users.parquet")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A data set ready for use.

    Attributes:
        data: what methods get.
        interactions: the canonical form, with the source's tokens and texts.
        manifest: JSON facts of what was built and from what.
        folder: the canonical files.
    """

    data: BenchmarkData
    interactions: Interactions
    manifest: dict[str, Any]
    folder: Path


def prepare(
    dataset: DatasetConfig,
    protocol_max_history: int,
    protocol_train_prefixes: int | None,
    cache: Path,
    need_text: bool = True,
) -> Prepared:
    """Build a data set, or take it from the cache.

    Args:
        dataset: which.
        protocol_max_history: histories keep this many items.
        protocol_train_prefixes: train on each user's last prefixes only; None: on all.
        cache: folder for everything that is kept; created if need be.
        need_text: whether to embed the items; without, ``data.embeddings`` is None.

    Raises:
        UserError: bad input files, an invariant that does not hold, or no way to embed.
    """
    source = open_source(dataset.source)
    template = dataset.encoder.template if dataset.encoder else None
    key = {
        "format": FORMAT,
        "source": plain(dataset.source),
        "inputs": source.inputs(),
        "users": dataset.users,
        "template": template,
    }
    folder = cache / dataset.store_name / sha256_json(key)[:12]
    interactions, manifest = _load(folder) or _build(dataset, source, key, folder)
    _check_invariants(dataset, manifest["facts"]["full"])
    split = interactions.split(protocol_max_history, protocol_train_prefixes)
    manifest |= _split_facts(split)
    manifest["counts"]["dropped_users"] = manifest["facts"]["dropped_users"]
    data = BenchmarkData(dataset.store_name, split)
    manifest |= {"encoder": None, "embeddings_sha256": None}
    if need_text:
        if dataset.encoder is None:
            raise UserError(
                f"{dataset.name} has no encoder: set dataset.encoder to embed its items"
            )
        embeddings = item_embeddings(
            interactions.texts,
            interactions.catalogue_row,
            manifest["facts"]["full"]["items"],
            dataset.encoder,
            cache / "embeddings",
        )
        data = BenchmarkData(dataset.store_name, split, embeddings.values, embeddings.sha256)
        encoder = {**asdict(dataset.encoder.resolved()), "dimension": embeddings.values.shape[1]}
        manifest |= {"encoder": encoder, "embeddings_sha256": embeddings.sha256}
    return Prepared(data, interactions, manifest, folder)


def _split_facts(split: Split) -> dict[str, Any]:
    """The manifest's part that depends on the protocol.

    ``mean_sequence`` is the mean number of a user's interactions, ``mean_history`` the mean number
    of items in the history of a test row, after the cut to max_history; ``density`` is
    interactions / (users x items).
    """
    test = split.positions("test")
    n = len(split.items)
    return {
        "counts": {
            "users": split.n_users,
            "items": split.n_items,
            "interactions": n,
            "train_rows": len(split.train_positions),
            "valid_rows": split.n_users,
            "test_rows": split.n_users,
        },
        "density": n / (split.n_users * split.n_items),
        "mean_sequence": n / split.n_users,
        "mean_history": float((test - split.history_starts(test)).mean()),
        "max_history": split.max_history,
        "train_prefixes": split.train_prefixes,
        "split_sha256": split.sha256,
    }


def _check_invariants(dataset: DatasetConfig, full: Mapping[str, int]) -> None:
    users = full["users"]
    # Every user who stays has at least three interactions: all but the first and the two held
    # out are targets of training rows.
    found = {
        **full,
        "train_rows": full["interactions"] - 3 * users,
        "valid_rows": users,
        "test_rows": users,
    }
    for key, expected in dataset.invariants.items():
        if found[key] != expected:
            raise UserError(
                f"{dataset.name} should have {key}={expected} but has {found[key]}: "
                "its files are not those that this config was written for"
            )


def _build(
    dataset: DatasetConfig, source: Source, key: Mapping[str, Any], folder: Path
) -> tuple[Interactions, dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        done = _load(folder)  # another process may have built it while this one waited
        if done:
            return done
        (folder / "manifest.json").unlink(missing_ok=True)
        data = source.read()
        texts = None
        if data.texts is not None and dataset.encoder is not None:
            template = dataset.encoder.template
            texts = {token: render(template, *text) for token, text in data.texts.items()}
        interactions = canonical(data.rows, texts, dataset.users)
        manifest = {
            "name": dataset.name,
            "label": dataset.label,
            "source": key["source"],
            "revision": source.revision,
            "inputs_sha256": key["inputs"],
            "sampled_users": dataset.users,
            "text_source": source.text_source if texts is not None else None,
            "facts": dict(interactions.facts),
        }
        _save(folder, interactions, manifest)
        return interactions, manifest


def _save(folder: Path, interactions: Interactions, manifest: dict[str, Any]) -> None:
    """Write the tables, and then the manifest, whose presence says that they are whole."""
    start = np.searchsorted(interactions.user, np.arange(interactions.n_users))
    position = np.arange(len(interactions.user)) - start[interactions.user]
    frames: Sequence[pd.DataFrame] = (
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
                "text": interactions.texts,
                "catalogue_row": interactions.catalogue_row,
            }
        ),
        pd.DataFrame(
            {
                "user": np.arange(interactions.n_users, dtype=np.int32),
                "token": interactions.user_tokens,
            }
        ),
    )
    for name, frame in zip(TABLES, frames, strict=True):
        write_parquet(folder / name, frame)
    tables = {name: sha256_file(folder / name) for name in TABLES}
    write_json(folder / "manifest.json", {**manifest, "tables_sha256": tables})


def _load(folder: Path) -> tuple[Interactions, dict[str, Any]] | None:
    """What `_save` wrote; None if it is not there or not whole."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if any(sha256_file(folder / name) != manifest["tables_sha256"][name] for name in TABLES):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    del manifest["tables_sha256"]
    pairs, items, users = (pq.read_table(folder / name) for name in TABLES)
    texts = items["text"].to_pylist() if manifest["text_source"] is not None else None
    interactions = Interactions(
        user=pairs["user"].to_numpy(),
        item=pairs["item"].to_numpy(),
        user_tokens=users["token"].to_pylist(),
        item_tokens=items["token"].to_pylist(),
        texts=texts,
        catalogue_row=items["catalogue_row"].to_numpy(),
        facts=manifest["facts"],
    )
    return interactions, manifest
