"""Precomputed item vectors: tables, maps from items to rows, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.data.embed import Embeddings, item_embeddings
from benchmark.data.encoder import EncoderConfig
from benchmark.data.source import Vectors
from benchmark.data.vectors import read_rows
from benchmark.errors import UserError
from benchmark.store import sha256_file

TABLE = np.arange(18, dtype=np.float32).reshape(6, 3)
TOKENS = ["B001", "77", "x y"]


def take(
    config: EncoderConfig,
    tokens: Sequence[str] = TOKENS,
    vectors: Callable[[], Vectors | None] = lambda: None,
) -> Embeddings:
    n = len(tokens)
    return item_embeddings(
        config,
        Path("never-used"),
        texts=None,
        tokens=tokens,
        catalogue_row=np.arange(n),
        n_catalogue=n,
        vectors=vectors,
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    np.save(tmp_path / "table.npy", TABLE)
    return tmp_path / "table.npy"


def mapped(table: Path, content: Any, base: int = 0, **options: Any) -> EncoderConfig:
    """A config whose map is ``content``, as JSON or as bytes."""
    path = table.with_name("rows.json")
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return EncoderConfig("mine", "npy", path=str(table), rows=str(path), row_base=base, **options)


@pytest.mark.parametrize("base", [0, 1, 100])
def test_map_says_which_row(table: Path, base: int) -> None:
    rows = {"x y": base, "77": base + 5, "B001": base + 2, "[PAD]": base - 1, "other": 10**30}
    done = take(mapped(table, rows, base))
    assert done.values.dtype == np.float32
    assert done.values.tolist() == TABLE[[2, 5, 0]].tolist()


def test_released_map_counts_from_one_and_its_table_has_no_padding_row(table: Path) -> None:
    rows = {"[PAD]": 0, **{token: 1 + i for i, token in enumerate(["a", "b", "c", "d", "e", "f"])}}
    done = take(mapped(table, rows, 1), ["f", "a"])
    assert done.values.tolist() == TABLE[[5, 0]].tolist()
    with pytest.raises(
        UserError, match=r"gives 1 items a row .* such as 6 to 'f': .* 0 to 5 \(enc"
    ):
        take(mapped(table, rows, 0), ["a", "f"])


def test_identity_is_the_table_and_the_rows_taken(table: Path) -> None:
    rows = {token: i for i, token in enumerate(TOKENS)}
    first = take(mapped(table, rows))
    assert first.sha256 == take(mapped(table, {**rows, "more": 5})).sha256
    assert first.sha256 == take(mapped(table, {t: i + 1 for t, i in rows.items()}, 1)).sha256
    assert first.sha256 != take(mapped(table, {**rows, "77": 5})).sha256
    assert first.sha256 != take(mapped(table, rows, normalize=True), ["77", "x y", "77"]).sha256
    np.save(table, TABLE + 1)
    assert first.sha256 != take(mapped(table, rows)).sha256
    assert first.made["shape"] == [6, 3]
    assert first.made["dtype"] == "float32"


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_float_types(table: Path, dtype: str) -> None:
    np.save(table, TABLE.astype(dtype))
    done = take(EncoderConfig("mine", "npy", path=str(table)), [str(i) for i in range(6)])
    assert done.values.dtype == np.dtype("f4")
    assert done.values.dtype.isnative
    assert done.values.tolist() == TABLE.tolist()


def test_error_names_the_row_of_the_table(table: Path) -> None:
    values = TABLE.copy()
    values[4, 1] = np.inf
    np.save(table, values)
    take(mapped(table, {"a": 3}), ["a"])  # a bad row that no item needs does no harm
    with pytest.raises(UserError, match=r"not finite .first in row 4"):
        take(mapped(table, {"a": 3, "b": 4}), ["a", "b"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2, 3], "must hold a JSON object"),
        (b"3", "must hold a JSON object"),
        ({"B001": 1.0}, "the row of 'B001' is 1.0, not a whole number"),
        ({"B001": True}, "the row of 'B001' is True, not"),
        ({"B001": "1"}, "the row of 'B001' is '1', not"),
        ({"B001": None}, "not a whole number"),
        ({"B001": {"row": 1}}, "not a whole number"),
        (b'{"B001": 1, "77": 2, "B001": 3}', "the key 'B001' appears twice"),
        (b'{"B001": NaN}', "not a whole number"),
        (b'{"B001": ' + b"9" * 5000 + b"}", "not JSON of this kind"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"", "not JSON of this kind"),
        (b"\xff\xfe{", "not UTF-8"),
        ({"B001": 1, "77": 2}, "lacks 1 of the data set's 3 items, such as 'x y'"),
        ({}, "lacks 3 of the data set's 3 items, such as 'B001'"),
        ({"B001": 1, "77": 6, "x y": 2}, "gives 1 items a row .* such as 6 to '77'.* 0 to 5"),
        ({"B001": -1, "77": 0, "x y": 2}, "gives 1 items a row .* such as -1 to 'B001'"),
        ({"B001": 10**30, "77": 0, "x y": 2}, "gives 1 items a row"),
    ],
)
def test_bad_map_is_one_line(table: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        take(mapped(table, content))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_rows(path) == {"a": 1}


def test_missing_files(table: Path) -> None:
    gone = str(table.with_name("gone"))
    with pytest.raises(UserError, match=r"gone does not exist"):
        take(EncoderConfig("mine", "npy", path=str(table), rows=gone))
    with pytest.raises(UserError, match=r"encoder.path: .*gone does not exist"):
        take(EncoderConfig("mine", "npy", path=gone))


def test_error_without_a_map_says_that_there_is_one(table: Path) -> None:
    with pytest.raises(UserError, match=r"shape \[6, 3\].*encoder.rows names a JSON file"):
        take(EncoderConfig("mine", "npy", path=str(table)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a plain .npy array"),
        (b"\x93NUMPY\x01\x00", "not a plain .npy array"),
        (b"PK\x03\x04", "not a plain .npy array"),
    ],
)
def test_bad_table_is_one_line(table: Path, content: bytes, message: str) -> None:
    table.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        take(EncoderConfig("mine", "npy", path=str(table)))
    assert "\n" not in str(caught.value)


def test_cut_table_and_several_tables(table: Path) -> None:
    table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"not a plain .npy array"):
        take(EncoderConfig("mine", "npy", path=str(table)))
    np.savez(table.with_suffix(".npz"), a=TABLE, b=TABLE)
    with pytest.raises(UserError, match=r"not a plain .npy array"):
        take(EncoderConfig("mine", "npy", path=str(table.with_suffix(".npz"))))


def test_vectors_of_the_data_set(table: Path) -> None:
    brought = Vectors(table, {"x y": 0, "77": 5, "B001": 2})
    config = EncoderConfig("llama", "dataset")
    done = take(config, vectors=lambda: brought)
    assert done.values.tolist() == TABLE[[2, 5, 0]].tolist()
    assert done.made == {"table_sha256": sha256_file(table), "shape": [6, 3], "dtype": "float32"}
    assert done.sha256 == take(mapped(table, dict(brought.row))).sha256
    with pytest.raises(UserError, match=r"own map .* lacks 1 of .* such as 'new'.*encoder.rows"):
        take(config, ["77", "new"], lambda: brought)
    with pytest.raises(UserError, match="not the expected one"):
        take(EncoderConfig("llama", "dataset", sha256="0" * 64), vectors=lambda: brought)
    with pytest.raises(UserError, match=r"the data set's vectors: .* does not exist"):
        take(config, vectors=lambda: brought._replace(path=table.with_name("gone")))


def test_data_set_without_vectors(table: Path) -> None:
    with pytest.raises(UserError, match="brings no vectors"):
        take(EncoderConfig("llama", "dataset"))


def test_vectors_are_fetched_only_if_asked_for(table: Path) -> None:
    def never() -> Vectors:
        raise AssertionError

    take(mapped(table, {"a": 1}), ["a"], never)
