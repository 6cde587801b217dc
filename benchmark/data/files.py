"""The user's own files: interactions and, if there are any, item texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.data.atomic import atomic_header, read_atomic
from benchmark.data.download import Downloads
from benchmark.data.interactions import Rows
from benchmark.data.source import ItemText, check_keys
from benchmark.data.tables import ParquetTable, Table, TextTable
from benchmark.data.textfile import reading
from benchmark.errors import UserError
from benchmark.store import sha256_file

DEFAULT_COLUMNS = {
    "user": "user_id",
    "item": "item_id",
    "timestamp": "timestamp",
    "title": "title",
    "description": "description",
}
OPTIONAL_COLUMNS = ("timestamp", "title", "description")
NO_COLUMN = "none"  # what the user writes to have an optional column ignored
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = {
    "interactions": (".inter", ".csv", ".tsv", ".parquet"),
    "items": (".item", ".csv", ".tsv", ".parquet"),
}


def default_name(interactions: str) -> str:
    """A data set's name from its file's: lower case, with - for what a name may not hold."""
    name = re.sub(r"[^a-z0-9._-]+", "-", Path(interactions).stem.lower())
    return name.strip("._-") or "custom"


class OwnFiles:
    """Interactions and item texts in files of the user's own.

    Options: ``interactions`` and ``items`` (paths; without ``items``: no texts), ``columns`` (the
    column that plays each part of `DEFAULT_COLUMNS`; null: the one of that name) and
    ``delimiter`` (of .csv and .tsv; null: a comma and a tab). An optional column counts where it is
    there; ``none`` has it ignored.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        check_keys("source", options, ("kind", "interactions"), ("items", "columns", "delimiter"))
        self._interactions = _path("interactions", options["interactions"])
        items = options.get("items")
        self._items = None if items is None else _path("items", items)
        columns = dict(options.get("columns") or {})
        check_keys("dataset.columns", columns, (), tuple(DEFAULT_COLUMNS))
        self._given = {role: str(name) for role, name in columns.items() if name is not None}
        for role in ("title", "description"):
            if self._items is None and self._given.get(role, NO_COLUMN) != NO_COLUMN:
                raise ValueError(f"dataset.columns.{role} needs a file of items: set dataset.items")
        self._delimiter = _delimiter(options.get("delimiter"))
        self._checksums: dict[Path, str] = {}

    @property
    def revision(self) -> str:
        return f"local file {self._interactions.name}"

    @property
    def text_source(self) -> str | None:
        columns = self._text_columns()
        if self._items is None or not columns:
            return None
        return f"{self._items.name}: {', '.join(columns.values())}"

    @property
    def identity(self) -> dict[str, Any]:
        files = {
            "interactions": [self._interactions.suffix.lower(), *self.row_inputs().values()],
            "items": None,
        }
        if self._items is not None and self._text_columns():
            files["items"] = [self._items.suffix.lower(), *self.text_inputs().values()]
        return {
            "kind": "files",
            "files": files,
            "columns": {**DEFAULT_COLUMNS, **self._given},
            "delimiter": self._delimiter,
        }

    def row_inputs(self) -> dict[str, str]:
        return {self._interactions.name: self._checksum(self._interactions)}

    def text_inputs(self) -> dict[str, str]:
        if self._items is None or not self._text_columns():
            return {}
        same = self._items.name == self._interactions.name
        return {
            f"items/{self._items.name}" if same else self._items.name: self._checksum(self._items)
        }

    def read_rows(self, downloads: Downloads) -> Rows:
        path = self._interactions
        columns = self._columns(path, ("user", "item", "timestamp"))
        table = self._read(path, columns)
        times = table.times(columns["timestamp"]) if "timestamp" in columns else None
        return Rows(table.tokens(columns["user"]), table.tokens(columns["item"]), times)

    def read_texts(self, downloads: Downloads) -> dict[str, ItemText] | None:
        path, columns = self._items, self._text_columns()
        if path is None or not columns:
            return None
        columns = {**self._columns(path, ("item",)), **columns}
        table = self._read(path, columns)
        tokens = table.tokens(columns["item"])
        titles, descriptions = (
            table.texts(columns[role]) if role in columns else [""] * len(tokens)
            for role in ("title", "description")
        )
        texts: dict[str, ItemText] = {}
        for row, token in enumerate(tokens):
            text = ItemText(titles[row].strip(), descriptions[row].strip())
            if texts.setdefault(token, text) != text:
                raise UserError(
                    f"{path}, {table.place(row)}: item {token[:40]!r} appears twice, "
                    "with another text"
                )
        return texts

    def read_vectors(self, downloads: Downloads) -> None:
        return None

    def _checksum(self, path: Path) -> str:
        if path not in self._checksums:
            with reading(path):
                self._checksums[path] = f"sha256:{sha256_file(path)}"
        return self._checksums[path]

    def _text_columns(self) -> dict[str, str]:
        """Column of title and description, those that there are."""
        return {} if self._items is None else self._columns(self._items, ("title", "description"))

    def _columns(self, path: Path, roles: Sequence[str]) -> dict[str, str]:
        """The file's column for each of the parts; an optional one may be absent."""
        header = self._header(path)
        found = {}
        for role in roles:
            given, optional = self._given.get(role), role in OPTIONAL_COLUMNS
            name = given or DEFAULT_COLUMNS[role]
            if optional and (given == NO_COLUMN or (given is None and name not in header)):
                continue
            if header.count(name) != 1:
                fault = "twice the" if name in header else "no"
                raise UserError(
                    f"{path} has {fault} column {_shown(name)}; its columns are "
                    f"{_listed(header)}: set dataset.columns.{role} to the one to take"
                )
            found[role] = name
        return found

    def _header(self, path: Path) -> list[str]:
        suffix = path.suffix.lower()
        if suffix == ".parquet":
            return ParquetTable.header(path)
        if suffix in DELIMITERS:
            return TextTable.header(path, self._delimiter or DELIMITERS[suffix])
        return list(atomic_header(path))

    def _read(self, path: Path, columns: Mapping[str, str]) -> Table:
        names, suffix = tuple(columns.values()), path.suffix.lower()
        if suffix == ".parquet":
            return ParquetTable.read(path, names)
        if suffix in DELIMITERS:
            return TextTable.read(path, names, self._delimiter or DELIMITERS[suffix])
        return read_atomic(path, names)


def _path(option: str, value: object) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError(f"dataset.{option} must be the path of a file, not {value!r}")
    path = Path(value).expanduser()
    if path.suffix.lower() not in SUFFIXES[option]:
        raise ValueError(
            f"dataset.{option} must be a file whose name ends in one of "
            f"{', '.join(SUFFIXES[option])}, not {value!r}"
        )
    return path


def _delimiter(value: object) -> str | None:
    if value is None:
        return None
    text = "\t" if value == "\\t" else value
    if not isinstance(text, str) or len(text) != 1 or text in '"\r\n\0':
        raise ValueError(f"dataset.delimiter must be one character (or \\t), not {value!r}")
    return text


def _shown(name: str) -> str:
    return name if name and name.isprintable() and len(name) <= 40 else repr(name[:40])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(map(_shown, names[:20])) + more
