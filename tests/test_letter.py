"""LETTER's and IDGenRec's files: the readers on small files, and the real ones where at hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.data.config import DatasetConfig
from benchmark.data.download import MIRROR_VARIABLE, OFFLINE_VARIABLE, Unavailable
from benchmark.data.encoder import EncoderConfig
from benchmark.data.interactions import canonical
from benchmark.data.letter import (
    match_items,
    read_key_phrases,
    read_letter_rows,
    read_letter_texts,
    read_user_sequences,
)
from benchmark.data.prepare import Prepared, prepare
from benchmark.data.source import ItemText
from benchmark.data.sources import open_source
from benchmark.data.split import Phase, Split
from benchmark.errors import UserError
from benchmark.recommender import BenchmarkData
from tests.conftest import dataset_config

Write = Callable[[str, bytes], Path]
PHASES: tuple[Phase, ...] = ("valid", "test")


def test_rows_by_hand(write_atomic: Write) -> None:
    path = write_atomic("a.inter.json", b'\xef\xbb\xbf{"1": [7, 0, 7], "0": [2]}\r\n')
    rows = read_letter_rows(path)
    assert rows.users == ["1", "1", "1", "0"]
    assert rows.items == ["7", "0", "7", "2"]
    assert rows.timestamps is None


def test_texts_by_hand(write_atomic: Write) -> None:
    path = write_atomic("a.item.json", b'{"0": {"title": " Soap ", "description": "Pears"}}')
    assert read_letter_texts(path) == {"0": ItemText("Soap", "Pears")}
    path = write_atomic("a.item.json", b'{"0": {"title": "Soap", "brand": 3}}')
    assert read_letter_texts(path) == {"0": ItemText("Soap", "")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"<html>", "is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1, 2]", "must hold a JSON object, not list"),
        (b'{"0": [1', "is not JSON"),
        (b'{"0": [1], "0": [2]}', "the key '0' appears twice"),
        (b'{"0": 1}', "user '0' must have a list"),
        (b'{"": [1]}', "has an entry without a name"),
        (b'{"\\ud800": [1]}', "has a name that is not Unicode"),
        (b'{"0": [1, "2"]}', "user '0' has the item '2', which is not a whole number"),
        (b'{"0": [1, true]}', "has the item 'True'"),
        (b'{"0": [-1]}', "has the item '-1'"),
        (b'{"0": [1.0]}', "has the item '1.0'"),
        (b'{"0": [NaN]}', "has the item 'nan'"),
        (b"{}", "holds no interactions"),
        (b'{"0": []}', "holds no interactions"),
        (b'{"0": "\xff"}', "line 1: not UTF-8"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bad_rows_are_one_clear_line(write_atomic: Write, content: bytes, message: str) -> None:
    path = write_atomic("bad.inter.json", content)
    with pytest.raises(UserError) as caught:
        read_letter_rows(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "holds no items"),
        (b'{"0": "Soap"}', "item '0' must have a title"),
        (b'{"0": {}}', "item '0' must have a title"),
        (b'{"": {"title": "Soap"}}', "has an entry without a name"),
        (b'{"0": {"title": "\\udfff"}}', "the text of item '0' is not Unicode"),
        (b'{"0": {"title": 3}}', "item '0' must have a title"),
        (b'{"0": {"title": "a", "description": ["b"]}}', "item '0' must have a title"),
    ],
)
def test_bad_texts_are_one_clear_line(write_atomic: Write, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_letter_texts(write_atomic("bad.item.json", content))


def test_key_phrases_and_sequences(write_atomic: Write) -> None:
    path = write_atomic("phrases.txt", b"B1 red soap\r\nB2  blue   soap\nB3 \n")
    assert read_key_phrases(path) == {"B1": "red soap", "B2": "blue   soap", "B3": ""}
    path = write_atomic("sequences.txt", b"ann B1 B2 B1\nbob B2\n")
    assert read_user_sequences(path) == [["B1", "B2", "B1"], ["B2"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"B1\n", "line 1: expected an item"),
        (b"B1 soap\n\nB2 soap\n", "line 2: the line is empty"),
        (b"B1 soap\nB1 soup\n", "line 2: item 'B1' appears twice"),
        (b" soap\n", "line 1: expected an item"),
    ],
)
def test_bad_key_phrases(write_atomic: Write, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_key_phrases(write_atomic("bad.txt", content))


def test_items_are_matched_by_position(write_atomic: Write) -> None:
    rows = read_letter_rows(write_atomic("a.inter.json", b'{"0": [0, 1, 0], "1": [2, 1]}'))
    where = Path("sequences.txt")
    assert match_items(rows, [["A", "B", "A"], ["C", "B"]], where) == {"0": "A", "1": "B", "2": "C"}
    for sequences, message in (
        ([["A", "B", "A"]], "1 users with 3 items against 2 with 5"),
        ([["A", "B"], ["A", "C", "B"]], "or other lengths"),
        ([["A", "B", "C"], ["C", "B"]], "item 0 is both A and C"),
        ([["A", "B", "A"], ["A", "B"]], "A is both 0 and 2"),
    ):
        with pytest.raises(UserError, match=message):
            match_items(rows, sequences, where)


# --- as sources -----------------------------------------------------------------------------

FILES = {
    "letter/a.inter.json": b'{"0": [0, 1, 0], "1": [2, 1, 0, 1]}',
    "letter/a.item.json": b'{"0": {"title": "Soap", "description": "Pears"}}',
    "idgenrec/phrases.txt": b"C blue jar\nA red soap\nB \nZ unknown\n",
    "idgenrec/sequences.txt": b"ann A B A\nbob C B A B\n",
}


def options(kind: str, files: dict[str, bytes] = FILES) -> dict[str, Any]:
    """A source's options that pin the files."""

    def pin(name: str) -> dict[str, str]:
        return {"path": f"x/{name}", "name": name.partition("/")[2],
                "sha256": hashlib.sha256(files[name]).hexdigest()}  # fmt: skip

    pins = {"repository": "somewhere", "commit": "c0ffee", "url": "http://127.0.0.1:9/{path}"}
    source = {"kind": kind, **pins, "interactions": pin("letter/a.inter.json")}
    if kind == "letter":
        return {**source, "items": pin("letter/a.item.json"), "text": "title"}
    phrases, sequences = pin("idgenrec/phrases.txt"), pin("idgenrec/sequences.txt")
    return {**source, "texts": {**pins, "phrases": phrases, "sequences": sequences}}


