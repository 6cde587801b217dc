"""Columns of the tables that people keep their data in: CSV, TSV and parquet."""

from __future__ import annotations

import csv
import re
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmark.data.atomic import finite_numbers
from benchmark.data.textfile import reading, text_lines
from benchmark.errors import UserError

ISO_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
ISO_TIME = r"[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?"
ISO_ZONE = r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)"
ISO_SHAPES = (ISO_DATE, ISO_DATE + ISO_TIME, ISO_DATE + ISO_TIME + ISO_ZONE)
# Above this, float64 no longer holds every whole number: two ids may have become one.
LARGEST_FLOAT_ID = 2.0**53


class Table(Protocol):
    """Columns of a file, read as what they are needed for."""

    @property
    def path(self) -> Path:
        """Where it was read."""

    def place(self, row: int) -> str:
        """Where row i stands, as a person would look for it."""

    def tokens(self, name: str) -> list[str]:
        """Names of users or items.

        Raises:
            UserError: one is empty, or cannot be a name.
        """

    def times(self, name: str) -> NDArray[Any]:
        """int64 or float64 [n], finite; dates become nanoseconds since 1970 (UTC).

        Raises:
            UserError: a value is neither a number nor a date.
        """

    def texts(self, name: str) -> list[str]:
        """Texts, "" where there is none."""


@dataclass(frozen=True)
class TextTable:
    """Columns of a CSV or TSV file.

    Attributes:
        path: where it was read.
        columns: raw strings by column name.
        lines: [n] the line on which each row begins.
    """

    path: Path
    columns: Mapping[str, list[str]]
    lines: Sequence[int]

    def place(self, row: int) -> str:
        return f"line {self.lines[row]}"

    def tokens(self, name: str) -> list[str]:
        column = self.columns[name]
        if "" in column:
            raise UserError(f"{self.path}, {self.place(column.index(''))}: {name} is empty")
        return column

    def times(self, name: str) -> NDArray[Any]:
        return _parse_times(self, name, self.columns[name])

    def texts(self, name: str) -> list[str]:
        return self.columns[name]

    @classmethod
    def header(cls, path: Path, delimiter: str) -> list[str]:
        """Column names, in file order."""
        return next(_records(path, delimiter))[1]

    @classmethod
    def read(cls, path: Path, names: Sequence[str], delimiter: str) -> TextTable:
        """Read the named columns, which the header has.

        Raises:
            UserError: no rows, a ragged one, text that is not UTF-8, or a quote left open.
        """
        records = _records(path, delimiter)
        header = next(records)[1]
        columns: dict[str, list[str]] = {name: [] for name in names}
        wanted = [(header.index(name), column) for name, column in columns.items()]
        lines = array("q")
        for line, record in records:
            if len(record) != len(header):
                raise UserError(
                    f"{path}, line {line}: {len(record)} fields, the header has {len(header)}"
                )
            lines.append(line)
            for place, column in wanted:
                column.append(record[place])
        if not lines:
            raise UserError(f"{path} has a header but no rows")
        return cls(path, columns, lines)


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of the header and of every row; blank lines may stand at the end only."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(text_lines(path), delimiter=delimiter, strict=True)
    blank = begin = 0
    while True:
        begin = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            reason = str(error)
            if "new-line character" in reason:
                reason = "a carriage return in the middle of the line"
            elif "unexpected end" in reason:
                reason = "a quotation mark is opened and never closed"
            raise UserError(f"{path}, line {begin}: not a table ({reason})") from None
        if not record:
            blank = blank or begin
        elif blank:
            raise UserError(f"{path}, line {blank}: the line is empty")
        else:
            yield begin, record
    if begin == 1 or blank == 1:
        raise UserError(f"{path} is empty")


def _parse_times(table: Table, name: str, column: list[str]) -> NDArray[Any]:
    """Numbers, or ISO 8601 dates that are all of the first one's kind (date, date and time, or
    both with a time zone)."""
    shape = next((shape for shape in ISO_SHAPES if re.fullmatch(shape, column[0])), None)

    def complain(row: int, value: str) -> UserError:
        expected = "a finite number or an ISO 8601 date"
        if shape is not None:
            expected = f"a date written like the first one, {column[0]}, of the years 1678 to 2261"
        return UserError(
            f"{table.path}, {table.place(row)}: {name} is {value[:40]!r}, not {expected}"
        )

    if shape is None:
        return finite_numbers(column, complain)
    values = pd.Series(column, dtype=object)
    dates = pd.to_datetime(values, format="ISO8601", utc=True, errors="coerce")
    # int64 nanoseconds reach from some day of 1677 to some day of 2262; a missing date has no year.
    good = dates.dt.year.between(1678, 2261) & values.str.fullmatch(shape)
    if not good.all():
        row = int(good.to_numpy(bool).argmin())
        raise complain(row, column[row])
    return dates.dt.as_unit("ns").astype("int64").to_numpy()


