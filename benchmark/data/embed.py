"""Item texts to vectors, once: results are cached under a hash of everything that decides them.

The encoder is any sentence-transformers model (see `encoder`), or there is none and a precomputed
table is read. sentence_transformers and torch are imported only when something has to be encoded.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from benchmark.data.encoder import (
    EncoderConfig,
    Pooling,
    check_weights,
    model_files,
    model_folder,
)
from benchmark.errors import UserError
from benchmark.store import sha256_file, sha256_json, write_npy

# Part of every cache key; raise it when a change here changes the vectors.
FORMAT = 1
# Fixed, because the padding of a batch reaches the last bits of its vectors.
CHUNK, BATCH = 256, 32


class Embeddings(NamedTuple):
    """float32 [n_items, d] vectors, and the hash of what decides them."""

    values: NDArray[np.float32]
    sha256: str


def item_embeddings(
    texts: Sequence[str] | None,
    catalogue_row: NDArray[np.int64],
    n_catalogue: int,
    config: EncoderConfig,
    cache: Path,
) -> Embeddings:
    """The vectors of a data set's items.

    Args:
        texts: [n_items]; needed unless the source is ``npy``.
        catalogue_row: int64 [n_items], the items' rows in a table of the full data set.
        n_catalogue: rows of such a table; a precomputed one must have that many.
        config: the encoder.
        cache: folder for the vectors; created if need be.

    Raises:
        UserError: no texts, no model, a wrong checksum, or an unusable table.
    """
    if config.source == "npy":
        return _precomputed(config, catalogue_row, n_catalogue)
    if texts is None:
        raise UserError("the data set has no item texts: set encoder.source=npy and encoder.path")
    key = sha256_json({"format": FORMAT, "encoder": _identity(config), "texts": list(texts)})
    path = cache / f"{key}.npy"
    cached = _read_cached(path, len(texts))
    if cached is None:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{key}.lock"):
            cached = _read_cached(path, len(texts))  # another process may have made it meanwhile
            if cached is None:
                cached = encode(texts, config)
                write_npy(path, cached)
    return Embeddings(cached, key)


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


def _read_cached(path: Path, n_items: int) -> NDArray[np.float32] | None:
    """Cached vectors; None if there are none, or none that are whole."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if values.ndim != 2 or values.shape[0] != n_items or values.dtype != np.float32:
        return None
    return values if np.isfinite(values).all() else None


def encode(texts: Sequence[str], config: EncoderConfig) -> NDArray[np.float32]:
    """float32 [n_items, d] vectors of the texts, the same bits however many cores there are."""
    folder = model_folder(config)
    check_weights(folder, config)
    if not sys.stderr.isatty():  # a terminal gets the bar instead
        print(f"embedding {len(texts)} item texts with {config.name} ...", file=sys.stderr)
    with _offline():
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums split over threads would differ in the last bits
        try:
            model = SentenceTransformer(
                str(folder),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
            _set_pooling(model, config.pooling)
            chunks = []
            with tqdm(total=len(texts), desc="embedding items", unit="item", disable=None) as bar:
                for start in range(0, len(texts), CHUNK):
                    chunk = list(texts[start : start + CHUNK])
                    chunks.append(model.encode(chunk, batch_size=BATCH, show_progress_bar=False))
                    bar.update(len(chunk))
        except (OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"the encoder in {folder} cannot be used: {reason}") from None
        finally:
            torch.set_num_threads(threads)
    return _finish(np.concatenate(chunks), config)


def _set_pooling(model: Any, pooling: Pooling | None) -> None:
    """Replace the model's pooling layer; what follows it (a normalisation, say) stays."""
    if pooling is None:
        return
    for index, module in enumerate(model):
        if type(module).__name__ == "Pooling":
            # The second name is that of older releases.
            width = getattr(module, "embedding_dimension", None) or module.word_embedding_dimension
            model[index] = type(module)(width, pooling_mode=pooling)
            return
    raise ValueError("encoder.pooling is set, but the model has no pooling layer")


def _finish(values: NDArray[Any], config: EncoderConfig) -> NDArray[np.float32]:
    """To float32, unit length if asked for; anything that is not finite is refused."""
    with np.errstate(over="ignore"):
        result = values.astype(np.float32)
    if not np.isfinite(result).all():
        row = int(np.flatnonzero(~np.isfinite(result).all(axis=1))[0])
        raise UserError(f"the embeddings of {config.name} are not finite (first in row {row})")
    if config.normalize:
        norm = np.linalg.norm(result, axis=1, keepdims=True)
        if (norm == 0).any():
            row = int(np.flatnonzero(norm == 0)[0])
            raise UserError(f"the embedding in row {row} is zero and cannot be normalized")
        result = result / norm
    return np.ascontiguousarray(result, dtype=np.float32)


def _precomputed(
    config: EncoderConfig, catalogue_row: NDArray[np.int64], n_catalogue: int
) -> Embeddings:
    path = Path(config.path or "").expanduser()
    if not path.is_file():
        raise UserError(f"encoder.path: {path} does not exist")
    found = sha256_file(path)
    if config.sha256 is not None and found != config.sha256:
        raise UserError(f"{path} is not the expected one (sha256 {found}, not {config.sha256})")
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path} is not a plain .npy array: {reason}") from None
    if not isinstance(table, np.ndarray) or not np.issubdtype(table.dtype, np.floating):
        raise UserError(f"{path} must hold one array of floating-point numbers")
    if table.ndim != 2 or table.shape[0] != n_catalogue or table.shape[1] == 0:
        raise UserError(
            f"{path} has shape {list(table.shape)}; the data set needs [{n_catalogue}, d], "
            "one row an item in the order of the item ids"
        )
    rows = np.ascontiguousarray(catalogue_row, dtype="<i8").tobytes()
    key = {"npy": found, "rows": hashlib.sha256(rows).hexdigest(), "normalize": config.normalize}
    return Embeddings(_finish(table[catalogue_row], config), sha256_json(key))


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the model's loader from asking the hub about files that are there already."""
    # The library reads the variable once, when it is imported; so it is imported first and its
    # own copy changed with the variable, or a hub model could not be fetched later on.
    from huggingface_hub import constants

    variable, constant = os.environ.get("HF_HUB_OFFLINE"), constants.HF_HUB_OFFLINE
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = constant
        if variable is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = variable