@pytest.fixture
def small_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    monkeypatch.setenv(MIRROR_VARIABLE, str(folder))
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    return folder


def config_of(source: dict[str, Any]) -> DatasetConfig:
    return DatasetConfig("toy", "Toy", source, EncoderConfig("m", "path", path="unused"))


@pytest.mark.parametrize(
    ("kind", "texts"),
    [("letter", ["Soap. Pears", "", ""]), ("idgenrec", ["red soap", "", "blue jar"])],
)
def test_texts_come_to_their_items(
    small_mirror: Path, tmp_path: Path, kind: str, texts: list[str]
) -> None:
    done = prepare(config_of(options(kind)), 50, None, tmp_path / "cache", "texts")
    assert done.interactions.texts == texts
    assert done.data.split.items.tolist() == [0, 1, 0, 2, 1, 0, 1]
    assert done.manifest["items_without_text"] == texts.count("")
    assert done.manifest["facts"]["repeats"]["users"] == 2
    encoder = EncoderConfig("m", "path", path="unused", template="A {title}!")
    other = replace(config_of(options(kind)), encoder=encoder)
    again = prepare(other, 50, None, tmp_path / "cache", "texts").interactions.texts
    assert again == [f"A {text.partition('.')[0]}!" if text else "" for text in texts]


@pytest.mark.parametrize("kind", ["letter", "idgenrec"])
def test_identity_is_the_content_of_every_file(kind: str) -> None:
    identity = open_source(options(kind)).identity
    used = [name for name in FILES if name.startswith("letter/a.inter") or kind in name]
    for name in used:
        other = open_source(options(kind, {**FILES, name: b"other"})).identity
        assert other != identity, name
    moved = {**options(kind), "url": "https://elsewhere/{path}"}
    assert open_source(moved).identity == identity


def test_texts_are_read_again_where_only_the_interactions_changed(
    small_mirror: Path, tmp_path: Path
) -> None:
    """The interactions decide which key phrase an item gets."""
    name = "letter/a.inter.json"
    before = prepare(config_of(options("idgenrec")), 50, None, tmp_path / "cache", "texts")
    files = {**FILES, name: b'{"0": [1, 0, 1], "1": [2, 0, 1, 0]}'}
    (small_mirror / name).write_bytes(files[name])
    after = prepare(config_of(options("idgenrec", files)), 50, None, tmp_path / "cache", "texts")
    assert before.interactions.texts == ["red soap", "", "blue jar"]
    assert after.interactions.texts == ["", "red soap", "blue jar"]
    source = open_source(options("idgenrec"))
    assert set(source.row_inputs()) < set(source.text_inputs())


