"""Where interactions and item texts come from.

A source is opened from its options in the data set's yaml (``source: {kind: ..., ...}``). To add
a kind, write a class with the members of `Source` and register it in `SOURCES`; nothing else in
the suite knows about kinds.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmark.data.interactions import Rows
from benchmark.errors import UserError
from benchmark.store import sha256_file

ATOMIC_TYPES = ("token", "token_seq", "float", "float_seq")


class ItemText(NamedTuple):
    """What a source says of an item; "" where it says nothing."""

    title: str
    description: str


class SourceData(NamedTuple):
    """What a source gives: the interactions, and the texts by item token (None: it has none)."""

    rows: Rows
    texts: Mapping[str, ItemText] | None


class Source(Protocol):
    """A place that interactions come from."""

    @property
    def revision(self) -> str:
        """Names the version of the data, for the manifest."""

    @property
    def text_source(self) -> str | None:
        """Says in words what the item texts are made of; None if there are none."""

    def inputs(self) -> dict[str, str]:
        """sha256 of each input file, by file name. Cheap: it is asked for on every run.

        Raises:
            UserError: an input is missing.
        """

    def read(self) -> SourceData:
        """Read everything.

        Raises:
            UserError: an input is missing or malformed; the message names file and line.
        """


@dataclass(frozen=True)
class AtomicTable:
    """A RecBole atomic file: tab-separated text whose header says ``name:type``.

    Format: https://recbole.io/docs/user_guide/data/atomic_files.html

    Attributes:
        path: where it was read.
        types: type by field name, in file order.
        columns: the field's raw strings, by field name; row i stands on line i + 2.
    """

    path: Path
    types: Mapping[str, str]
    columns: Mapping[str, list[str]]

    def tokens(self, name: str) -> list[str]:
        """The strings of a field that must not be empty anywhere."""
        column = self.columns[name]
        for row, value in enumerate(column):
            if not value:
                raise UserError(f"{self.path}, line {row + 2}: {name} is empty")
        return column

    def numbers(self, name: str) -> NDArray[Any]:
        """The values of a numeric field: int64 if all are whole numbers, float64 otherwise."""
        column = self.columns[name]
        try:
            # int64 keeps nanosecond timestamps apart, which float64 would merge.
            return np.array([int(value) for value in column], dtype=np.int64)
        except (ValueError, OverflowError):
            pass
        values = np.empty(len(column))
        for row, value in enumerate(column):
            try:
                values[row] = float(value)
            except ValueError:
                values[row] = math.nan
            if not math.isfinite(values[row]):
                raise UserError(
                    f"{self.path}, line {row + 2}: {name} is {value[:40]!r}, not a finite number"
                )
        return values


def read_atomic(path: Path, required: tuple[str, ...]) -> AtomicTable:
    """Read an atomic file; a byte-order mark and CRLF line ends are accepted.

    Raises:
        UserError: the file is missing, empty, not UTF-8, has another header, lacks a required
            field, or has a row with another number of fields than the header.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text") from None
    # Not splitlines(): it also splits at characters that may stand inside a title.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"{path} is empty")
    types = _atomic_header(path, lines[0], required)
    if len(lines) == 1:
        raise UserError(f"{path} has a header but no rows")
    cells = [line.split("\t") for line in lines[1:]]
    for number, row in enumerate(cells, start=2):
        if len(row) != len(types):
            raise UserError(
                f"{path}, line {number}: {len(row)} tab-separated fields, "
                f"the header has {len(types)}"
            )
    columns = {
        name: list(column) for name, column in zip(types, zip(*cells, strict=True), strict=True)
    }
    return AtomicTable(path, types, columns)


def _atomic_header(path: Path, line: str, required: tuple[str, ...]) -> dict[str, str]:
    types: dict[str, str] = {}
    for cell in line.split("\t"):
        name, colon, kind = cell.rpartition(":")
        if not colon or not name or kind not in ATOMIC_TYPES:
            raise UserError(
                f"{path}, line 1: {cell[:40]!r} is not a header field; expected tab-separated "
                f"name:type with a type of {', '.join(ATOMIC_TYPES)}"
            )
        if name in types:
            raise UserError(f"{path}, line 1: the field {name!r} appears twice")
        types[name] = kind
    for name in required:
        if name not in types:
            raise UserError(
                f"{path}, line 1: the field {name!r} is missing; it has {', '.join(types)}"
            )
    return types


