"""The authors' released files: reading, rebuilding, fetching, and the comparison with LETTER's."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import released
from benchmark.config import compose_config
from benchmark.data import checkpoint, transfer
from benchmark.data.checkpoint import checkpoint_records, fetch_checkpoint
from benchmark.data.download import MIRROR_VARIABLE, OFFLINE_VARIABLE, Downloads, Unavailable
from benchmark.data.interactions import canonical
from benchmark.data.letter import read_letter_rows
from benchmark.data.release import DigerRelease, LetterWithReleasedVectors
from benchmark.data.release_rows import PhaseRows, check_sequences, rebuild
from benchmark.data.sources import SOURCES
from benchmark.errors import UserError
from benchmark.store import sha256_file
from tests.file_server import FileServer

REVISION = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/released-data"
Sequences = list[list[int]]
DEAD_HUB = "http://127.0.0.1:9"  # nothing listens there


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (MIRROR_VARIABLE, OFFLINE_VARIABLE, "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "BACKOFF_SECONDS", 0.0)


# --- a small release ------------------------------------------------------------------------


def leave_one_out(sequences: Sequences) -> PhaseRows:
    """The rows by their definition: every prefix, the last 50 of it, and what comes next."""
    rows = PhaseRows([], [], [])
    for sequence in sequences:
        for i in range(1, len(sequence)):
            left = len(sequence) - 1 - i
            phase = rows.test if left == 0 else rows.valid if left == 1 else rows.train
            phase.append((tuple(sequence[:i][-50:]), sequence[i]))
    return rows


def write_release(
    folder: Path, sequences: Sequences, seed: int = 0, tokens: list[str] | None = None
) -> dict[str, Any]:
    """Write released files to a mirror; the source's options. Training and valid rows come in
    any order; item i has row i + 1 of the map, whose lines come in any order too."""
    rng = np.random.default_rng(seed)
    n_items = max(map(max, sequences)) + 1
    tokens = tokens or [f"B{number:05}" for number in rng.permutation(99_999)[:n_items]]
    own = folder / "diger_release" / "toys"
    own.mkdir(parents=True, exist_ok=True)
    for phase, rows in leave_one_out(sequences)._asdict().items():
        order = range(len(rows)) if phase == "test" else rng.permutation(len(rows))
        with (own / f"toys.{phase}.jsonl").open("w", encoding="utf-8") as file:
            for index in order:
                history, target = rows[index]
                row = {
                    "user_id": int(index),
                    "inter_history": [tokens[item] for item in history],
                    "target_id": tokens[target],
                }
                file.write(json.dumps(row) + "\n")
    numbers = {tokens[item]: int(item) + 1 for item in rng.permutation(n_items)}
    (own / "toys.emb_map.json").write_text(json.dumps({"[PAD]": 0, **numbers}), encoding="utf-8")
    vectors = rng.standard_normal((n_items, 4)).astype(np.float32)
    np.save(own / "Toys.npy", vectors)
    return release_options(folder, [n_items, 4])


def release_options(folder: Path, shape: list[int]) -> dict[str, Any]:
    """The source's options for the files that are in the folder now."""
    names = {phase: f"toys.{phase}.jsonl" for phase in ("train", "valid", "test")}
    names |= {"emb_map": "toys.emb_map.json", "vectors": "Toys.npy"}
    files: dict[str, dict[str, Any]] = {
        key: {
            "path": f"toys/{name}",
            "sha256": sha256_file(folder / "diger_release" / "toys" / name),
        }
        for key, name in names.items()
    }
    files["vectors"]["shape"] = shape
    return {
        "kind": "diger_release", "hub": DEAD_HUB, "repository": REPOSITORY,
        "revision": REVISION, "files": files,
    }  # fmt: skip


def read(options: dict[str, Any], folder: Path) -> Sequences:
    """The sequences that the source gives, items as rows of the vectors."""
    source = DigerRelease(options)
    # The folder of the files is at once that of the downloads.
    downloads = Downloads(folder, offline=True)
    rows = source.read_rows(downloads)
    assert rows.timestamps is None
    row_of = source.read_vectors(downloads).row
    sequences: dict[str, list[int]] = {}
    for user, item in zip(rows.users, rows.items, strict=True):
        sequences.setdefault(user, []).append(row_of[item])
    assert list(sequences) == [str(number) for number in range(len(sequences))]
    return list(sequences.values())


