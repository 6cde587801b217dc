"""The user's own files, in every format."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.data.download import Downloads
from benchmark.data.files import OwnFiles, default_name
from benchmark.data.interactions import Rows, canonical
from benchmark.data.source import ItemText
from benchmark.data.textfile import reading
from benchmark.errors import UserError

FORMATS = (".inter", ".csv", ".tsv", ".parquet")
NOWHERE = Downloads(Path("nowhere"), offline=True)

Columns = dict[str, list[Any]]

EVENTS: Columns = {
    "user_id": ["u2", "u1", "u1", "u2", "u1", "u2", "u2"],
    "item_id": ["b", "a", "b,c", 'say "hi"', "Ünï", "b", "a"],
    "timestamp": [5, 3, 1, 4, 2, 6, 1],
}
ITEMS: Columns = {
    "item_id": ["a", "b", "b,c", "Ünï"],
    "title": ["Tab less", "Bee", "", "Ünïcode"],
    "description": ["First.", "", "", 'With "quotes", and a comma'],
}


def write_table(path: Path, columns: Columns) -> Path:
    """The same columns in whatever format the name asks for."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
        return path
    rows = list(zip(*columns.values(), strict=True))
    if path.suffix in (".inter", ".item"):
        header = "\t".join(f"{name}:token" for name in columns)
        lines = [header, *("\t".join(map(str, row)) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t")
        writer.writerows([list(columns), *rows])
    return path


def source_of(interactions: Path, items: Path | None = None, **options: Any) -> OwnFiles:
    paths = {"interactions": str(interactions), "items": None if items is None else str(items)}
    return OwnFiles({"kind": "files", **paths, **options})


def read_rows(path: Path, **options: Any) -> Rows:
    return source_of(path, **options).read_rows(NOWHERE)


def write_csv(folder: Path, content: str | bytes, name: str = "my.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(source: OwnFiles) -> str:
    """The one line with which the source refuses its interactions."""
    with pytest.raises(UserError) as caught:
        source.read_rows(NOWHERE)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def times_of(rows: Rows) -> list[Any]:
    assert rows.timestamps is not None
    return rows.timestamps.tolist()


# --- all formats alike ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_data(tmp_path: Path, suffix: str) -> None:
    items = ".item" if suffix == ".inter" else suffix
    source = source_of(
        write_table(tmp_path / f"my{suffix}", EVENTS), write_table(tmp_path / f"i{items}", ITEMS)
    )
    rows = source.read_rows(NOWHERE)
    assert list(rows.users) == EVENTS["user_id"]
    assert list(rows.items) == EVENTS["item_id"]
    assert rows.timestamps is not None
    assert rows.timestamps.dtype == np.int64
    assert rows.timestamps.tolist() == EVENTS["timestamp"]
    data = canonical(rows)
    assert data.user_tokens == ["u1", "u2"]
    assert data.item_tokens == ["a", "b", "b,c", 'say "hi"', "Ünï"]
    assert data.item.tolist() == [2, 4, 0, 0, 3, 1, 1]
    assert source.read_texts(NOWHERE) == {
        "a": ItemText("Tab less", "First."),
        "b": ItemText("Bee", ""),
        "b,c": ItemText("", ""),
        "Ünï": ItemText("Ünïcode", 'With "quotes", and a comma'),
    }
    assert source.text_source == f"i{items}: title, description"
    assert source.revision == f"local file my{suffix}"


@pytest.mark.parametrize("suffix", FORMATS)
def test_column_map(tmp_path: Path, suffix: str) -> None:
    events: Columns = {
        "when": [3, 1, 2],
        "asin": ["x", "y", "z"],
        "uid": ["u", "u", "v"],
        "more": [0, 0, 0],
    }
    items: Columns = {"about": ["one"], "asin": ["x"], "name": ["X"]}
    columns = {"user": "uid", "item": "asin", "timestamp": "when", "title": "name"}
    source = source_of(
        write_table(tmp_path / f"my{suffix}", events),
        write_table(tmp_path / (f"i{suffix}" if suffix != ".inter" else "i.item"), items),
        columns=columns,
    )
    rows = source.read_rows(NOWHERE)
    assert (list(rows.users), list(rows.items)) == (["u", "u", "v"], ["x", "y", "z"])
    assert times_of(rows) == [3, 1, 2]
    assert source.read_texts(NOWHERE) == {"x": ItemText("X", "")}
    assert str(source.text_source).endswith(": name")


@pytest.mark.parametrize("suffix", FORMATS)
def test_missing_columns_are_named(tmp_path: Path, suffix: str) -> None:
    path = write_table(tmp_path / f"my{suffix}", {"uid": ["u"], "item_id": ["x"]})
    message = refused(source_of(path))
    assert f"{path} has no column user_id; its columns are uid, item_id" in message
    assert "set dataset.columns.user" in message
    columns = {"user": "uid", "timestamp": "when"}
    assert "has no column when; its columns are" in refused(source_of(path, columns=columns))
    assert read_rows(path, columns={"user": "uid"}).timestamps is None
    items = write_table(tmp_path / ("i.item" if suffix == ".inter" else f"i{suffix}"), ITEMS)
    for columns in ({"title": "name"}, {"description": "name"}):
        with pytest.raises(UserError, match=r"has no column name; its columns are item_id, title"):
            source_of(path, items, columns=columns).read_texts(NOWHERE)
    with pytest.raises(UserError, match=r"no column sku; .* set dataset\.columns\.item"):
        source_of(path, items, columns={"item": "sku"}).read_texts(NOWHERE)


@pytest.mark.parametrize("suffix", FORMATS)
def test_timestamps_can_be_ignored(tmp_path: Path, suffix: str) -> None:
    events = {**EVENTS, "timestamp": ["never"] * 7}
    path = write_table(tmp_path / f"my{suffix}", events)
    assert "timestamp is 'never', not a finite number" in refused(source_of(path))
    assert read_rows(path, columns={"timestamp": "none"}).timestamps is None


@pytest.mark.parametrize("suffix", FORMATS)
def test_nanoseconds_are_kept_apart(tmp_path: Path, suffix: str) -> None:
    times = [1_700_000_000_000_000_001, 1_700_000_000_000_000_000]
    columns: Columns = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": times}
    assert times_of(read_rows(write_table(tmp_path / f"my{suffix}", columns))) == times


def test_numbers_too_large_for_int64_are_floats(tmp_path: Path) -> None:
    columns: Columns = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [2**70, 1]}
    for suffix in (".inter", ".csv"):
        rows = read_rows(write_table(tmp_path / f"my{suffix}", columns))
        assert times_of(rows) == [2.0**70, 1.0]


@pytest.mark.parametrize("suffix", FORMATS)
def test_empty_names_are_refused(tmp_path: Path, suffix: str) -> None:
    place = "row 2" if suffix == ".parquet" else "line 3"
    for name in ("user_id", "item_id"):
        events = {**EVENTS, name: ["x", "", *EVENTS[name][2:]]}
        message = refused(source_of(write_table(tmp_path / f"my{suffix}", events)))
        assert f"{place}: {name} is empty" in message


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_rows(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        table = pa.table(
            {"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.int64())}
        )
        pq.write_table(table, tmp_path / "my.parquet")
    else:
        write_table(tmp_path / f"my{suffix}", {"user_id": [], "item_id": []})
    assert "no rows" in refused(source_of(tmp_path / f"my{suffix}"))


@pytest.mark.parametrize("suffix", FORMATS)
def test_one_column_may_play_two_parts(tmp_path: Path, suffix: str) -> None:
    suffix = ".item" if suffix == ".inter" else suffix
    items = write_table(tmp_path / f"i{suffix}", {"item_id": ["Heat"]})
    events = write_table(tmp_path / "my.csv", EVENTS)
    source = source_of(events, items, columns={"title": "item_id"})
    assert source.read_texts(NOWHERE) == {"Heat": ItemText("Heat", "")}


# --- texts ----------------------------------------------------------------------------------


def test_texts_may_be_missing(tmp_path: Path) -> None:
    events = write_table(tmp_path / "my.inter", EVENTS)
    bare = write_table(tmp_path / "bare.item", {"item_id": ["a"], "price": ["1"]})
    for source in (
        source_of(events),
        source_of(events, bare),
        source_of(
            events,
            write_table(tmp_path / "i.csv", ITEMS),
            columns={"title": "none", "description": "none"},
        ),
    ):
        assert source.read_texts(NOWHERE) is None
        assert source.text_source is None
        assert source.text_inputs() == {}
    about = {"item_id": ITEMS["item_id"], "description": ITEMS["description"]}
    source = source_of(events, write_table(tmp_path / "about.csv", about))
    assert (source.read_texts(NOWHERE) or {})["a"] == ItemText("", "First.")
    assert source.text_source == "about.csv: description"


@pytest.mark.parametrize("suffix", [".item", ".csv", ".tsv", ".parquet"])
def test_an_item_listed_twice(tmp_path: Path, suffix: str) -> None:
    events = write_table(tmp_path / "my.csv", EVENTS)
    items: Columns = {"item_id": ["a", "b", "a"], "title": ["A", "B", "A"]}
    source = source_of(events, write_table(tmp_path / f"i{suffix}", items))
    assert source.read_texts(NOWHERE) == {"a": ItemText("A", ""), "b": ItemText("B", "")}
    items["title"][2] = "another"
    write_table(tmp_path / f"i{suffix}", items)
    place = "row 3" if suffix == ".parquet" else "line 4"
    with pytest.raises(UserError, match=f"i{suffix}, {place}: item 'a' appears twice"):
        source.read_texts(NOWHERE)


# --- CSV and TSV ----------------------------------------------------------------------------


def test_csv_with_bom_crlf_blank_end_and_other_delimiters(tmp_path: Path) -> None:
    plain = "user_id,item_id,timestamp\nu,a,1\nu,b,2\n"
    expected = (["u", "u"], ["a", "b"], [1, 2])
    for content, name, delimiter in (
        (plain, "a.csv", None),
        (plain.rstrip("\n"), "a.csv", None),
        ("\ufeff" + plain.replace("\n", "\r\n") + "\r\n\r\n", "a.csv", None),
        (plain.replace(",", ";"), "a.csv", ";"),
        (plain.replace(",", "\t"), "a.csv", "\\t"),
        (plain.replace(",", "\t"), "a.tsv", None),
        (plain.replace(",", "|"), "a.tsv", "|"),
        (plain, "a.CSV", None),
    ):
        rows = read_rows(write_csv(tmp_path, content, name), delimiter=delimiter)
        assert (list(rows.users), list(rows.items), times_of(rows)) == expected


def test_csv_fields_may_hold_lines_and_be_long(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path, f'user_id,item_id,timestamp\nu,"a\nb",1\nu,{"x" * 300_000},2\nu,c,\n'
    )
    assert "my.csv, line 5: timestamp is ''" in refused(source_of(path))
    rows = read_rows(path, columns={"timestamp": "none"})
    assert list(rows.items) == ["a\nb", "x" * 300_000, "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("user_id,item_id\n", "has a header but no rows"),
        ("\nuser_id,item_id\nu,a\n", "line 1: the line is empty"),
        ("user_id,item_id\nu,a\n\nu,b\n", "line 3: the line is empty"),
        ("user_id,item_id\nu,a\nu\n", "line 3: 1 fields, the header has 2"),
        ("user_id,item_id\nu,a,b\n", "line 2: 3 fields, the header has 2"),
        ("user_id,item_id,item_id\nu,a,b\n", "has twice the column item_id"),
        ('user_id,item_id\nu,a\nu,"b\nu,c\n', "line 3: not a table (a quotation mark is opened"),
        ('user_id,item_id\nu,"a"b\n', "line 2: not a table"),
        ("user_id,item_id\nu,a\rb,c\n", "line 2: not a table (a carriage return"),
        (b"user_id,item_id\nu,a\nu,\xff\n", "line 3: not UTF-8 text"),
        ("user_id,item_id\nu,a\n".encode("utf-16"), "line 1: not UTF-8 text"),
        ("user_id,item_id\nu,a\n".encode("utf-16-le"), "no column user_id"),
        ("user_id,item_id,timestamp\nu,a,1\nu,b,nan\n", "line 3: timestamp is 'nan', not a finite"),
        ("user_id,item_id,timestamp\nu,a,inf\n", "line 2: timestamp is 'inf', not a finite"),
        ("user_id,item_id,timestamp\nu,a,1\nu,b,1_0\n", "line 3: timestamp is '1_0', not a finite"),
        ("user_id,item_id,timestamp\nu,a,1\nu,b,2020-01-01\n", "line 3: timestamp is '2020-01-01'"),
        (
            "user_id,item_id,timestamp\nu,a,2020-01-01\nu,b,5\n",
            "line 3: timestamp is '5', not a da",
        ),
        (
            "user_id,item_id,timestamp\nu,a,2020-01-01\nu,b,\n",
            "line 3: timestamp is '', not a date",
        ),
        ("user_id,item_id,timestamp\nu,a,2020-13-01\n", "line 2: timestamp is '2020-13-01', not a"),
        ("user_id,item_id,timestamp\nu,a,9999-01-01\n", "of the years 1678 to 2261"),
        (
            "user_id,item_id,timestamp\nu,a,2020-01-01\nu,b,2020-01-01T10:00\n",
            "line 3: timestamp is '2020-01-01T10:00', not a date written like the first one",
        ),
    ],
)
def test_bad_csv_is_one_clear_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write_csv(tmp_path, content)
    found = refused(source_of(path))
    assert message in found
    assert str(path) in found


def test_only_the_needed_columns_must_be_unique(tmp_path: Path) -> None:
    path = write_csv(tmp_path, ",user_id,item_id,x,x\n0,u,a,,\n")
    assert list(read_rows(path).items) == ["a"]


SECOND = 10**9
NEW_YEAR = 1_577_836_800 * SECOND  # 2020-01-01, UTC


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["2020-01-01", "2019-12-31"], [NEW_YEAR, NEW_YEAR - 86_400 * SECOND]),
        (["2020-01-01 00:00", "2020-01-01 00:00:05"], [NEW_YEAR, NEW_YEAR + 5 * SECOND]),
        (["2020-01-01T00:00:00.5", "2020-01-01T00:00:00.000000001"],
         [NEW_YEAR + SECOND // 2, NEW_YEAR + 1]),
        (["2020-01-01T02:00:00+02:00", "2019-12-31T19:30-0430"], [NEW_YEAR, NEW_YEAR]),
        (["2020-01-01T00:00:00Z", "2020-01-01T00:00:00+01"], [NEW_YEAR, NEW_YEAR - 3600 * SECOND]),
    ],
)  # fmt: skip
def test_iso_dates(tmp_path: Path, suffix: str, written: list[str], expected: list[int]) -> None:
    columns: Columns = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": written}
    rows = read_rows(write_table(tmp_path / f"my{suffix}", columns))
    assert times_of(rows) == expected
    assert rows.timestamps is not None
    assert rows.timestamps.dtype == np.int64


# --- parquet --------------------------------------------------------------------------------


def parquet_source(folder: Path, **columns: pa.Array) -> OwnFiles:
    """Interactions of three rows; the columns replace the usual ones."""
    usual = {"user_id": ["u", "u", "u"], "item_id": ["1", "2", "3"], "timestamp": [1, 2, 3]}
    pq.write_table(pa.table({**usual, **columns}), folder / "my.parquet")
    return source_of(folder / "my.parquet")


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["7", "30", "7"], pa.large_string()),
        pa.array(["7", "30", "7"]).dictionary_encode(),
        pa.array([7, 30, 7], pa.int8()),
        pa.array([7, 30, 7], pa.uint64()),
        pa.array([7, 30, 7]).dictionary_encode(),
        pa.array([7.0, 30.0, 7.0], pa.float32()),
        pa.array([7.0, 30.0, 7.0], pa.float64()),
    ],
    ids=str,
)
def test_parquet_names(tmp_path: Path, array: pa.Array) -> None:
    for name in ("user_id", "item_id"):
        rows = parquet_source(tmp_path, **{name: array}).read_rows(NOWHERE)
        assert list(rows.users if name == "user_id" else rows.items) == ["7", "30", "7"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pa.array([1.0, 2.5, 3.0]), "row 2: item_id is 2.5, not a whole number"),
        (pa.array([1.0, float("nan"), 3.0]), "row 2: item_id is nan, not a whole number"),
        (pa.array([1.0, 2.0, float("inf")]), "row 3: item_id is inf, not a whole number"),
        (pa.array([1.0, 1e17, 3.0]), "row 2: item_id is 1e+17, not a whole number"),
        (pa.array([1, None, 3]), "row 2: item_id is missing (null)"),
        (pa.array(["a", "b", None]), "row 3: item_id is missing (null)"),
        (pa.array(["a", None, "b"]).dictionary_encode(), "row 2: item_id is missing (null)"),
        (pa.nulls(3), "row 1: item_id is missing (null)"),
        (pa.array([True, False, True]), "item_id is of type bool, expected text or whole numbers"),
        (pa.array([b"a", b"b", b"c"]), "item_id is of type binary, expected text"),
        (pa.array([[1], [2], [3]]), "item_id is of type list<"),
        (pa.array([datetime.date(2020, 1, 1)] * 3), "item_id is of type date32"),
    ],
    ids=str,
)
def test_bad_parquet_names(tmp_path: Path, array: pa.Array, message: str) -> None:
    found = refused(parquet_source(tmp_path, item_id=array))
    assert f"{tmp_path / 'my.parquet'}" in found
    assert message in found


