"""From a data set's config to what the methods get: read, check, split, embed, and remember.

The canonical form is kept under ``<cache>/<store name>/<hash>/`` (interactions.parquet,
items.parquet, users.parquet, manifest.json), where the hash covers the input files and every
option that decides the form; the texts, which may be missing or change apart from it, are in
``texts-<hash>/`` inside, and embeddings under ``<cache>/embeddings/``. Several processes may
prepare at once; a damaged cache is built again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow.parquet as pq
from filelock import FileLock

from benchmark.data.config import DatasetConfig
from benchmark.data.download import Downloads
from benchmark.data.embed import Embeddings, EncodeOptions, item_embeddings
from benchmark.data.encoder import EncoderConfig, render
from benchmark.data.interactions import Interactions, canonical
from benchmark.data.kept import TABLES, load, lock_of, read_rows, row_tables, save
from benchmark.data.source import Source
from benchmark.data.sources import open_source
from benchmark.data.split import Phase, Split
from benchmark.errors import UserError
from benchmark.recommender import BenchmarkData
from benchmark.store import sha256_json

__all__ = ["DatasetConfig", "Need", "Prepared", "invariant_rows", "prepare"]

# Part of the cache's hash; raise it when a change here or in interactions.py changes the form.
FORMAT = 2
TEXTS = ("texts.parquet",)
PHASES: tuple[Phase, ...] = ("valid", "test")

#: How far to go: interactions and splits, item texts too, or their vectors as well.
Need = Literal["rows", "texts", "vectors"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A data set ready for use.

    Attributes:
        data: what methods get.
        interactions: the canonical form, with the source's tokens, and texts if asked for.
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
    need: Need = "vectors",
    options: EncodeOptions | None = None,
    check: bool = True,
) -> Prepared:
    """Build a data set, or take it from the cache.

    Args:
        dataset: which.
        protocol_max_history: histories keep this many items.
        protocol_train_prefixes: train on each user's last prefixes only; None: on all.
        cache: folder for everything that is kept; created if need be.
        need: how far to go; below ``vectors``, ``data.embeddings`` is None.
        options: how fast items are embedded.
        check: whether an invariant that does not hold is an error; without, see `invariant_rows`.

    Raises:
        Unavailable: a remote file cannot be had; the message says where to put a copy.
        UserError: bad input files, an invariant that does not hold, or no way to embed.
    """
    source = open_source(dataset.source)
    downloads = Downloads.from_environment(cache)
    folder, interactions, manifest = _rows(dataset, source, downloads, cache)
    for key, expected, found in invariant_rows(dataset, manifest["facts"]):
        if check and found != expected:
            raise UserError(
                f"{dataset.name} should have {key}={expected} but has {found}: "
                "its files are not those that this config was written for"
            )
    split = interactions.split(protocol_max_history, protocol_train_prefixes)
    manifest |= _split_facts(split)
    manifest["counts"]["dropped_users"] = manifest["facts"]["dropped_users"]
    manifest |= {"encoder": None, "embeddings_sha256": None}
    data = BenchmarkData(dataset.store_name, split)
    if need == "rows":
        return Prepared(data, interactions, manifest, folder)
    encoder = _encoder(dataset, source)
    if not encoder.reads_table:
        texts = _texts(source, encoder, downloads, interactions, folder)
        interactions = replace(interactions, texts=texts)
        manifest["items_without_text"] = texts.count("")
    if need == "vectors":
        made = item_embeddings(
            encoder,
            cache / "embeddings",
            texts=interactions.texts,
            tokens=interactions.item_tokens,
            catalogue_row=interactions.catalogue_row,
            n_catalogue=manifest["facts"]["full"]["items"],
            vectors=lambda: source.read_vectors(downloads),
            options=options or EncodeOptions(),
        )
        data = BenchmarkData(dataset.store_name, split, made.values, made.sha256)
        manifest |= _vector_facts(encoder, made)
    return Prepared(data, interactions, manifest, folder)


def _text_source(dataset: DatasetConfig, source: Source) -> str | None:
    """What semantic IDs are made from, in words: the texts, or the user's own table instead."""
    encoder = dataset.encoder
    if encoder is not None and encoder.source == "npy":
        return f"none, but the vectors of {Path(encoder.path or '').name}"
    return source.text_source


def _encoder(dataset: DatasetConfig, source: Source) -> EncoderConfig:
    """The encoder, if it has something to work on.

    Raises:
        UserError: the data set has neither texts nor vectors; the message says what to give.
    """
    if dataset.encoder is None:
        raise UserError(f"{dataset.name} has no encoder: set dataset.encoder to embed its items")
    if not dataset.encoder.reads_table and source.text_source is None:
        raise UserError(
            f"{dataset.name} has no item texts, and semantic IDs are made from them: give a file "
            "with a title or description per item (dataset.items=, dataset.columns.title=), or "
            "item vectors (dataset.encoder.source=npy dataset.encoder.path=); methods without "
            "semantic IDs (pop, lightgcn, sasrec_ce, sasrec_bce) run as it is"
        )
    return dataset.encoder