def test_an_item_without_a_phrase_line_and_texts_of_other_items(
    small_mirror: Path, tmp_path: Path
) -> None:
    files = {**FILES, "idgenrec/phrases.txt": b"A red soap\nB jar\n",
             "letter/a.item.json": b'{"77": {"title": "Soap"}}'}  # fmt: skip
    for name, content in files.items():
        (small_mirror / name).write_bytes(content)
    with pytest.raises(UserError, match=r"phrases\.txt has no key phrase for the item C"):
        prepare(config_of(options("idgenrec", files)), 50, None, tmp_path / "cache", "texts")
    with pytest.raises(UserError, match=r"none of the 3 items has a text in letter/a\.item\.json"):
        prepare(config_of(options("letter", files)), 50, None, tmp_path / "cache", "texts")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "http://127.0.0.1/{commit}/{branch}"}, "cannot be filled in"),
        ({"url": "ftp://127.0.0.1/{path}"}, "must start with http"),
        ({"interactions": {"path": "a"}}, "needs a sha256 or a git_blob"),
        ({"interactions": {"path": "a", "sha256": "0"}}, "64 hexadecimal digits"),
        ({"interactions": {"path": "a", "md5": "0"}}, "source.interactions has no key 'md5'"),
        ({"interactions": {"path": "a", "name": "../b", "sha256": "0" * 64}}, "plain relative"),
        ({"colour": "red"}, "source has no key 'colour'"),
    ],
)
def test_impossible_pins_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_source({**options("letter"), **change})


# --- the split of what LETTER's files say, as properties ------------------------------------