DAYS = [datetime.datetime(2020, 1, day, tzinfo=datetime.UTC) for day in (2, 1, 3)]
DAY_TIMES = [NEW_YEAR + day * 86_400 * SECOND for day in (1, 0, 2)]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([5, -4, 6], pa.int16()), [5, -4, 6]),
        (pa.array([5, 4, 2**63 - 1], pa.uint64()), [5, 4, 2**63 - 1]),
        (pa.array([5.5, 4.0, 6.0], pa.float32()), [5.5, 4.0, 6.0]),
        (pa.array([decimal.Decimal("5.5")] * 3), [5.5] * 3),
        (pa.array([5, 4, 5]).dictionary_encode(), [5, 4, 5]),
        *((pa.array(DAYS, pa.timestamp(unit)), DAY_TIMES) for unit in ("s", "ms", "us", "ns")),
        (pa.array(DAYS, pa.timestamp("us", tz="Europe/Berlin")), DAY_TIMES),
        (pa.array([day.date() for day in DAYS], pa.date32()), DAY_TIMES),
        (pa.array([day.date() for day in DAYS], pa.date64()), DAY_TIMES),
    ],
    ids=str,
)
def test_parquet_times(tmp_path: Path, array: pa.Array, expected: list[Any]) -> None:
    rows = parquet_source(tmp_path, timestamp=array).read_rows(NOWHERE)
    assert times_of(rows) == expected
    whole = rows.timestamps is not None and rows.timestamps.dtype == np.int64
    assert whole == isinstance(expected[0], int)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pa.array([1.0, float("nan"), 2.0]), "row 2: timestamp is nan, not a finite number"),
        (pa.array([1.0, 2.0, float("-inf")]), "row 3: timestamp is -inf, not a finite number"),
        (pa.array([1, None, 3]), "row 2: timestamp is missing (null)"),
        (pa.array([1, 2, 2**64 - 1], pa.uint64()), "my.parquet cannot be read"),
        (pa.array(["1", "x", "3"]), "row 2: timestamp is 'x', not a finite number"),
        (pa.array([True, False, True]), "timestamp is of type bool, expected numbers"),
        (pa.array([1, 2, 3], pa.duration("s")), "timestamp is of type duration[s], expected"),
        (pa.array([datetime.datetime(9999, 1, 1)] * 3, pa.timestamp("us")), "cannot be read"),
        (pa.array([datetime.date(9999, 1, 1)] * 3), "cannot be read"),
    ],
    ids=str,
)
def test_bad_parquet_times(tmp_path: Path, array: pa.Array, message: str) -> None:
    found = refused(parquet_source(tmp_path, timestamp=array))
    assert f"{tmp_path / 'my.parquet'}" in found
    assert message in found