def read_atomic_rows(path: Path) -> Rows:
    """Interactions of an ``.inter`` file: user_id, item_id and, if there, timestamp."""
    table = read_atomic(path, ("user_id", "item_id"))
    timestamps = table.numbers("timestamp") if "timestamp" in table.types else None
    return Rows(table.tokens("user_id"), table.tokens("item_id"), timestamps)


def read_atomic_texts(path: Path, fields: Mapping[str, str]) -> dict[str, ItemText]:
    """Texts of an ``.item`` file, by item token.

    Args:
        path: the file; its key is item_id.
        fields: which of its fields play the parts ``title``, ``year`` (written in parentheses
            after the title, if it is a year), ``tags`` (separated by blanks, which become
            commas) and ``description``.
    """
    table = read_atomic(path, ("item_id", *fields.values()))
    empty = [""] * len(table.columns["item_id"])
    title, year, tags, description = (
        table.columns[fields[part]] if part in fields else empty
        for part in ("title", "year", "tags", "description")
    )
    texts: dict[str, ItemText] = {}
    for row, token in enumerate(table.tokens("item_id")):
        if token in texts:
            raise UserError(f"{path}, line {row + 2}: item {token!r} appears twice")
        # A few rows of ml-100k have a word in the year's place; that says nothing of the item.
        known_year = year[row] if len(year[row]) == 4 and year[row].isdigit() else ""
        head = [title[row].strip(), f"({known_year})" if known_year else ""]
        body = [", ".join(tags[row].split()), description[row].strip()]
        texts[token] = ItemText(" ".join(filter(None, head)), ". ".join(filter(None, body)))
    return texts


class RecboleWheel:
    """A data set inside the installed recbole package, which is not imported.

    Options: ``folder`` (under recbole/dataset_example), ``text`` (see `read_atomic_texts`; none
    if absent).
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        check_keys("source", options, required=("kind", "folder"), optional=("text",))
        self._name = str(options["folder"])
        if Path(self._name).name != self._name:
            raise ValueError(f"source.folder must be a plain name, not {self._name!r}")
        self._fields: dict[str, str] = dict(options.get("text") or {})
        check_keys("source.text", self._fields, (), ("title", "year", "tags", "description"))

    @property
    def revision(self) -> str:
        return f"recbole {importlib.metadata.version('recbole')}"

    @property
    def text_source(self) -> str | None:
        return ", ".join(self._fields.values()) or None

    def _paths(self) -> list[Path]:
        spec = importlib.util.find_spec("recbole")
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"{self._name} comes with the package recbole, which is not installed: "
                "run ./run_all.sh, or pip install --no-deps recbole==1.2.1"
            )
        folder = Path(spec.submodule_search_locations[0]) / "dataset_example" / self._name
        suffixes = ("inter", "item") if self._fields else ("inter",)
        paths = [folder / f"{self._name}.{suffix}" for suffix in suffixes]
        for path in paths:
            if not path.is_file():
                raise UserError(
                    f"{path} is missing from the installed recbole: reinstall it with "
                    "pip install --no-deps --force-reinstall recbole==1.2.1"
                )
        return paths

    def inputs(self) -> dict[str, str]:
        return {path.name: sha256_file(path) for path in self._paths()}

    def read(self) -> SourceData:
        inter, *item = self._paths()
        texts = read_atomic_texts(item[0], self._fields) if item else None
        return SourceData(read_atomic_rows(inter), texts)


SOURCES: dict[str, Callable[[Mapping[str, Any]], Source]] = {"recbole_wheel": RecboleWheel}


def open_source(options: Mapping[str, Any]) -> Source:
    """The source that the options describe; impossible options raise ``ValueError``."""
    kind = options.get("kind")
    if kind not in SOURCES:
        raise ValueError(f"source.kind must be one of {', '.join(sorted(SOURCES))}, not {kind!r}")
    return SOURCES[kind](options)


def check_keys(
    where: str,
    options: Mapping[str, Any],
    required: tuple[str, ...],
    optional: tuple[str, ...] = (),
) -> None:
    """Raise ``ValueError`` for a missing or unknown key."""
    for key in required:
        if key not in options:
            raise ValueError(f"{where} needs the key {key!r}")
    for key in options:
        if key not in required + optional:
            raise ValueError(
                f"{where} has no key {key!r}; it knows {', '.join(required + optional)}"
            )