users_of = st.dictionaries(
    st.integers(0, 30).map(str),
    st.lists(st.integers(0, 9), min_size=1, max_size=9),
    min_size=1,
    max_size=6,
)
small_files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def user_rows(split: Split, tokens: list[str], items: list[str]) -> dict[str, dict[str, object]]:
    """Each user's rows by phase, in the source's own names: [(history, target), ...]."""

    def named(positions: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[object]:
        histories, lengths = split.histories(positions)
        return [
            ([items[i] for i in row[:length]], items[split.items[position]])
            for row, length, position in zip(histories, lengths, positions, strict=True)
        ]

    train = split.train_positions
    return {
        token: {
            "train": named(train[split.user_of[train] == user]),
            **{phase: named(split.positions(phase)[[user]]) for phase in PHASES},
        }
        for user, token in enumerate(tokens)
    }


@small_files
@given(users_of, st.randoms(use_true_random=False))
def test_every_user_has_his_rows_in_order_whatever_the_order_of_users(
    tmp_path: Path, sequences: dict[str, list[int]], random: object
) -> None:
    shuffled = list(sequences.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    found = []
    for order in (list(sequences.items()), shuffled):
        path = tmp_path / "a.inter.json"
        path.write_text(json.dumps(dict(order)), encoding="utf-8")
        try:
            data = canonical(read_letter_rows(path))
        except UserError:
            assert max(map(len, sequences.values())) < 3
            return
        found.append((user_rows(data.split(), data.user_tokens, data.item_tokens), data.item))
    assert found[0][0] == found[1][0]
    assert found[0][1].tolist() == found[1][1].tolist()
    kept = {user: [str(i) for i in own] for user, own in sequences.items() if len(own) >= 3}
    assert found[0][0] == {
        user: {
            "train": [(own[:n], own[n]) for n in range(1, len(own) - 2)],
            "valid": [(own[:-2], own[-2])],
            "test": [(own[:-1], own[-1])],
        }
        for user, own in kept.items()
    }


# --- the real files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "train_rows", "users", "items", "interactions"),
    [
        ("beauty", 131_413, 22_363, 12_101, 198_502),
        ("beauty/keyphrases", 131_413, 22_363, 12_101, 198_502),
        ("instruments", 131_837, 24_772, 9_922, 206_153),
        ("yelp", 225_061, 30_431, 20_033, 316_354),
    ],
)
def test_counts_of_the_paper(
    mirror: Path, data_cache: Path, name: str, train_rows: int, users: int, items: int,
    interactions: int,
) -> None:  # fmt: skip
    done = prepare(dataset_config(name), 50, None, data_cache, "rows")
    split = done.data.split
    assert len(split.train_positions) == train_rows
    assert (split.n_users, split.n_items, len(split.items)) == (users, items, interactions)
    assert done.manifest["facts"]["dropped_users"] == 0
    # LETTER numbers users and items from 0, and ours are its numbers.
    assert done.interactions.user_tokens == [str(n) for n in range(users)]
    assert done.interactions.item_tokens == [str(n) for n in range(items)]


@pytest.fixture(scope="module")
def yelp(mirror: Path, data_cache: Path) -> Prepared:
    return prepare(dataset_config("yelp"), 50, None, data_cache, "texts")


def test_yelp_is_the_file_position_by_position(mirror: Path, yelp: Prepared) -> None:
    """Repeats survive: each sequence is the file's, item by item."""
    raw = json.loads((mirror / "letter" / "Yelp.inter.json").read_text(encoding="utf-8"))
    split = yelp.data.split
    assert split.items.tolist() == [item for own in raw.values() for item in own]
    assert np.diff(split.offsets).tolist() == [len(own) for own in raw.values()]
    repeating = [user for user, own in raw.items() if len(set(own)) < len(own)]
    assert len(repeating) == 7_102
    assert len(set(split.user_of[split.is_repeat].tolist())) == 7_102
    assert yelp.interactions.texts is not None
    assert yelp.interactions.texts[0] == (
        "The Great Greek. Diners, Greek, Mediterranean, Restaurants"
    )
    assert all(yelp.interactions.texts)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_candidates_where_items_repeat(yelp: Prepared, exclude_seen: bool) -> None:
    """A target that was seen is a candidate like any other, unless seen items are left out."""
    from baselines.pop import Pop

    split = yelp.data.split
    repeated = np.flatnonzero(split.is_repeat[split.positions("test")])
    assert len(repeated) == yelp.manifest["repeated_targets"]["test"] > 0
    method = Pop()
    data = BenchmarkData("yelp", split)
    from benchmark.store import RunFolder

    method.fit(data, 0, RunFolder(yelp.folder / "unused", yelp.folder, "cpu"))
    users = repeated[:200]
    ranking = method.rank(data, users, split.n_items, "test", exclude_seen)
    targets = split.targets("test")[users]
    listed = (ranking.items == targets[:, None]).any(axis=1)
    assert listed.all() if not exclude_seen else not listed.any()
    if exclude_seen:
        for row, user in zip(ranking.items, users, strict=True):
            seen = set(split.seen(int(user), "test").tolist())
            assert seen.isdisjoint(row[row >= 0].tolist())
            assert (row >= 0).sum() == split.n_items - len(seen)


def test_key_phrases_of_the_real_beauty(mirror: Path, data_cache: Path) -> None:
    done = prepare(dataset_config("beauty/keyphrases"), 50, None, data_cache, "texts")
    texts = done.interactions.texts
    assert texts is not None
    assert len(texts) == 12_101
    assert texts.count("") == done.manifest["items_without_text"] == 1  # B001LTVF7G
    # Item 0 of LETTER's first user is the first item of IDGenRec's first user.
    lines = (mirror / "idgenrec" / "Beauty.user_sequence.txt").read_text().splitlines()
    phrases = (mirror / "idgenrec" / "Beauty.item_generative_indexing_phase_0.txt").read_text()
    first = lines[0].split()[1]
    assert f"{first} {texts[0]}\n" in phrases
    assert done.manifest["text_source"] == "IDGenRec: key phrase"


@pytest.mark.parametrize(("name", "file"), [("beauty", "Beauty"), ("instruments", "Instruments")])
def test_texts_that_cannot_be_had(
    mirror: Path, data_cache: Path, name: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (data_cache / "downloads" / "letter" / f"{file}.item.json").exists():
        pytest.skip("the file is at hand")
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    with pytest.raises(Unavailable) as caught:
        prepare(dataset_config(name), 50, None, data_cache, "texts")
    message = str(caught.value)
    assert f"{file}.item.json" in message
    assert "https://raw.githubusercontent.com/HonghuiBao2000/LETTER/" in message
    assert str(data_cache / "downloads" / "letter" / f"{file}.item.json") in message
    assert "\n" not in message