def test_parquet_texts(tmp_path: Path) -> None:
    events = write_table(tmp_path / "my.csv", EVENTS)
    source = source_of(events, tmp_path / "i.parquet")
    for titles, expected in (
        (pa.array(["A", None, "C"]), ["A", "", "C"]),
        (pa.array(["A", None, "C"]).dictionary_encode(), ["A", "", "C"]),
        (pa.array([1984, 2001, None]), ["1984", "2001", ""]),
        (pa.nulls(3), ["", "", ""]),
    ):
        pq.write_table(pa.table({"item_id": [1, 2, 3], "title": titles}), tmp_path / "i.parquet")
        texts = source.read_texts(NOWHERE) or {}
        assert [texts[str(n)].title for n in (1, 2, 3)] == expected
    pq.write_table(pa.table({"item_id": [1], "title": [["a"]]}), tmp_path / "i.parquet")
    with pytest.raises(UserError, match=r"title is of type list<.*>, expected text"):
        source.read_texts(NOWHERE)


def test_parquet_reads_no_other_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    read = pq.ParquetFile.read

    def spy(self: Any, *args: Any, **options: Any) -> Any:
        asked.append(sorted(options["columns"]))
        return read(self, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "read", spy)
    source = parquet_source(tmp_path, **{"user.id": pa.array(["v"] * 3), "huge": pa.nulls(3)})
    source.read_rows(NOWHERE)
    assert asked == [["item_id", "timestamp", "user_id"]]
    dotted = source_of(tmp_path / "my.parquet", columns={"user": "user.id", "timestamp": "none"})
    assert list(dotted.read_rows(NOWHERE).users) == ["v"] * 3


