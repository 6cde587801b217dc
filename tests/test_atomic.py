"""Reading RecBole's atomic files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.data.atomic import read_atomic_rows, read_atomic_texts
from benchmark.data.source import ItemText
from benchmark.errors import UserError

Write = Callable[[str, bytes], Path]
HEADER = b"user_id:token\titem_id:token\ttimestamp:float\n"


def test_atomic_accepts_bom_crlf_and_blank_last_lines(write_atomic: Write) -> None:
    plain = HEADER + b"1\t5\t10\n2\t6\t11.5\n"
    fancy = b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n") + b"\r\n\r\n"
    first, second = (
        read_atomic_rows(write_atomic(f"{n}.inter", content))
        for n, content in enumerate((plain, fancy))
    )
    assert first.users == second.users == ["1", "2"]
    assert first.items == second.items == ["5", "6"]
    for rows in (first, second):
        assert rows.timestamps is not None
        assert rows.timestamps.tolist() == [10, 11.5]


def test_atomic_keeps_nanoseconds_apart(write_atomic: Write) -> None:
    content = HEADER + b"1\t5\t1700000000000000001\n1\t6\t1700000000000000000\n"
    path = write_atomic("a.inter", content)
    timestamps = read_atomic_rows(path).timestamps
    assert timestamps is not None
    assert timestamps[0] > timestamps[1]


def test_atomic_without_timestamps(write_atomic: Write) -> None:
    path = write_atomic("a.inter", b"user_id:token\titem_id:token\n1\t5\n")
    assert read_atomic_rows(path).timestamps is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n", "is empty"),
        (HEADER, "no rows"),
        (b"1\t5\t10\n", "line 1: '1' is not a header field"),
        (b"user_id\titem_id\n1\t5\n", "line 1: 'user_id' is not a header field"),
        (b"user_id:token,item_id:token\n1,5\n", "line 1: the field 'user_id' is missing"),
        (b"user_id:int\titem_id:token\n1\t5\n", "line 1: 'user_id:int' is not"),
        (b"user_id:token\tuser_id:token\n1\t5\n", "appears twice"),
        (b"user_id:token\trating:float\n1\t5\n", "line 1: the field 'item_id' is missing"),
        (HEADER + b"1\t5\t10\n1\t6\n", "line 3: 2 tab-separated fields, the header has 3"),
        (HEADER + b"1\t5\t10\t9\n", "line 2: 4 tab-separated fields"),
        (HEADER + b"1\t5\t10\n\n1\t6\t11\n", "line 3: 1 tab-separated"),
        (HEADER + b"1\t5\t10\n1\t6\tnan\n", "line 3: timestamp is 'nan', not a finite number"),
        (HEADER + b"1\t5\tinf\n", "line 2: timestamp is 'inf'"),
        (HEADER + b"1\t5\t\n", "line 2: timestamp is ''"),
        (HEADER + b"1\t5\tMonday\n", "line 2: timestamp is 'Monday'"),
        (HEADER + b"1\t5\t10\n\t6\t11\n", "line 3: user_id is empty"),
        (HEADER + b"1\t5\t10\n1\t\t11\n", "line 3: item_id is empty"),
        (HEADER + b"1\t5\t10\n1\t\xff\t11\n", "line 3: not UTF-8"),
    ],
)
def test_bad_atomic_files_are_one_clear_line(
    write_atomic: Write, content: bytes, message: str
) -> None:
    path = write_atomic("bad.inter", content)
    with pytest.raises(UserError) as caught:
        read_atomic_rows(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_atomic_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_atomic_rows(tmp_path / "none.inter")
    with pytest.raises(UserError, match="cannot be read"):
        read_atomic_rows(tmp_path)


def test_item_texts_leave_out_what_is_missing(write_atomic: Write) -> None:
    path = write_atomic(
        "a.item",
        "item_id:token\tname:token_seq\tyear:token\tkind:token_seq\tabout:token_seq\n"
        "1\tHeat\t1995\tAction Crime\tA film.\n"
        "2\tHeat\tV\t\t\n"
        "3\t\t1995\tDrama\t\n"
        "4\t\t\t\t\n"
        "5\tOne\u2028two\t\t\tQuiet\n".encode(),
    )
    fields = {"title": "name", "year": "year", "tags": "kind", "description": "about"}
    assert read_atomic_texts(path, fields) == {
        "1": ItemText("Heat (1995)", "Action, Crime. A film."),
        "2": ItemText("Heat", ""),
        "3": ItemText("(1995)", "Drama"),
        "4": ItemText("", ""),
        "5": ItemText("One\u2028two", "Quiet"),
    }
    assert read_atomic_texts(path, {"title": "name"})["1"] == ItemText("Heat", "")


def test_item_listed_twice(write_atomic: Write) -> None:
    path = write_atomic("a.item", b"item_id:token\tname:token\n1\ta\n1\tb\n")
    with pytest.raises(UserError, match="line 3: item '1' appears twice"):
        read_atomic_texts(path, {"title": "name"})