def _vector_facts(encoder: EncoderConfig, made: Embeddings) -> dict[str, Any]:
    facts = {**asdict(encoder.resolved()), "dimension": made.values.shape[1]}
    return {
        "encoder": facts,
        "embeddings_sha256": made.sha256,
        "embeddings_made": dict(made.made),
    }


def _split_facts(split: Split) -> dict[str, Any]:
    """The manifest's part that depends on the protocol.

    ``mean_sequence`` is the mean number of a user's interactions, ``mean_history`` the mean number
    of items in the history of a test row, after the cut to max_history; ``density`` is
    interactions / (users x items); ``repeated_targets`` counts rows whose target the user has had
    before, which a method that leaves out seen items can never hit.
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
        "repeated_targets": {
            phase: int(split.is_repeat[split.positions(phase)].sum()) for phase in PHASES
        },
        "max_history": split.max_history,
        "train_prefixes": split.train_prefixes,
        "split_sha256": split.sha256,
    }


def invariant_rows(
    dataset: DatasetConfig, facts: Mapping[str, Any]
) -> list[tuple[str, int, int | None]]:
    """(name, expected, found) of each invariant that the data set's yaml states.

    They are those of the full data set under the full protocol, before any sampling; ``facts``
    are the manifest's.
    """
    full = facts["full"]
    users = full["users"]
    # Every user who stays has at least three interactions: all but the first and the two held
    # out are targets of training rows.
    found = {
        **full,
        "train_rows": full["interactions"] - 3 * users,
        "valid_rows": users,
        "test_rows": users,
        "users_with_repeated_items": facts["repeats"]["users"],
    }
    return [(key, expected, found[key]) for key, expected in dataset.invariants.items()]


def _rows(
    dataset: DatasetConfig, source: Source, downloads: Downloads, cache: Path
) -> tuple[Path, Interactions, dict[str, Any]]:
    """The canonical interactions, their folder, and the manifest of what they were built from."""
    key = {
        "format": FORMAT,
        "kind": dataset.source["kind"],
        "inputs": source.row_inputs(),
        "options": source.identity,
        "filters": asdict(dataset.filters),
        "users": dataset.users,
    }
    folder = cache / dataset.store_name / sha256_json(key)[:12]
    manifest = load(folder, TABLES)
    if manifest is None:
        with FileLock(lock_of(folder)):
            manifest = load(folder, TABLES)  # another process may have built it meanwhile
            if manifest is None:
                rows = source.read_rows(downloads)
                try:
                    interactions = canonical(rows, dataset.users, dataset.filters)
                except UserError as error:
                    raise UserError(f"{dataset.name}: {error}") from None
                manifest = {"inputs": key["inputs"], "facts": dict(interactions.facts)}
                save(folder, row_tables(interactions), manifest)
    # What only labels the data stays out of the files, so that a new label needs no new build.
    manifest |= {
        "name": dataset.name,
        "label": dataset.label,
        "paper": dataset.paper,
        "source": dict(source.identity),
        "revision": source.revision,
        "text_source": _text_source(dataset, source),
        "text_inputs": source.text_inputs(),
        "filters": asdict(dataset.filters),
        "sampled_users": dataset.users,
    }
    return folder, read_rows(folder, manifest["facts"]), manifest


def _texts(
    source: Source,
    encoder: EncoderConfig,
    downloads: Downloads,
    interactions: Interactions,
    folder: Path,
) -> list[str]:
    """[n_items] texts, "" where the source has none for an item."""
    inputs = source.text_inputs()
    key = {"format": FORMAT, "inputs": inputs, "options": source.identity}
    place = folder / f"texts-{sha256_json({**key, 'template': encoder.template})[:12]}"
    if load(place, TEXTS) is None:
        with FileLock(lock_of(place)):
            if load(place, TEXTS) is None:
                found = source.read_texts(downloads) or {}
                texts = [
                    render(encoder.template, *found[token]) if token in found else ""
                    for token in interactions.item_tokens
                ]
                if not any(texts):
                    raise UserError(
                        f"none of the {len(texts)} items has a text in {', '.join(inputs)}: "
                        "are its item names those of the interactions?"
                    )
                save(place, [pd.DataFrame({"text": texts})], {"inputs": inputs}, TEXTS)
    column: list[str] = pq.read_table(place / TEXTS[0])["text"].to_pylist()
    return column
