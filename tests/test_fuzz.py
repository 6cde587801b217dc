"""Damaged input files: each is read, or refused in one line that names it; nothing else escapes.

The cases are numbered, and case i is all of what ``random.Random(i)`` decides.
"""

from __future__ import annotations

import io
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.data.download import Downloads
from benchmark.data.files import OwnFiles
from benchmark.data.filters import Filters
from benchmark.data.interactions import Rows, canonical
from benchmark.data.letter import (
    read_key_phrases,
    read_letter_rows,
    read_letter_texts,
    read_user_sequences,
)
from benchmark.errors import UserError
from tests.conftest import REPO

CASES, BLOCK = 1_000, 50
NOWHERE = Downloads(Path("nowhere"), offline=True)
Random = random.Random
Damage = Callable[[bytes, Random], bytes]

# --- whole files ----------------------------------------------------------------------------

EVENTS = [(f"u{n % 5}", f"i{n % 7}", n * 37 % 23) for n in range(30)]
ITEMS = [(f"i{n}", f"Title {n}", f"What {n} is about") for n in range(7)]


def delimited(header: Iterable[str], rows: Iterable[Iterable[object]], delimiter: str) -> bytes:
    lines = [delimiter.join(map(str, row)) for row in (header, *rows)]
    return ("\n".join(lines) + "\n").encode()


