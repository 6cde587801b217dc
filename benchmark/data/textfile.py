"""Reading text files of any origin: whatever is in them ends in a value or in one clear line."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmark.errors import UserError


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever reading the file may raise in the block ends in a UserError of one line."""
    try:
        # A pipe would be empty the second time, and might wait for ever the first time.
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise UserError(f"{path} cannot be read: it is {kind}")
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except MemoryError:
        raise UserError(
            f"{path} cannot be read: it is damaged, or needs more memory than there is"
        ) from None
    except (
        OSError, ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError,
        RecursionError, csv.Error, pa.ArrowException,
    ) as error:  # fmt: skip
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UserError(
            f"{path} cannot be read: {' '.join(reason.split())[:300] or type(error).__name__}"
        ) from None


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, line ends included, without a byte-order mark.

    Lines end at a newline only: other characters that str.splitlines knows may be in a title.

    Raises:
        UserError: the file is missing, unreadable or not UTF-8.
    """
    with reading(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UserError(f"{path}, line {number}: not UTF-8 text") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object, whose keys are all different and not empty.

    Raises:
        UserError: the file is missing, is not JSON, or holds something else.
    """
    text = "".join(text_lines(path))
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise UserError(f"{path} is not JSON of this kind: {error}") from None
    except RecursionError:
        raise UserError(f"{path} is not JSON of this kind: it is nested too deeply") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, not {type(value).__name__}")
    if "" in value:
        raise UserError(f"{path} has an entry without a name")
    try:
        "".join(value).encode()
    except UnicodeEncodeError:  # half a character can be written as \\ud800
        raise UserError(f"{path} has a name that is not Unicode text") from None
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {twice[:40]!r} appears twice")
    return value