@dataclass(frozen=True)
class ParquetTable:
    """Columns of a parquet file.

    Attributes:
        path: where it was read.
        columns: by name; dictionary-encoded ones are decoded.
    """

    path: Path
    columns: Mapping[str, pa.ChunkedArray]

    def place(self, row: int) -> str:
        return f"row {row + 1}"

    def tokens(self, name: str) -> list[str]:
        column = self._complete(name)
        kind = column.type
        if pa.types.is_floating(kind):  # what pandas makes of whole numbers with gaps
            values = column.to_numpy().astype(np.float64)
            whole = (np.floor(values) == values) & (np.abs(values) <= LARGEST_FLOAT_ID)
            if not whole.all():
                row = int(whole.argmin())
                raise self._wrong(row, name, values[row], "a whole number that float64 can hold")
            column = pa.chunked_array([pa.array(values.astype(np.int64))])
        elif not (_is_text(kind) or pa.types.is_integer(kind)):
            raise self._wrong_type(name, "text or whole numbers")
        with reading(self.path):
            tokens: list[str] = column.cast(pa.large_string()).to_pylist()
        if "" in tokens:
            raise UserError(f"{self.path}, {self.place(tokens.index(''))}: {name} is empty")
        return tokens

    def times(self, name: str) -> NDArray[Any]:
        column = self._complete(name)
        kind = column.type
        with reading(self.path):
            if _is_text(kind):
                return _parse_times(self, name, column.cast(pa.large_string()).to_pylist())
            if pa.types.is_date(kind):
                column = column.cast(pa.timestamp("ms"))
            if pa.types.is_timestamp(column.type):
                column = column.cast(pa.timestamp("ns", tz=column.type.tz)).cast(pa.int64())
            elif pa.types.is_integer(kind):
                column = column.cast(pa.int64())
            elif pa.types.is_floating(kind) or pa.types.is_decimal(kind):
                column = column.cast(pa.float64())
            else:
                raise self._wrong_type(name, "numbers, timestamps or dates")
        values: NDArray[Any] = column.to_numpy()
        finite = np.isfinite(values)
        if not finite.all():
            row = int(finite.argmin())
            raise self._wrong(row, name, values[row], "a finite number")
        return values

    def texts(self, name: str) -> list[str]:
        column = self.columns[name]
        if not (_is_text(column.type) or pa.types.is_integer(column.type)):
            if column.null_count == len(column):
                return [""] * len(column)
            raise self._wrong_type(name, "text")
        with reading(self.path):
            return [text or "" for text in column.cast(pa.large_string()).to_pylist()]

    def _complete(self, name: str) -> pa.ChunkedArray:
        column = self.columns[name]
        if column.null_count:
            row = int(column.is_null().to_numpy().argmax())
            raise UserError(f"{self.path}, {self.place(row)}: {name} is missing (null)")
        return column

    def _wrong(self, row: int, name: str, value: object, expected: str) -> UserError:
        return UserError(f"{self.path}, {self.place(row)}: {name} is {value}, not {expected}")

    def _wrong_type(self, name: str, expected: str) -> UserError:
        kind = str(self.columns[name].type)[:80]
        return UserError(f"{self.path}: {name} is of type {kind}, expected {expected}")

    @classmethod
    def header(cls, path: Path) -> list[str]:
        """Column names, in file order."""
        with reading(path):
            return list(pq.read_schema(path).names)

    @classmethod
    def read(cls, path: Path, names: Sequence[str]) -> ParquetTable:
        """Read the named columns, which the file has, and no others.

        Raises:
            UserError: no rows, or a damaged file.
        """
        with reading(path), pq.ParquetFile(path) as file:
            table = file.read(columns=list(names), use_threads=False)
            table.validate(full=True)  # a damaged file may decode into impossible arrays
            columns = {name: _decoded(table.column(name)) for name in names}
        if not table.num_rows:
            raise UserError(f"{path} holds no rows")
        return cls(path, columns)


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    return column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
