"""Item vectors that are there already: a .npy table, with which of its rows is which item's, or
the finished part of an encoding."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.data.encoder import EncoderConfig
from benchmark.data.source import Vectors
from benchmark.data.textfile import read_json_object
from benchmark.errors import UserError
from benchmark.store import atomic, sha256_file, sha256_json, write_json

ROWS_HINT = "encoder.rows names a JSON file that maps item tokens to rows"


class Embeddings(NamedTuple):
    """Item vectors.

    Attributes:
        values: float32 [n_items, d].
        sha256: hash of what decides them.
        made: JSON facts of how they were made; empty where nothing is known.
    """

    values: NDArray[np.float32]
    sha256: str
    made: Mapping[str, Any]


def table_embeddings(
    config: EncoderConfig,
    tokens: Sequence[str],
    catalogue_row: NDArray[np.int64],
    n_catalogue: int,
    vectors: Callable[[], Vectors | None],
) -> Embeddings:
    """The items' rows of a table; arguments and errors as for `embed.item_embeddings`."""
    brought = None
    if config.source == "dataset":
        brought = vectors()
        if brought is None:
            raise UserError(
                "this data set brings no vectors: set encoder.source=npy and encoder.path, "
                "or an encoder for its texts"
            )
    path = brought.path if brought else Path(config.path or "").expanduser()
    if not path.is_file():
        where = "the data set's vectors" if brought else "encoder.path"
        raise UserError(f"{where}: {path} does not exist")
    sha256 = sha256_file(path)
    if config.sha256 is not None and sha256 != config.sha256:
        raise UserError(f"{path} is not the expected one (sha256 {sha256}, not {config.sha256})")
    table = _open_table(path)
    if brought:
        rows = _mapped(tokens, brought.row, 0, len(table), f"the data set's own map to {path}")
    elif config.rows is not None:
        file = Path(config.rows).expanduser()
        rows = _mapped(tokens, read_rows(file), config.row_base, len(table), str(file))
    elif len(table) == n_catalogue:
        rows = catalogue_row
    else:
        raise UserError(
            f"{path} has shape {list(table.shape)}; the data set needs [{n_catalogue}, d], one row "
            f"an item in the order of the item ids; for another order or number {ROWS_HINT}"
        )
    made = {"table_sha256": sha256, "shape": list(table.shape), "dtype": table.dtype.name}
    stored = np.ascontiguousarray(rows, dtype="<i8").tobytes()
    key = {"npy": sha256, "rows": hashlib.sha256(stored).hexdigest(), "normalize": config.normalize}
    return Embeddings(finish(table[rows], config, rows), sha256_json(key), made)


