"""Item texts to vectors, once: results are cached under a hash of everything that decides them.

The encoder is any sentence-transformers model (see `encoder` and `encode`), or there is none and a
precomputed table is read (see `vectors`). ``<key>.npy`` holds the vectors, ``<key>.json`` how they
were made, and ``<key>.part/`` what an interrupted encoding has done so far.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from benchmark.data.encode import EncodeOptions, encode
from benchmark.data.encoder import EncoderConfig
from benchmark.data.model import model_files, model_folder
from benchmark.data.source import Vectors
from benchmark.data.vectors import Embeddings, open_npy, table_embeddings
from benchmark.errors import UserError
from benchmark.store import atomic, sha256_file, sha256_json, write_json

__all__ = ["Embeddings", "EncodeOptions", "encoder_identity", "item_embeddings"]

# Part of every cache key; raise it when a change to encode.py changes the vectors.
FORMAT = 1
DEFAULT_OPTIONS = EncodeOptions()


def item_embeddings(
    config: EncoderConfig,
    cache: Path,
    *,
    texts: Sequence[str] | None,
    tokens: Sequence[str],
    catalogue_row: NDArray[np.int64],
    n_catalogue: int,
    vectors: Callable[[], Vectors | None],
    options: EncodeOptions = DEFAULT_OPTIONS,
) -> Embeddings:
    """The vectors of a data set's items.

    Args:
        config: the encoder.
        cache: folder for the vectors; created if need be.
        texts: [n_items]; needed unless the vectors are in a table.
        tokens: [n_items], the items' own names.
        catalogue_row: int64 [n_items], the items' rows in a table of the full data set.
        n_catalogue: rows of such a table.
        vectors: gives the data set's own table; called only if the encoder asks for it.
        options: how fast, not what.

    Raises:
        UserError: no texts, no model, a wrong checksum, an unusable table or map, or too little
            memory.
    """
    if config.reads_table:
        return table_embeddings(config, tokens, catalogue_row, n_catalogue, vectors)
    if texts is None:
        raise UserError("the data set has no item texts: set encoder.source=npy and encoder.path")
    identity = _identity(config)
    key = sha256_json({"format": FORMAT, "encoder": identity, "texts": list(texts)})
    path = cache / f"{key}.npy"
    cached = _read_cached(path, len(texts))
    if cached is None:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{key}.lock"):
            cached = _read_cached(path, len(texts))  # another process may have made it meanwhile
            if cached is None:
                part = path.with_suffix(".part")
                values, facts = encode(texts, config, options, part)
                made = {"encoder": identity, "texts": len(texts), "dimension": values.shape[1]}
                cached = values, _write_cached(path, values, {**made, **facts})
                shutil.rmtree(part, ignore_errors=True)
    return Embeddings(cached[0], key, cached[1])


def encoder_identity(config: EncoderConfig) -> dict[str, Any]:
    """What of an encoder decides a result, as JSON: a local file counts by its content, wherever
    it is, and a checksum that is only a check does not count.

    Raises:
        UserError: a local file or folder is missing.
    """
    facts = {**asdict(config), "path": None, "sha256": None}
    # Added later: their absence must go on meaning what it has meant in stored results.
    del facts["rows"], facts["row_base"]
    if config.source == "offline_package":
        facts["revision"] = None  # there is only one
    if config.source == "path":
        facts["weights"] = _identity(config)["weights"]
    if config.source == "npy":
        facts |= {"name": None, "vectors": _content("encoder.path", config.path)}
        if config.rows is not None:
            facts |= {"rows": _content("encoder.rows", config.rows), "row_base": config.row_base}
    return facts


def _content(option: str, path: str | None) -> str:
    file = Path(path or "").expanduser()
    if not file.is_file():
        raise UserError(f"{option}: {file} does not exist")
    return sha256_file(file)


def _identity(config: EncoderConfig) -> dict[str, Any]:
    """What decides the vectors of a text, as JSON; the texts themselves are apart."""
    config = config.resolved()
    weights: Any = config.sha256
    if config.source == "path" and weights is None:
        folder = model_folder(config)
        weights = {
            file.relative_to(folder).as_posix(): sha256_file(file) for file in model_files(folder)
        }
    return {
        "name": config.name,
        "revision": config.revision,
        "weights": weights,
        "template": config.template,
        "pooling": config.pooling,
        "normalize": config.normalize,
    }


def _write_cached(path: Path, values: NDArray[np.float32], made: dict[str, Any]) -> dict[str, Any]:
    """Write the vectors and, just before they take their place, the record beside them; gives the
    record."""
    with atomic(path) as temporary:
        with temporary.open("wb") as file:
            np.save(file, values, allow_pickle=False)
        made = {**made, "values_sha256": sha256_file(temporary)}
        write_json(path.with_suffix(".json"), made)
    return made


def _read_cached(path: Path, n_items: int) -> tuple[NDArray[np.float32], dict[str, Any]] | None:
    """Cached vectors and their record; None if there are none, or none that are whole."""
    try:
        values = np.array(open_npy(path))
    except UserError:
        return None
    if (
        values.dtype != np.float32
        or values.ndim != 2
        or values.shape[0] != n_items
        or not np.isfinite(values).all()
    ):
        return None
    try:
        made = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return values, {}  # made before there were records
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(made, dict) or made.get("values_sha256") != sha256_file(path):
        return None
    return values, made