def test_damaged_parquet(tmp_path: Path) -> None:
    parquet_source(tmp_path)
    content = (tmp_path / "my.parquet").read_bytes()
    for damaged in (b"", b"PAR1", content[:-9], content[: len(content) // 2], b"x" * 1000):
        (tmp_path / "my.parquet").write_bytes(damaged)
        assert "my.parquet cannot be read" in refused(source_of(tmp_path / "my.parquet"))


# --- identity, names, options ---------------------------------------------------------------


def test_identity_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()

    def source() -> OwnFiles:
        return source_of(tmp_path / "my.csv", tmp_path / "i.csv")

    write_table(tmp_path / "my.csv", EVENTS)
    write_table(tmp_path / "i.csv", ITEMS)
    here = source()
    there = source_of(
        write_table(tmp_path / "b" / "your.csv", EVENTS),
        write_table(tmp_path / "b" / "x.csv", ITEMS),
    )
    assert here.identity == there.identity
    text = json.dumps(here.identity)
    assert str(tmp_path) not in text
    assert "my.csv" not in text
    assert set(here.row_inputs()) == {"my.csv"}
    assert set(here.text_inputs()) == {"i.csv"}
    for inputs in (here.row_inputs(), here.text_inputs()):
        (checksum,) = inputs.values()
        assert checksum.startswith("sha256:")
        assert checksum in text
    write_table(tmp_path / "i.csv", {**ITEMS, "title": ["new"] * 4})
    assert source().identity != there.identity
    write_table(tmp_path / "i.csv", ITEMS)
    assert source().identity == there.identity
    write_table(tmp_path / "my.csv", {**EVENTS, "timestamp": [1] * 7})
    assert source().identity != there.identity


def test_identity_is_of_the_options(tmp_path: Path) -> None:
    path = write_table(tmp_path / "my.csv", {**EVENTS, "user": EVENTS["user_id"]})
    plain = source_of(path).identity
    assert plain == source_of(path, columns={"user": None, "item": "item_id"}).identity
    assert plain != source_of(path, columns={"user": "user"}).identity
    assert plain != source_of(path, columns={"timestamp": "none"}).identity
    assert plain != source_of(path, delimiter=";").identity
    # The same bytes under another suffix are read otherwise.
    (tmp_path / "my.tsv").write_bytes(path.read_bytes())
    assert plain != source_of(tmp_path / "my.tsv").identity


def test_two_files_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    source = source_of(
        write_table(tmp_path / "data.csv", EVENTS), write_table(tmp_path / "b" / "data.csv", ITEMS)
    )
    assert len({**source.row_inputs(), **source.text_inputs()}) == 2


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    good = write_table(tmp_path / "my.csv", EVENTS)
    for suffix in FORMATS:
        missing = tmp_path / f"none{suffix}"
        assert refused(source_of(missing)) == f"{missing} does not exist"
        with pytest.raises(UserError, match="does not exist"):
            source_of(missing).row_inputs()
    with pytest.raises(UserError, match="does not exist"):
        source_of(good, tmp_path / "none.csv").text_inputs()
    assert "folder.csv cannot be read: it is a folder" in refused(
        source_of(tmp_path / "folder.csv")
    )


def test_an_empty_first_line_is_not_an_empty_file(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "\nuser_id:token\titem_id:token\nu\ta\n", "my.inter")
    assert "line 1: '' is not a header field" in refused(source_of(path))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "it is damaged, or needs more memory than there is"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError("Corrupt\n  footer"), "Corrupt footer"),
        (ValueError("x" * 5_000), "x" * 300),
        (pa.ArrowNotImplementedError("no"), "no"),
        (RecursionError("deep"), "deep"),
        (OverflowError(), "OverflowError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_reading_raises_is_one_line(error: Exception, message: str) -> None:
    path = Path("my.csv")
    with pytest.raises(UserError) as caught, reading(path):
        raise error
    assert str(caught.value) == f"my.csv cannot be read: {message}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interactions": "my.txt"}, r"dataset\.interactions must be .* in one of \.inter, \.csv"),
        ({"interactions": "my.item"}, r"dataset\.interactions must be"),
        ({"items": "my.inter"}, r"dataset\.items must be .* \.item, \.csv, \.tsv, \.parquet"),
        ({"interactions": None}, r"dataset\.interactions must be the path"),
        ({"interactions": 5}, r"dataset\.interactions must be the path"),
        ({"colour": "red"}, "source has no key 'colour'"),
        ({"columns": {"users": "u"}}, r"dataset\.columns has no key 'users'; it knows user, item"),
        ({"columns": {"title": "name"}}, r"dataset\.columns\.title needs a file of items"),
        ({"delimiter": ",,"}, r"dataset\.delimiter must be one character"),
        ({"delimiter": '"'}, r"dataset\.delimiter must be"),
        ({"delimiter": ""}, r"dataset\.delimiter must be"),
        ({"delimiter": 1}, r"dataset\.delimiter must be"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        OwnFiles({"kind": "files", "interactions": "my.csv", **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("my.inter", "my"),
        ("/some/where/My Data (v2).csv", "my-data-v2"),
        ("ml-1m.inter", "ml-1m"),
        ("_x_.y.parquet", "x_.y"),
        ("数据.csv", "custom"),
        ("None", "none"),
    ],
)
def test_default_names(path: str, name: str) -> None:
    assert default_name(path) == name
