"""RecBole atomic files: tab-separated text whose header says ``name:type``."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data.interactions import Rows
from benchmark.data.source import ItemText
from benchmark.data.textfile import text_lines
from benchmark.errors import UserError

ATOMIC_TYPES = ("token", "token_seq", "float", "float_seq")


def finite_numbers(
    column: Collection[str], complain: Callable[[int, str], UserError]
) -> NDArray[Any]:
    """Numbers of a column of strings: int64 if all are whole numbers, float64 otherwise.

    Args:
        column: [n] strings.
        complain: makes the error for a row and its value, where that is no finite number.
    """
    try:
        # int64 keeps nanosecond timestamps apart, which float64 would merge.
        whole = np.array([int(value) for value in column], dtype=np.int64)
    except (ValueError, OverflowError):
        whole = None
    # Python reads 1_0 as 10; in a file it is more likely a date or a name.
    if whole is not None and not any("_" in value for value in column):
        return whole
    values = np.empty(len(column))
    for row, value in enumerate(column):
        try:
            values[row] = math.nan if "_" in value else float(value)
        except ValueError:
            values[row] = math.nan
        if not math.isfinite(values[row]):
            raise complain(row, value)
    return values


@dataclass(frozen=True)
class AtomicTable:
    """Fields of a RecBole atomic file.

    Format: https://recbole.io/docs/user_guide/data/atomic_files.html

    Attributes:
        path: where it was read.
        types: type of every field of the file by name, in file order.
        columns: raw strings of the fields that were asked for, by name; row i stands on line
            i + 2.
    """

    path: Path
    types: Mapping[str, str]
    columns: Mapping[str, list[str]]

    def place(self, row: int) -> str:
        return f"line {row + 2}"

    def tokens(self, name: str) -> list[str]:
        """The strings of a field that must not be empty anywhere."""
        column = self.columns[name]
        for row, value in enumerate(column):
            if not value:
                raise UserError(f"{self.path}, {self.place(row)}: {name} is empty")
        return column

    def times(self, name: str) -> NDArray[Any]:
        """The values of a numeric field: int64 if all are whole numbers, float64 otherwise."""

        def complain(row: int, value: str) -> UserError:
            return UserError(
                f"{self.path}, {self.place(row)}: {name} is {value[:40]!r}, not a finite number"
            )

        return finite_numbers(self.columns[name], complain)

    def texts(self, name: str) -> list[str]:
        return self.columns[name]


def read_atomic(
    path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> AtomicTable:
    """Read fields of an atomic file; a byte-order mark and CRLF line ends are accepted.

    Args:
        path: the file.
        required: the fields to read.
        optional: more of them, left out where the file has no such field.

    Raises:
        UserError: the file is missing, empty, not UTF-8, has another header, lacks a required
            field, or has a row with another number of fields than the header.
    """
    types = atomic_header(path, required)
    names = [name for name in types if name in required + optional]
    places = [list(types).index(name) for name in names]
    columns: dict[str, list[str]] = {name: [] for name in names}
    wanted = list(zip(places, columns.values(), strict=True))
    blank: int | None = None  # a blank line is fine where nothing follows
    number = 1
    for number, line in enumerate(_bare_lines(path), start=1):
        if number == 1:
            continue
        if blank is None and not line:
            blank = number
        elif line:
            cells = line.split("\t")
            if blank is not None or len(cells) != len(types):
                raise UserError(
                    f"{path}, line {blank or number}: {1 if blank else len(cells)} tab-separated "
                    f"fields, the header has {len(types)}"
                )
            for place, column in wanted:
                column.append(cells[place])
    if (blank or number + 1) == 2:
        raise UserError(f"{path} has a header but no rows")
    return AtomicTable(path, types, columns)


def _bare_lines(path: Path) -> Iterator[str]:
    return (line.removesuffix("\n").removesuffix("\r") for line in text_lines(path))


def atomic_header(path: Path, required: tuple[str, ...] = ()) -> dict[str, str]:
    """Type by field name; errors as `read_atomic`."""
    lines = _bare_lines(path)
    line = next(lines, "")
    if not line and not any(lines):
        raise UserError(f"{path} is empty")
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
    table = read_atomic(path, ("user_id", "item_id"), ("timestamp",))
    timestamps = table.times("timestamp") if "timestamp" in table.types else None
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