def random_sequences(seed: int, n_items: int = 300) -> Sequences:
    """Sequences of 3 to 120 items with repeats; every item of the catalogue is in one."""
    rng = np.random.default_rng(seed)
    lengths = [*rng.integers(3, 121, size=6), 3, 50, 51, 52, 53, 100]
    sequences = [rng.integers(0, n_items, size=length).tolist() for length in lengths]
    sequences.append(rng.permutation(n_items)[:120].tolist())
    return [*sequences, [n_items - 1, 0, n_items - 1]]


def rebuilt(sequences: Sequences, seed: int) -> list[tuple[int, ...]]:
    """From the sequences' rows in any order back to sequences, checked as the source checks."""
    rng = np.random.default_rng(seed)
    rows = leave_one_out(sequences)
    for phase in rows:
        order = rng.permutation(len(phase))
        phase[:] = [phase[index] for index in order]
    found = rebuild(rows)
    check_sequences(found, rows, max(map(max, sequences)) + 1, "rows")
    assert leave_one_out([list(s) for s in found])._asdict().keys() == rows._asdict().keys()
    for own, other in zip(leave_one_out([list(s) for s in found]), rows, strict=True):
        assert Counter(own) == Counter(other)
    return found


# --- rebuilding -----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_sequences_come_back(seed: int) -> None:
    sequences = random_sequences(seed)
    assert Counter(rebuilt(sequences, seed)) == Counter(map(tuple, sequences))