def parquet(columns: dict[str, pa.Array]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


ROW_NAMES, ITEM_NAMES = ("user_id", "item_id", "timestamp"), ("item_id", "title", "description")
USERS, OWN_ITEMS, TIMES = (list(column) for column in zip(*EVENTS, strict=True))
SEQUENCES = {str(n): [item for item in range(7) if item != n] for n in range(5)}

DATED = [(user, item, f"2020-01-{1 + time:02}T10:00:00.5Z") for user, item, time in EVENTS]

#: Content by kind of file; the part of the name before the dot says what it is read as.
WHOLE = {
    "rows.inter": delimited(["user_id:token", "item_id:token", "timestamp:float"], EVENTS, "\t"),
    "rows.csv": delimited(ROW_NAMES, EVENTS, ","),
    "dated_rows.csv": delimited(ROW_NAMES, DATED, ","),
    "rows.tsv": delimited(ROW_NAMES, EVENTS, "\t"),
    "rows.parquet": parquet(dict(zip(ROW_NAMES, (USERS, OWN_ITEMS, TIMES), strict=True))),
    "texts.item": delimited([f"{name}:token_seq" for name in ITEM_NAMES], ITEMS, "\t"),
    "texts.csv": delimited(ITEM_NAMES, ITEMS, ","),
    "texts.parquet": parquet(
        {
            name: list(column)
            for name, column in zip(ITEM_NAMES, zip(*ITEMS, strict=True), strict=True)
        }
    ),
    "letter_rows.json": json.dumps(SEQUENCES).encode(),
    "letter_texts.json": json.dumps(
        {str(n): {"title": row[1], "description": row[2]} for n, row in enumerate(ITEMS)}, indent=1
    ).encode(),
    "phrases.txt": delimited(["i0", "first", "phrase"], ITEMS[1:], " "),
    "sequences.txt": delimited(["u0", "i1", "i2"], EVENTS, " "),
}

# --- ways to damage them --------------------------------------------------------------------

ODD_VALUES = (
    "nan", "inf", "-inf", "1e308", "1e400", "9" * 5_000, "-1", "", " ", "1_0", "0x10", "١٢", "NULL",
    "2020-01-01", "9999-12-31T23:59:00Z", "2020-02-30T10:00:00.5Z", "9223372036854775808",
    "é\u2028", "\x85", '"', "[]",
)  # fmt: skip
ODD_COLUMNS = (
    pa.array([float("nan")] * 30),
    pa.array([1e300] * 30),
    pa.array([float(n) for n in range(30)]),
    pa.array([None] * 30, pa.string()),
    pa.array(["x", None] * 15),
    pa.array([2**64 - 1] * 30, pa.uint64()),
    pa.array([True] * 30),
    pa.array([[1]] * 30),
    pa.array([{"a": 1}] * 30),
    pa.array([b"\xff"] * 30),
    pa.array([10**17] * 30, pa.timestamp("us")),
    pa.array(["i1", "i2", "i3"] * 10).dictionary_encode(),
    pa.array([10**6] * 30, pa.date32()),
    pa.array(["\0\n" * 50_000] * 30),
    pa.nulls(30),
)


def as_it_is(content: bytes, rng: Random) -> bytes:
    return content


def random_bytes(content: bytes, rng: Random) -> bytes:
    return rng.randbytes(rng.choice([1, 10, 1_000]))


def overwritten(content: bytes, rng: Random) -> bytes:
    start, size = rng.randrange(len(content) + 1), rng.randrange(1, 20)
    return content[:start] + rng.randbytes(size) + content[start + size :]


def bit_flips(content: bytes, rng: Random) -> bytes:
    flipped = bytearray(content)
    for _ in range(rng.randrange(1, 9) if content else 0):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def truncated(content: bytes, rng: Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def empty(content: bytes, rng: Random) -> bytes:
    return rng.choice([b"", b"\n", b"\xef\xbb\xbf"])


def with_bom(content: bytes, rng: Random) -> bytes:
    return b"\xef\xbb\xbf" + content


def crlf(content: bytes, rng: Random) -> bytes:
    return content.replace(b"\n", rng.choice([b"\r\n", b"\r\n", b"\r"]))


def utf_16(content: bytes, rng: Random) -> bytes:
    return content.decode("latin-1").encode(rng.choice(["utf-16", "utf-16-le"]))


def with_nul(content: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + b"\0" * rng.choice([1, 100]) + content[start:]


def open_quote(content: bytes, rng: Random) -> bytes:
    start = rng.choice([n for n, byte in enumerate(content) if byte in b",\t\n "] or [0]) + 1
    return content[:start] + b'"' + content[start:]


def long_line(content: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.choice([b"x", b"9", b" ", b",", b"["]) * 10**6 + content[start:]


def nested(content: bytes, rng: Random) -> bytes:
    return rng.choice([b"[", b'{"a":', b'{"0":[']) * 100_000


def on_lines(
    change: Callable[[list[bytes], int, Random], None],
) -> Damage:
    """A damage that changes the list of lines, given the index of one of them."""

    def damage(content: bytes, rng: Random) -> bytes:
        lines = content.split(b"\n")
        change(lines, rng.randrange(len(lines)), rng)
        return b"\n".join(lines)

    damage.__name__ = change.__name__
    return damage


@on_lines
def wrong_header(lines: list[bytes], index: int, rng: Random) -> None:
    lines[0] = rng.choice([b"", lines[-1], lines[0].upper(), lines[0].replace(b"i", b"j"), b":,\t"])


@on_lines
def ragged(lines: list[bytes], index: int, rng: Random) -> None:
    lines[index] = rng.choice([b"", b" ", lines[index][: len(lines[index]) // 2], lines[index] * 2])


@on_lines
def odd_value(lines: list[bytes], index: int, rng: Random) -> None:
    for separator in (b",", b"\t", b" "):
        if separator in lines[index]:
            cells = lines[index].split(separator)
            cells[rng.randrange(len(cells))] = rng.choice(ODD_VALUES).encode()
            lines[index] = separator.join(cells)
            return


@on_lines
def line_twice(lines: list[bytes], index: int, rng: Random) -> None:
    lines.insert(rng.randrange(len(lines)), lines[index])


@on_lines
def swapped_lines(lines: list[bytes], index: int, rng: Random) -> None:
    other = rng.randrange(len(lines))
    lines[index], lines[other] = lines[other], lines[index]


def odd_json(content: bytes, rng: Random) -> bytes:
    """Another value in place of a number or within a string."""
    parts = re.split(rb"(\d+)", content)
    odd = [
        "null", "true", "1.5", "-1", "NaN", "Infinity", "1e999", "1" * 5_000, "[]", "{}", '"0"',
        "\\ud800", "\\u0000", "\\n", "", " ",
    ]  # fmt: skip
    numbers = list(range(1, len(parts), 2))
    parts[rng.choice(numbers or [0])] = rng.choice(odd).encode()
    return b"".join(parts)


def odd_column(content: bytes, rng: Random) -> bytes:
    columns = dict(zip(ROW_NAMES, (USERS, OWN_ITEMS, TIMES), strict=True)) | {"title": OWN_ITEMS}
    columns[rng.choice([*columns, "title", "other"])] = rng.choice(ODD_COLUMNS)
    columns.pop(rng.choice([*columns, "description", "other"]), None)
    return parquet(columns)


BYTES: list[Damage] = [
    as_it_is, random_bytes, overwritten, bit_flips, bit_flips, truncated, empty, with_bom, with_nul,
]  # fmt: skip
TEXT: list[Damage] = [
    *BYTES, crlf, utf_16, open_quote, long_line, nested, wrong_header, ragged, odd_value, odd_value,
    line_twice, line_twice, swapped_lines, swapped_lines,
]  # fmt: skip


def put(folder: Path, rng: Random) -> tuple[str, Path]:
    """Write a case's file: the part of `WHOLE`'s name before the dot, and its path."""
    name = rng.choice([*WHOLE, "rows.parquet", "rows.parquet"])
    content, (kind, suffix) = WHOLE[name], name.split(".")
    ways = BYTES if suffix == "parquet" else TEXT
    if suffix == "json":
        ways = [*TEXT, *[odd_json] * 8]
    if suffix == "parquet" and rng.random() < 0.6:
        content = odd_column(content, rng)
        ways = [*BYTES, *[as_it_is] * 20]
    for _ in range(rng.choice([1, 1, 2])):
        content = rng.choice(ways)(content, rng)
    same_kind = [other.split(".")[1] for other in WHOLE if other.startswith(f"{kind}.")]
    if rng.random() < 0.05:
        suffix = rng.choice(same_kind)
    path = folder / f"{kind}.{suffix}"
    state = rng.random()
    if state < 0.02:
        path.mkdir()
    elif state < 0.03:
        path.symlink_to(path)
    elif state < 0.04:
        path = folder / f"{'long' * 100}.{suffix}"
    elif state > 0.05:  # else it is missing
        path.write_bytes(content)
        if state > 0.99:
            path.chmod(0)  # says no to everybody but root
    return kind, path


# --- what must hold -------------------------------------------------------------------------


def read_case(kind: str, path: Path, whole: Path, rng: Random) -> None:
    """Read the file as what it is and check what comes of it."""
    tokens: Iterable[str]
    texts: Iterable[str] = ()
    if kind in ("rows", "dated_rows"):
        columns = {"timestamp": rng.choice([None, None, "none", "timestamp"])}
        options = {"kind": "files", "interactions": str(path), "columns": columns}
        source = OwnFiles(options)
        rows = source.read_rows(NOWHERE)
        assert source.identity["files"]["items"] is None
        tokens = check_rows(rows, rng)
    elif kind == "letter_rows":
        tokens = check_rows(read_letter_rows(path), rng)
    elif kind == "texts":
        source = OwnFiles({"kind": "files", "interactions": str(whole), "items": str(path)})
        found = source.read_texts(NOWHERE)
        assert (found is None) == (source.text_source is None) == (not source.text_inputs())
        tokens = found or ()
        texts = [part for text in (found or {}).values() for part in text]
    elif kind == "letter_texts":
        letter = read_letter_texts(path)
        tokens, texts = letter, [part for text in letter.values() for part in text]
    elif kind == "phrases":
        phrases = read_key_phrases(path)
        tokens, texts = phrases, phrases.values()
    else:
        tokens = [token for sequence in read_user_sequences(path) for token in sequence]
    assert all(tokens)
    for text in (*tokens, *texts):
        text.encode()  # or it cannot be stored


def check_rows(rows: Rows, rng: Random) -> list[str]:
    """Bring rows into canonical form, which must be sound; gives all tokens."""
    n = len(rows.users)
    assert len(rows.items) == n
    if rows.timestamps is not None:
        assert rows.timestamps.shape == (n,)
        assert rows.timestamps.dtype in (np.int64, np.float64)
        assert np.isfinite(rows.timestamps).all()
    filters = rng.choice([Filters(), Filters("consecutive"), Filters("last", 3, 2, 4)])
    try:
        data = canonical(rows, filters=filters)
    except UserError as error:
        check_line(str(error))  # it is about the data as a whole, not about a place in the file
        return [*rows.users, *rows.items]
    assert np.array_equal(np.unique(data.item), np.arange(data.n_items))
    assert np.array_equal(np.unique(data.user), np.arange(data.n_users))
    assert np.bincount(data.user).min() >= filters.min_interactions
    assert (np.diff(data.user) >= 0).all()
    assert data.split().n_users == data.n_users
    return [*rows.users, *rows.items]


def check_line(message: str) -> None:
    assert message.strip()
    assert len(message.splitlines()) == 1
    assert len(message) < 2_000


@pytest.mark.parametrize("first", range(0, CASES, BLOCK))
def test_damaged_files(tmp_path: Path, first: int) -> None:
    whole = tmp_path / "whole.inter"
    whole.write_bytes(WHOLE["rows.inter"])
    read = 0
    for case in range(first, first + BLOCK):
        rng = random.Random(case)
        folder = tmp_path / str(case)
        folder.mkdir()
        try:
            kind, path = put(folder, rng)
            try:
                read_case(kind, path, whole, rng)
                read += 1
            except UserError as error:
                check_line(str(error))
                assert str(path) in str(error)
        except Exception as error:
            raise AssertionError(f"case {case} in {folder}") from error
    # Were all of them read, or none, the cases would show nothing.
    assert BLOCK // 10 <= read <= BLOCK * 9 // 10


# --- through the command line ---------------------------------------------------------------


def prepare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmark.prepare", "dataset=custom", "--no-embeddings"]
    return subprocess.run(
        [*command, f"cache={folder / 'cache'}", *arguments],
        cwd=REPO, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_whole_file_by_command(tmp_path: Path) -> None:
    (tmp_path / "My rows.csv").write_bytes(WHOLE["rows.csv"])
    (tmp_path / "i.item").write_bytes(WHOLE["texts.item"])
    done = prepare(
        tmp_path,
        f"dataset.interactions='{tmp_path / 'My rows.csv'}'",
        f"dataset.items={tmp_path / 'i.item'}",
        "dataset.filters.user_core=3",
    )
    assert done.returncode == 0, done.stderr
    assert "my-rows" in done.stdout
    assert "i.item: title, description" in done.stdout


@pytest.mark.parametrize(
    ("name", "content", "arguments", "message"),
    [
        ("my.csv", WHOLE["rows.csv"] + b"u1,i1\n", [], "my.csv, line 32: 2 fields"),
        ("my.parquet", WHOLE["rows.parquet"][:-20], [], "my.parquet cannot be read"),
        ("my.txt", WHOLE["rows.csv"], [], ".inter, .csv, .tsv, .parquet"),
        ("my.inter", None, [], "my.inter does not exist"),
        ("my.tsv", WHOLE["rows.tsv"], ["dataset.filters.user_core=99"], "user_core=99"),
        ("my.csv", WHOLE["rows.csv"], ["dataset.columns.user=uid"], "no column uid"),
    ],
)
def test_bad_files_by_command(
    tmp_path: Path, name: str, content: bytes | None, arguments: list[str], message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    done = prepare(tmp_path, f"dataset.interactions={path}", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