def open_npy(path: Path) -> NDArray[Any]:
    """The array of a .npy file, left on disk: one of all items in 4096 dimensions is 330 MB.

    Raises:
        UserError: the file is missing, damaged, or holds something else. Nothing is unpickled.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header has half a dozen kinds, from two modules
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is not a plain .npy array: {reason}") from None


def _open_table(path: Path) -> NDArray[Any]:
    """The table, float [n_rows, d]."""
    table = open_npy(path)
    if table.dtype.kind != "f" or table.dtype.itemsize not in (2, 4, 8):
        raise UserError(
            f"{path} must hold floating-point numbers (float16, float32 or float64), "
            f"not {table.dtype}"
        )
    if table.ndim != 2 or table.shape[1] == 0:
        raise UserError(f"{path} has shape {list(table.shape)}; it must be [rows, d]")
    return table


def read_rows(path: Path) -> dict[str, int]:
    """A JSON object of whole numbers, by item token.

    Raises:
        UserError: the file is missing or holds anything else.
    """
    content = read_json_object(path)
    for token, row in content.items():
        if type(row) is not int:
            shown = repr(row)[:40]
            raise UserError(f"{path}: the row of {token[:40]!r} is {shown}, not a whole number")
    return content


def _mapped(
    tokens: Sequence[str], row: Mapping[str, int], base: int, n_rows: int, where: str
) -> NDArray[np.int64]:
    """int64 [n_items] rows of the items in a table of ``n_rows``.

    Args:
        row: by item token.
        base: the number of the first row in ``row``.
        where: names the map in errors.
    """
    missing = [token for token in tokens if token not in row]
    if missing:
        raise UserError(
            f"{where} lacks {len(missing)} of the data set's {len(tokens)} items, "
            f"such as {missing[0][:40]!r}; {ROWS_HINT}"
        )
    outside = [token for token in tokens if not base <= row[token] < base + n_rows]
    if outside:
        raise UserError(
            f"{where} gives {len(outside)} items a row that the table does not have, such as "
            f"{row[outside[0]]} to {outside[0][:40]!r}: its rows are {base} to {base + n_rows - 1} "
            "(encoder.row_base is the number of the first)"
        )
    return np.array([row[token] - base for token in tokens], dtype=np.int64)


def finish(
    values: NDArray[Any], config: EncoderConfig, rows: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """To float32, unit length if asked for.

    Args:
        values: [n_items, d].
        config: says whether to normalize; its name is used in errors.
        rows: int64 [n_items], the numbers that errors give the items' rows; None: 0, 1, ...

    Raises:
        UserError: a vector is not finite, or is zero and has to be normalized.
    """

    def first(bad: Any) -> int:
        index = int(np.flatnonzero(bad)[0])
        return index if rows is None else int(rows[index])

    with np.errstate(over="ignore"):
        result = values.astype(np.float32)
    bad = ~np.isfinite(result).all(axis=1)
    if bad.any():
        raise UserError(
            f"the embeddings of {config.name} are not finite (first in row {first(bad)})"
        )
    if config.normalize:
        norm = np.linalg.norm(result, axis=1, keepdims=True)
        if (norm == 0).any():
            raise UserError(
                f"the embedding in row {first(norm[:, 0] == 0)} is zero and cannot be normalized"
            )
        result = result / norm
    return np.ascontiguousarray(result, dtype=np.float32)


class Parts:
    """The finished chunks of an encoding, kept in a folder so that it can be interrupted.

    Attributes:
        values: float32 [n, d] of each finished chunk, by index.
    """

    def __init__(
        self, folder: Path | None, plan: Mapping[str, Any], lengths: Sequence[int]
    ) -> None:
        """Take up what an earlier process has left; what is damaged or of another plan is deleted.

        Args:
            folder: of ``plan.json`` and ``<chunk>-<batch>-<sha256>.npy``; None keeps nothing.
            plan: JSON of what must be the same for all chunks.
            lengths: texts in each chunk.
        """
        self.values: dict[int, NDArray[np.float32]] = {}
        self._batches: list[int] = []
        self._folder = folder
        if folder is None:
            return
        try:
            known = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            known = None
        if known != plan:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / "plan.json", plan)
        for file in folder.glob("*.npy"):
            self._take_up(file, lengths)

    def _take_up(self, file: Path, lengths: Sequence[int]) -> None:
        data = file.read_bytes()
        match = re.fullmatch(r"(\d+)-(\d+)-([0-9a-f]{64})\.npy", file.name)
        if match is None or hashlib.sha256(data).hexdigest() != match[3]:
            file.unlink()
            return
        values = np.load(io.BytesIO(data), allow_pickle=False)
        if int(match[1]) < len(lengths) and len(values) == lengths[int(match[1])]:
            self.values[int(match[1])] = values
            self._batches.append(int(match[2]))

    def add(self, chunk: int, values: NDArray[np.float32], batch: int) -> None:
        """Keep a finished chunk.

        Args:
            chunk: its index.
            values: float32 [n, d].
            batch: texts that were encoded at a time.
        """
        self.values[chunk] = values
        self._batches.append(batch)
        if self._folder is not None:
            buffer = io.BytesIO()
            np.save(buffer, values, allow_pickle=False)
            data = buffer.getvalue()
            name = f"{chunk}-{batch}-{hashlib.sha256(data).hexdigest()}.npy"
            with atomic(self._folder / name) as temporary:
                temporary.write_bytes(data)

    @property
    def n_texts(self) -> int:
        """Texts whose vectors are there."""
        return sum(len(values) for values in self.values.values())

    @property
    def smallest_batch(self) -> int:
        return min(self._batches)