PARTS = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=4), st.integers(1, 70)),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(users=st.lists(PARTS, min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_repeating_sequences_give_the_same_rows(
    users: list[list[tuple[list[int], int]]], seed: int
) -> None:
    """Users who share 50 items, and users who pass the same 50 items twice: there the sequences
    are not decided by their rows, and any that give the same rows are right."""
    sequences = []
    for parts in users:
        sequence = [item for part, times in parts for item in part * times][:160]
        sequences.append((sequence * 3)[: max(3, len(sequence))])
    rebuilt(sequences, seed)


def test_a_round_that_the_walk_leaves_out_is_put_back() -> None:
    # 0 once, then 1 2 again and again: from the history (1 2) * 25 one step back leads to 0 as
    # well as round once more.
    for seed in range(20):
        sequence = [0, *[1, 2] * 60]
        assert rebuilt([sequence], seed) == [tuple(sequence)]


def test_one_item_again_and_again() -> None:
    # Every history of 50 is the same, and those of 48 and 49 differ by their length only.
    for seed in range(5):
        rebuilt([[0] * length for length in range(46, 60)], seed)


def test_users_with_a_shared_past(tmp_path: Path) -> None:
    shared = list(range(60))
    sequences = [[70, *shared, 80], [71, *shared, 81], [72, *shared, 80], [*range(89, -1, -1)]]
    found = read(write_release(tmp_path, sequences), tmp_path)
    assert [sequence[-1] for sequence in found] == [80, 81, 80, 0]
    assert sorted(sequence[0] for sequence in found) == [70, 71, 72, 89]
    assert [sequence[1:-1] for sequence in found[:3]] == [shared] * 3


# --- the files ------------------------------------------------------------------------------


def test_release_is_read_back(tmp_path: Path) -> None:
    sequences = random_sequences(7)
    options = write_release(tmp_path, sequences)
    assert read(options, tmp_path) == sequences
    source = DigerRelease(options)
    downloads = Downloads(tmp_path, offline=True)
    assert source.revision == f"DIGER release {REVISION}"
    assert "LLaMA" in source.text_source
    assert source.read_texts(downloads) is None  # type: ignore[func-returns-value]
    vectors = source.read_vectors(downloads)
    tokens = {token for token, row in vectors.row.items() if row == 5}
    assert len(tokens) == 1
    numbers = json.loads((tmp_path / "diger_release/toys/toys.emb_map.json").read_text())
    assert numbers[tokens.pop()] == 6
    assert np.load(vectors.path).shape == (300, 4)
    assert source.row_inputs()["diger_release/toys/toys.test.jsonl"].startswith("sha256:")
    assert set(source.text_inputs()) == {
        "diger_release/toys/toys.emb_map.json",
        "diger_release/toys/Toys.npy",
    }


def test_identity_does_not_depend_on_the_hub(tmp_path: Path) -> None:
    options = write_release(tmp_path, [[0, 1, 2]])
    other = DigerRelease({**options, "hub": "https://mirror.example"})
    assert other.identity == DigerRelease(options).identity
    moved = {**options, "revision": "f" * 40}
    assert DigerRelease(moved).identity != other.identity


def test_tokens_may_be_numbers(tmp_path: Path) -> None:
    sequences = [[0, 1, 2, 1], [2, 0, 1]]
    write_release(tmp_path, sequences, tokens=["7", "11", "5"])
    for path in (tmp_path / "diger_release/toys").glob("*.jsonl"):
        text = path.read_text()
        for token in ("7", "11", "5"):
            text = text.replace(f'"{token}"', token)
        path.write_text(text)
    assert read(release_options(tmp_path, [3, 4]), tmp_path) == sequences


def test_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    sequences = random_sequences(3)
    write_release(tmp_path, sequences)
    for path in (tmp_path / "diger_release/toys").glob("*.json*"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read(release_options(tmp_path, [300, 4]), tmp_path) == sequences


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def row(history: list[object], target: object) -> bytes:
    return json.dumps({"inter_history": history, "target_id": target}).encode() + b"\n"


def with_line(phase: str, number: int, line: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / f"toys.{phase}.jsonl"
        lines = lines_of(path)
        lines[number - 1] = line
        path.write_bytes(b"".join(lines))

    return change


def without_row(phase: str, longest: int = 50) -> Callable[[Path], None]:
    """Drops the first row whose history is not longer than ``longest``."""

    def change(folder: Path) -> None:
        path = folder / f"toys.{phase}.jsonl"
        lines = lines_of(path)
        lengths = [len(json.loads(line)["inter_history"]) for line in lines]
        del lines[next(i for i, length in enumerate(lengths) if length <= longest)]
        path.write_bytes(b"".join(lines))

    return change


def with_rows_of_map(*rows: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        numbers = {f"item-{index}": number for index, number in enumerate(rows)}
        (folder / "toys.emb_map.json").write_text(json.dumps(numbers))

    return change


def content(name: str, data: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return change


def repeat_a_row(folder: Path) -> None:
    path = folder / "toys.valid.jsonl"
    path.write_bytes(path.read_bytes() + lines_of(path)[0])


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a training row is gone": (without_row("train"), "train rows"),
    "a short one is gone": (without_row("train", 9), r": 1 train rows missing \(one has \d items"),
    "a valid row is gone": (without_row("valid"), "1 valid rows missing"),
    "a test row is gone": (without_row("test"), "train rows too many.*1 valid rows too many"),
    "a row twice": (repeat_a_row, "1 valid rows too many"),
    "another target": (
        with_line("valid", 2, row(["PLACE"], "PLACE")),
        "valid.jsonl, line 2: the item 'PLACE' is not in the map",
    ),
    "the padding item": (
        with_line("train", 3, row(["[PAD]"], "[PAD]")),
        r"train.jsonl, line 3: the item '\[PAD\]' is not in the map",
    ),
    "not JSON": (with_line("train", 2, b"{oops\n"), "toys.train.jsonl, line 2: not JSON"),
    "a blank line": (with_line("train", 2, b"\n"), "toys.train.jsonl, line 2: not JSON"),
    "not UTF-8": (with_line("test", 1, b'{"\xff\n'), "test.jsonl, line 1: not UTF-8"),
    "a list": (with_line("test", 1, b"[1, 2]\n"), "line 1: expected an object with inter_history"),
    "no target": (
        with_line("test", 1, b'{"inter_history": ["a", "b"]}\n'),
        "line 1: expected an object with inter_history and target_id",
    ),
    "no history": (with_line("test", 2, b'{"target_id": "a"}\n'), "line 2: .* not none"),
    "an empty history": (with_line("valid", 1, row([], "a")), "1 to 50 items, not one of 0"),
    "a test history of one": (with_line("test", 1, row(["a"], "a")), "2 to 50 items, not one of 1"),
    "a long history": (with_line("train", 1, row(["a"] * 51, "a")), "not one of 51"),
    "a nested item": (with_line("train", 1, row([["a"]], "a")), "text or a whole number, not .*a"),
    "a truth value": (with_line("train", 1, row([True], "a")), "text or a whole number, not true"),
    "a fraction": (with_line("train", 1, row([1.5], 1)), "text or a whole number, not 1.5"),
    "a huge number": (with_line("train", 1, row([1], 1).replace(b"1", b"9" * 5000)), "line 1: "),
    "deep nesting": (with_line("train", 1, b"[" * 100_000 + b"\n"), "line 1: it is nested"),
    "an empty file": (content("toys.test.jsonl", b""), "toys.test.jsonl is empty"),
    "a map from 2": (with_rows_of_map(2, 3, 4), "3 items must be the numbers from 1 to 3"),
    "a map with a hole": (with_rows_of_map(0, 1, 3), "2 items must be the numbers from 1 to 2"),
    "a map with a repeat": (with_rows_of_map(1, 2, 2), "must be the numbers from 1 to 3, each"),
    "a map with text": (content("toys.emb_map.json", b'{"a": "1"}'), "'a' must have a row"),
    "a map with -1": (with_rows_of_map(1, -1), "must have a row number, not -1"),
    "a map with true": (content("toys.emb_map.json", b'{"a": true}'), "must have a row number"),
    "a map of padding": (with_rows_of_map(0), "holds no items"),
    "an item twice": (content("toys.emb_map.json", b'{"a": 1, "a": 2}'), "'a' appears twice"),
    "a map that is a list": (content("toys.emb_map.json", b"[]"), "must hold a JSON object"),
    "a map of another size": (with_rows_of_map(0, 1, 2), "has 2 items, the vectors have 300 rows"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_files_are_refused(fault: str, tmp_path: Path) -> None:
    change, message = FAULTS[fault]
    write_release(tmp_path, random_sequences(1))
    change(tmp_path / "diger_release" / "toys")
    with pytest.raises(UserError, match=message) as caught:
        read(release_options(tmp_path, [300, 4]), tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((299, 4)), r"shape \[300, 4\], not \[299, 4\]"),
        (np.zeros((300, 5)), r"shape \[300, 4\], not \[300, 5\]"),
        (np.zeros(300), r"shape \[300, 4\], not \[300\]"),
        (np.zeros((300, 4), dtype=np.int64), "floating-point numbers, not int64"),
        (np.array([{}] * 1200).reshape(300, 4), "is not a plain .npy array"),
        (None, "is not a plain .npy array"),
    ],
)
def test_other_tables_are_refused(table: Any, message: str, tmp_path: Path) -> None:
    write_release(tmp_path, random_sequences(1))
    path = tmp_path / "diger_release" / "toys" / "Toys.npy"
    if table is None:
        path.write_bytes(path.read_bytes()[:50])
    else:
        np.save(path, table)
    source = DigerRelease(release_options(tmp_path, [300, 4]))
    with pytest.raises(UserError, match=message):
        source.read_vectors(Downloads(tmp_path, offline=True))


class Touches:
    """Pickles as a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_a_pickle_in_the_tables_place_runs_nothing(tmp_path: Path) -> None:
    write_release(tmp_path, random_sequences(1))
    victim, path = tmp_path / "victim", tmp_path / "diger_release" / "toys" / "Toys.npy"
    path.write_bytes(pickle.dumps(Touches(victim)))
    source = DigerRelease(release_options(tmp_path, [300, 4]))
    with pytest.raises(UserError, match="not a plain"):
        source.read_vectors(Downloads(tmp_path, offline=True))
    assert not victim.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hub": "ftp://x"}, "hub must start with http"),
        ({"repository": "https://x/y"}, "repository must be owner/name"),
        ({"revision": "main"}, "revision must be a full commit"),
        ({"revision": None}, "revision must be a full commit"),
        ({"colour": 1}, "source has no key 'colour'"),
        ({"files": {"train": {}}}, "source.files needs the key 'valid'"),
        ({"train": {"path": "../x", "sha256": "0" * 64}}, "files.train: .*plain relative path"),
        ({"train": {"path": "a/b", "sha256": "0" * 63}}, "files.train: sha256"),
        ({"train": {"path": "a/b"}}, "source.files.train needs the key 'sha256'"),
        ({"vectors": {"path": "a", "sha256": None, "shape": [3]}}, "shape must be"),
        ({"vectors": {"path": "a", "sha256": None, "shape": [3, 0]}}, "shape must be"),
    ],
)
def test_impossible_options_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    options = write_release(tmp_path, [[0, 1, 2]])
    for key, value in change.items():
        (options["files"] if key in options["files"] else options)[key] = value
    with pytest.raises(ValueError, match=message):
        DigerRelease(options)


@pytest.mark.parametrize("name", ["beauty", "yelp", "instruments"])
def test_shipped_configs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
    config = compose_config([f"dataset={name}/released"]).dataset
    assert (config.name, config.paper) == (f"{name}-released", name)
    assert config.encoder.source == "dataset"
    ours = compose_config([f"dataset={name}"]).dataset
    assert config.invariants == ours.invariants
    source = SOURCES[config.source.kind](resolved(config.source))
    urls = {file.repository.url(file.path) for file in files_of(source)}
    base = "https://hub.example/datasets/junchenfu/diger-processed-data/resolve/42f26ba9"
    assert all(url.startswith(base) for url in urls)
    assert len(urls) == (1 if name == "instruments" else 5)
    if name == "instruments":
        assert list(source.row_inputs()) == ["letter/Instruments.inter.json"]
        (checksum,) = source.text_inputs().values()
        assert checksum == "git-commit:42f26ba9d98338ae24aa8b552a952326e516b5fd"


def resolved(config: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def files_of(source: Any) -> list[Any]:
    return [*getattr(source, "_files", {}).values(), source._vectors.file]


# --- the hub --------------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """Speaks as the hub does: the listing of a repository, and its files behind a redirect."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files = files
        self.sha256: dict[str, str | None] = {}  # what the listing says
        self.commit = REVISION
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append(path)
        if path.startswith("/api/"):
            _, _, kind, _, name, *_ = path.split("/")
            known = kind == "models" or (kind == "datasets" and name == "released-data")
            self.listing() if known else self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif "/resolve/" in path:
            assert path.split("/resolve/")[1].startswith(hub.commit)
            name = path.split(f"/resolve/{hub.commit}/")[1]
            self.answer(302, b"", {"Location": f"/cdn/{name}"})
        else:
            found = hub.files.get(unquote(path.removeprefix("/cdn/")))
            self.answer(404 if found is None else 200, found or b"")

    do_HEAD = do_GET

    def listing(self) -> None:
        siblings = []
        for path, data in self.server.files.items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": "0" * 40}
            digest = self.server.sha256.get(path)
            if digest:
                entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        answer: dict[str, Any] = {"id": REPOSITORY, "sha": self.server.commit, "siblings": siblings}
        answer |= {"private": False, "disabled": False, "gated": False, "downloads": 0}
        answer |= {"likes": 0, "tags": [], "author": "someone"}
        self.answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub(files)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


@pytest.fixture
def release(tmp_path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The options of a small release and its files by path."""
    folder = tmp_path / "made"
    options = write_release(folder, random_sequences(5))
    root = folder / "diger_release"
    paths = [path for path in root.rglob("*") if path.is_file()]
    return options, {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def listings(hub: Hub) -> int:
    return sum(path.startswith("/api/") for path in hub.asked)


def test_release_from_the_hub(
    release: tuple[dict[str, Any], dict[str, bytes]], tmp_path: Path
) -> None:
    options, files = release
    downloads = Downloads(tmp_path / "downloads")
    with serving(files) as hub:
        source = DigerRelease({**options, "hub": hub.url})
        first = source.read_rows(downloads)
        assert listings(hub) == 0
        asked = len(hub.asked)
        assert source.read_rows(downloads) == first
        assert len(hub.asked) == asked
    assert source.read_rows(replace(downloads, offline=True)) == first


def test_listing_says_where_a_file_is(
    release: tuple[dict[str, Any], dict[str, bytes]], tmp_path: Path
) -> None:
    options, files = release
    files["data/v2/toys.test.jsonl"] = files.pop("toys/toys.test.jsonl")
    with serving(files) as hub:
        source = DigerRelease({**options, "hub": hub.url})
        with pytest.raises(
            UserError, match=rf"{REPOSITORY} at {REVISION} has no file toys/toys.test.jsonl: "
            "a file of that name is at data/v2/toys.test.jsonl"
        ):  # fmt: skip
            source.read_rows(Downloads(tmp_path / "downloads"))
        del files["data/v2/toys.test.jsonl"]
        with pytest.raises(UserError, match="nor has any other path"):
            source.read_rows(Downloads(tmp_path / "downloads"))
    assert not list((tmp_path / "downloads").rglob("toys.test.jsonl"))


def test_listing_with_another_checksum(
    release: tuple[dict[str, Any], dict[str, bytes]], tmp_path: Path
) -> None:
    options, files = release
    expected = options["files"]["vectors"]["sha256"]
    files["toys/Toys.npy"] += b"more"
    with serving(files) as hub:
        hub.sha256["toys/Toys.npy"] = "a" * 64
        source = DigerRelease({**options, "hub": hub.url})
        with pytest.raises(UserError, match=f"{'a' * 64} by the hub's listing, not {expected}"):
            source.read_vectors(Downloads(tmp_path / "downloads"))
    assert not list((tmp_path / "downloads").rglob("Toys.npy"))


def test_unknown_repository(
    release: tuple[dict[str, Any], dict[str, bytes]], tmp_path: Path
) -> None:
    options, _ = release
    with serving({}) as hub:
        source = DigerRelease({**options, "hub": hub.url, "repository": "someone/unknown"})
        with pytest.raises(UserError, match=r"the hub knows no .*someone/unknown at 0123"):
            source.read_rows(Downloads(tmp_path))


def test_without_a_network_the_download_says_what_to_do(
    release: tuple[dict[str, Any], dict[str, bytes]], tmp_path: Path
) -> None:
    options, files = release
    for offline in (False, True):
        with pytest.raises(Unavailable, match=r"toys.emb_map.json .*put a copy at"):
            DigerRelease(options).read_rows(Downloads(tmp_path / "d", offline=offline))
    with serving(files) as hub:
        source = DigerRelease({**options, "hub": hub.url})
        with pytest.raises(Unavailable):
            source.read_rows(Downloads(tmp_path / "d", offline=True))
        mirror = str(tmp_path / "made")
        source.read_rows(Downloads(tmp_path / "d", mirror=mirror, offline=True))
        assert hub.asked == []


# --- LETTER's interactions with released vectors --------------------------------------------


def letter_options(folder: Path, sequences: Sequences) -> dict[str, Any]:
    path = folder / "letter" / "Toys.inter.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(enumerate(sequences))))
    return {
        "kind": "letter", "repository": "https://127.0.0.1/letter", "commit": REVISION,
        "url": DEAD_HUB + "/{commit}/{path}",
        "interactions": {"path": "data/Toys.inter.json", "sha256": sha256_file(path)},
    }  # fmt: skip


def vectors_options(folder: Path, hub: str, sha256: str | None) -> dict[str, Any]:
    vectors = {"path": "toys/Toys.npy", "sha256": sha256, "shape": [300, 4]}
    released = {"hub": hub, "repository": REPOSITORY, "revision": REVISION, "vectors": vectors}
    letter = letter_options(folder, random_sequences(5))
    return {**letter, "kind": "diger_release_vectors", "released": released}


def test_checksum_from_the_listing(
    release: tuple[dict[str, Any], dict[str, bytes]], tmp_path: Path
) -> None:
    digest, files = release[0]["files"]["vectors"]["sha256"], release[1]
    downloads = Downloads(tmp_path)
    with serving(files) as hub:
        source = LetterWithReleasedVectors(vectors_options(tmp_path, hub.url, None))
        with pytest.raises(UserError, match="no sha256, neither on record nor in"):
            source.read_vectors(downloads)
        hub.sha256["toys/Toys.npy"] = digest
        vectors = source.read_vectors(downloads)
        assert sha256_file(vectors.path) == digest
        assert vectors.row == {str(row): row for row in range(300)}
        assert len(source.read_rows(downloads).items) == sum(map(len, random_sequences(5)))
        asked = len(hub.asked)
        source.read_vectors(downloads)
        assert len(hub.asked) == asked
    # The noted checksum verifies the file without the hub.
    offline = replace(downloads, offline=True)
    assert source.read_vectors(offline).path == vectors.path
    vectors.path.write_bytes(b"damaged")
    with pytest.raises(Unavailable):
        source.read_vectors(offline)


def test_no_checksum_at_all_is_refused(
    release: tuple[dict[str, Any], dict[str, bytes]], tmp_path: Path
) -> None:
    (tmp_path / "diger_release/toys").mkdir(parents=True)
    (tmp_path / "diger_release/toys/Toys.npy").write_bytes(release[1]["toys/Toys.npy"])
    source = LetterWithReleasedVectors(vectors_options(tmp_path, DEAD_HUB, None))
    for offline in (False, True):
        with pytest.raises(
            Unavailable, match=r"no sha256 on record, and the hub's listing .*vectors.sha256=SUM"
        ):
            source.read_vectors(Downloads(tmp_path, offline=offline))
    digest = sha256_file(tmp_path / "diger_release/toys/Toys.npy")
    named = LetterWithReleasedVectors(vectors_options(tmp_path, DEAD_HUB, digest))
    assert named.read_vectors(Downloads(tmp_path, offline=True)).path.is_file()


def test_checkpoints_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"weights"
    digest = hashlib.sha256(data).hexdigest()
    records = tmp_path / "records.yaml"
    records.write_text(
        f"toys: {{repository: someone/rqvae, revision: null, sha256: [{digest}, {'b' * 64}]}}"
    )
    monkeypatch.setattr(checkpoint, "RECORDS", records)
    downloads = Downloads(tmp_path / "d")
    with pytest.raises(Unavailable, match=f"put a file from there at .*toys/{digest}.pth or"):
        fetch_checkpoint("toys", downloads, DEAD_HUB)
    with serving({"a/best #1.pth": data, "README.md": b"text"}) as hub:
        with pytest.raises(UserError, match=r"no file with a sha256 on record .*it has a/best"):
            fetch_checkpoint("toys", downloads, hub.url)
        hub.sha256["a/best #1.pth"] = digest
        (path,) = fetch_checkpoint("toys", downloads, hub.url)
    assert path.read_bytes() == data
    assert fetch_checkpoint("toys", downloads, DEAD_HUB) == [path]
    # A folder whose name looks like an address is a folder.
    (tmp_path / "httpm").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unavailable, match="are not at hand"):
        fetch_checkpoint("toys", Downloads(tmp_path / "e", "httpm"), DEAD_HUB)
    # A wrong copy in a mirror does not keep the hub from being asked.
    name = f"diger_release/rqvae/toys/{digest}.pth"
    with FileServer({name: b"wrong"}) as mirror, serving({"a/best.pth": data}) as hub:
        hub.sha256["a/best.pth"] = digest
        (path,) = fetch_checkpoint("toys", Downloads(tmp_path / "f", mirror.root), hub.url)
        assert path.read_bytes() == data
    with pytest.raises(UserError, match="films is neither a file nor a data set"):
        fetch_checkpoint("films", downloads)


def test_shipped_checkpoint_records() -> None:
    records = checkpoint_records()
    assert list(records) == ["beauty", "instruments", "yelp"]
    assert [len(record.sha256) for record in records.values()] == [2, 1, 2]
    assert all(len(digest) == 64 for record in records.values() for digest in record.sha256)


# --- the comparison with LETTER -------------------------------------------------------------


def compare_arguments(folder: Path, options: dict[str, Any], letter: dict[str, Any]) -> list[str]:
    """The command line that compares a made release with made interactions of LETTER.

    The shipped configs pin the real files, so the overrides put the made ones in their place.
    """
    arguments = ["dataset=beauty", f"cache={folder / 'cache'}"]
    for name, entry in options["files"].items():
        for key in ("path", "sha256"):
            arguments.append(f"dataset.source.files.{name}.{key}={entry[key]}")
    rows, width = options["files"]["vectors"]["shape"]
    arguments.append(f"dataset.source.files.vectors.shape=[{rows},{width}]")
    arguments.append(f"dataset.source.hub={DEAD_HUB}")
    return arguments


@pytest.fixture
def letter_stands_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Puts made interactions in the place of LETTER's Beauty."""
    from benchmark.data.letter import Letter

    def stand_in(options: dict[str, Any]) -> None:
        monkeypatch.setitem(SOURCES, "letter", lambda _: Letter(options))

    return stand_in


@pytest.mark.parametrize("same", [True, False])
def test_comparison(
    same: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    letter_stands_in: Callable[[dict[str, Any]], None],
) -> None:
    sequences = random_sequences(9)
    options = write_release(tmp_path, sequences)
    if not same:
        sequences[0] = [*sequences[0][:-1], sequences[0][-1] ^ 1]
        sequences.append([0, 1, 2, 3])
    # Users in another order: the rows are compared as multisets.
    letter_stands_in(letter_options(tmp_path, sequences[::-1]))
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path))
    arguments = compare_arguments(tmp_path, options, {})
    if same:
        released.main(arguments)
    else:
        with pytest.raises(SystemExit) as caught:
            released.main(arguments)
        assert caught.value.code == 2
    table = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    own = [f"{len(phase):,}" for phase in leave_one_out(sequences)]
    assert [table[phase][0] for phase in ("train", "valid", "test")] == own
    if same:
        assert all(table[phase][3:] == ["0", "0"] for phase in ("train", "valid", "test"))
        assert table["the"][0] == "same:"
    else:
        n_train = len(leave_one_out(sequences).train)
        n_users = len(sequences)
        # Rows ours, theirs, in both, only ours, only theirs.
        assert [table[phase] for phase in ("train", "valid", "test")] == [
            [f"{n:,}" for n in (n_train, n_train - 1, n_train - 1, 1, 0)],
            [f"{n:,}" for n in (n_users, n_users - 1, n_users - 1, 1, 0)],
            [f"{n:,}" for n in (n_users, n_users - 1, n_users - 2, 2, 1)],
        ]
        assert table["not"][:3] == ["the", "same:", "5"]


def test_comparison_without_the_files(tmp_path: Path) -> None:
    arguments = ["dataset=beauty", f"cache={tmp_path}", f"dataset.source.hub={DEAD_HUB}"]
    with pytest.raises(Unavailable, match=r"beauty/beauty.emb_map.json .*127.0.0.1:9/datasets"):
        released.main(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a data set"),
        (["dataset="], "name a data set"),
        (["dataset=nonsense"], "Could not find 'dataset/nonsense'"),
        (["dataset=instruments"], "no released splits of instruments"),
        (["dataset=beauty", "dataset.source.colour=1"], "colour"),
        (["checkpoint=nonsense"], "nonsense is neither a file nor a data set"),
        (["checkpoint=beauty", "hub=x"], "hub must start with http"),
        (["checkpoint=beauty", "sha256=abc"], "sha256 must be 64 hexadecimal digits"),
    ],
)
def test_bad_command_lines(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        released.main([*arguments, f"cache={tmp_path}"])


MIRROR = os.environ.get(MIRROR_VARIABLE, "")


@pytest.mark.skipif(not MIRROR, reason=f"{MIRROR_VARIABLE} names no mirror with LETTER's files")
@pytest.mark.parametrize(("name", "n_train"), [("beauty", 131_413), ("yelp", 225_061)])
def test_release_of_the_real_interactions(
    name: str, n_train: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = Path(MIRROR) / "letter" / f"{name.capitalize()}.inter.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    data = canonical(read_letter_rows(path))
    order = np.argsort(data.user, kind="stable")
    ends = np.cumsum(np.bincount(data.user))[:-1]
    sequences = [part.tolist() for part in np.split(data.item[order], ends)]
    options = write_release(tmp_path, sequences)
    assert read(options, tmp_path) == sequences
    target = tmp_path / "letter" / path.name
    target.parent.mkdir()
    target.write_bytes(path.read_bytes())
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path))
    arguments = compare_arguments(tmp_path, options, {})
    released.main([f"dataset={name}", *arguments[1:]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["train", *[f"{n_train:,}"] * 3, "0", "0"]
    assert lines[-1].startswith("the same")
