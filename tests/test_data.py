"""Sources, the canonical form, and preparing data sets."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.config import compose_config
from benchmark.data import sources
from benchmark.data.download import Downloads
from benchmark.data.interactions import Rows, canonical, natural_key
from benchmark.data.prepare import DatasetConfig, Prepared, prepare
from benchmark.data.recbole_wheel import RecboleWheel
from benchmark.data.sources import open_source
from benchmark.data.split import Split
from benchmark.errors import UserError
from tests.conftest import REPO, dataset_config


def wheel_file(suffix: str) -> Path:
    spec = importlib.util.find_spec("recbole")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "dataset_example" / "ml-100k"
    return folder / f"ml-100k.{suffix}"


# --- the canonical form ---------------------------------------------------------------------


def test_canonical_by_hand() -> None:
    rows = Rows(
        users=["b", "10", "b", "9", "b", "10", "10", "x"],
        items=["i2", "7", "i1", "7", "7", "i1", "30", "lonely"],
        timestamps=np.array([3, 5, 1, 9, 2, 4, 4, 1]),
    )
    data = canonical(rows)
    # 9 and x have one interaction and go, and with x the item that only x has.
    assert data.user_tokens == ["10", "b"]
    assert data.item_tokens == ["7", "30", "i1", "i2"]
    # Of user 10, i1 and 30 share a timestamp and keep the file's order.
    assert data.user.tolist() == [0, 0, 0, 1, 1, 1]
    assert [data.item_tokens[i] for i in data.item] == ["i1", "30", "7", "i1", "7", "i2"]
    assert data.facts == {
        "timestamps": True,
        "dropped_users": 2,
        "dropped_interactions": 2,
        "dropped_items": 1,
        "rows_read": 8,
        "dropped_duplicates": 0,
        "core": {
            "rounds": 0,
            "dropped_users": 0,
            "dropped_items": 0,
            "dropped_interactions": 0,
        },
        "repeats": {"users": 0, "interactions": 0},
        "full": {"users": 2, "items": 4, "interactions": 6},
    }
    assert data.split().offsets.tolist() == [0, 3, 6]


def test_natural_order() -> None:
    tokens = ["b", "10", "9", "007", "0", "a", "-1", "1" * 30, "²"]
    assert sorted(tokens, key=natural_key) == ["0", "9", "10", "-1", "007", "1" * 30, "a", "b", "²"]


def test_without_timestamps_the_file_order_is_the_order() -> None:
    rows = Rows(["u", "v", "u", "v", "u", "v"], ["3", "1", "1", "2", "2", "3"])
    data = canonical(rows)
    assert data.item.tolist() == [2, 0, 1, 0, 1, 2]
    assert data.texts is None


def test_nobody_left() -> None:
    with pytest.raises(UserError, match="no user has 3 interactions"):
        canonical(Rows(["u", "u", "v"], ["1", "2", "1"]))


events = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=40
)


@given(events, st.randoms(use_true_random=False))
def test_order_of_users_in_the_file_does_not_matter(
    rows: list[tuple[int, int, int]], random: Any
) -> None:
    """Interleave the users anew, each user's own rows in their order: nothing changes."""
    order = [row[0] for row in rows]
    random.shuffle(order)
    queues = {user: [row for row in rows if row[0] == user] for user in set(order)}
    shuffled = [queues[user].pop(0) for user in order]
    results = []
    for version in (rows, shuffled):
        users, items, times = zip(*version, strict=True)
        try:
            data = canonical(Rows([f"u{u}" for u in users], [*map(str, items)], np.array(times)))
        except UserError:
            assert max(Counter(users).values()) < 3
            return
        results.append((data.user_tokens, data.item_tokens, data.user.tolist(), data.item.tolist()))
    assert results[0] == results[1]


@given(events)
def test_canonical_is_what_a_plain_loop_gives(rows: list[tuple[int, int, int]]) -> None:
    users, items, times = zip(*rows, strict=True)
    expected = {}
    for user in sorted(set(users)):
        own = sorted((row for row in rows if row[0] == user), key=lambda row: row[2])
        if len(own) >= 3:
            expected[str(user)] = [str(row[1]) for row in own]
    if not expected:
        return
    data = canonical(Rows([*map(str, users)], [*map(str, items)], np.array(times)))
    found: dict[str, list[str]] = {}
    for user, item in zip(data.user, data.item, strict=True):
        found.setdefault(data.user_tokens[user], []).append(data.item_tokens[item])
    assert found == expected
    assert set(data.item_tokens) == {item for own in expected.values() for item in own}


def test_samples_are_nested_and_keep_whole_users(ml100k: Prepared) -> None:
    full = ml100k.interactions
    users = [full.user_tokens[u] for u in full.user]
    items = [full.item_tokens[i] for i in full.item]
    small, large = (canonical(Rows(users, items), users=n) for n in (50, 120))
    assert set(small.user_tokens) < set(large.user_tokens)
    assert len(small.user_tokens) == 50
    assert len(set(small.item.tolist())) == small.n_items < full.n_items
    for place, token in enumerate(small.user_tokens):
        own = full.item[full.user == full.user_tokens.index(token)]
        assert small.catalogue_row[small.item[small.user == place]].tolist() == own.tolist()
    with pytest.raises(UserError, match="users=944 is impossible: the data set has 943"):
        canonical(Rows(users, items), users=944)


# --- MovieLens 100K -------------------------------------------------------------------------


def test_missing_wheel_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(dataset_config("ml-100k").source)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"run \./run_all\.sh, or pip install --no-deps recbole=="):
        source.row_inputs()
    with pytest.raises(UserError, match="not installed"):
        source.read_texts(Downloads(Path("unused")))


def test_ml100k_counts(ml100k: Prepared) -> None:
    assert ml100k.manifest["counts"] == {
        "users": 943,
        "items": 1682,
        "interactions": 100_000,
        "train_rows": 97_171,  # 100,000 - 3 x 943
        "valid_rows": 943,
        "test_rows": 943,
        "dropped_users": 0,
    }
    assert len(ml100k.data.split.train_positions) == 97_171
    assert ml100k.manifest["density"] == pytest.approx(100_000 / (943 * 1682))
    assert ml100k.manifest["mean_sequence"] == pytest.approx(100_000 / 943)
    assert ml100k.manifest["mean_history"] < 50
    assert ml100k.manifest["revision"].startswith("recbole ")
    assert set(ml100k.manifest["inputs"]) == {"ml-100k.inter"}
    assert set(ml100k.manifest["text_inputs"]) == {"ml-100k.item"}
    assert ml100k.manifest["split_sha256"] == ml100k.data.split.sha256


def test_ml100k_texts(ml100k: Prepared) -> None:
    texts = dict(zip(ml100k.interactions.item_tokens, ml100k.interactions.texts or [], strict=True))
    assert texts["1"] == "Toy Story (1995). Animation, Children's, Comedy"
    assert texts["3"] == "Four Rooms (1995). Thriller"
    # A title that carries its year, and a "V" where the year should be.
    assert texts["1412"] == (
        "Land Before Time III: The Time of the Great Giving (1995). Animation, Children's"
    )
    assert all(texts.values())


def test_ml100k_order_is_time_with_ties_in_file_order(ml100k: Prepared) -> None:
    own: dict[str, list[tuple[float, int, str]]] = {}
    lines = wheel_file("inter").read_text(encoding="utf-8").splitlines()[1:]
    for number, line in enumerate(lines):
        user, item, _, timestamp = line.split("\t")
        own.setdefault(user, []).append((float(timestamp), number, item))
    data = ml100k.interactions
    assert data.user_tokens == [str(n) for n in range(1, 944)]
    assert data.item_tokens == [str(n) for n in range(1, 1683)]
    split: Split = ml100k.data.split
    for index, token in enumerate(data.user_tokens):
        expected = [name for _, _, name in sorted(own[token])]
        sequence = split.items[split.offsets[index] : split.offsets[index + 1]]
        assert [data.item_tokens[item] for item in sequence] == expected


def test_ml100k_split_is_pinned(ml100k_split: Split) -> None:
    # Published results carry this hash. It may change only with the "v1" in Split.sha256.
    expected = "cae023001632686c3f5a1dd1a7b688e51071870cfb273e4890b8631dc5b811ef"
    assert ml100k_split.sha256 == expected


def test_sample_has_its_own_name(ml100k_small: Prepared, ml100k: Prepared) -> None:
    assert ml100k.data.name == "ml-100k"
    assert ml100k_small.data.name == "ml-100k-150u"
    assert ml100k_small.data.split.n_users == 150
    assert ml100k_small.folder.parent.name == "ml-100k-150u"
    assert ml100k_small.data.embeddings is not None
    assert len(ml100k_small.data.embeddings) == ml100k_small.data.split.n_items


# --- prepare --------------------------------------------------------------------------------


def test_second_call_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataset_config("ml-100k", users=20)
    first = prepare(config, 50, None, tmp_path, "rows")

    def fail(self: object, downloads: object) -> None:
        raise AssertionError("the source was read again")

    monkeypatch.setattr(RecboleWheel, "read_rows", fail)
    monkeypatch.setattr(RecboleWheel, "read_texts", fail)
    second = prepare(config, 50, None, tmp_path, "rows")
    assert first.manifest == second.manifest
    assert first.data.split.sha256 == second.data.split.sha256
    for name in ("user_tokens", "item_tokens", "texts", "facts"):
        assert getattr(first.interactions, name) == getattr(second.interactions, name)
    other = prepare(config, 10, 3, tmp_path, "rows")
    assert (other.data.split.max_history, other.data.split.train_prefixes) == (10, 3)
    assert other.manifest["mean_history"] <= 10


@pytest.mark.parametrize("name", ["interactions.parquet", "items.parquet", "manifest.json"])
@pytest.mark.parametrize("damage", [None, b"", b"{}"])
def test_damaged_cache_is_built_again(tmp_path: Path, name: str, damage: bytes | None) -> None:
    config = dataset_config("ml-100k", users=20)
    first = prepare(config, 50, None, tmp_path, "rows")
    content = (first.folder / name).read_bytes()
    (first.folder / name).unlink()
    if damage is not None:
        (first.folder / name).write_bytes(damage)
    second = prepare(config, 50, None, tmp_path, "rows")
    assert second.manifest == first.manifest
    assert (first.folder / name).read_bytes() == content


def test_cached_call_imports_no_torch(ml100k_small: Prepared, data_cache: Path) -> None:
    code = """
import sys, time
from pathlib import Path
start = time.perf_counter()
from benchmark.data.prepare import prepare
from tests.conftest import dataset_config
done = prepare(dataset_config("ml-100k", users=150), 50, None, Path(sys.argv[1]))
assert done.data.embeddings is not None
heavy = {"torch", "sentence_transformers", "transformers", "recbole"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code, str(data_cache)], cwd=REPO, check=True, timeout=60)


def test_two_processes_prepare_at_once(tmp_path: Path) -> None:
    # Reading is made slow, so that the second process arrives while the first is at it.
    code = """
import json, sys, time
from pathlib import Path
from benchmark.data.prepare import prepare
from benchmark.data.recbole_wheel import RecboleWheel
from tests.conftest import dataset_config
read = RecboleWheel.read_rows
def slow_read(self, downloads):
    print("reading", file=sys.stderr)
    time.sleep(3)
    return read(self, downloads)
RecboleWheel.read_rows = slow_read
done = prepare(dataset_config("ml-100k", users=20), 50, None, Path(sys.argv[1]))
print(json.dumps([done.manifest, float(done.data.embeddings.sum())]))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert json.loads(results[0][0]) == json.loads(results[1][0])
    # One of them read and one encoded; the other waited and took what it found.
    for work in ("reading", "embedding"):
        assert sorted(work in stderr for _, stderr in results) == [False, True]
    assert not list(tmp_path.rglob("*.tmp"))


def test_broken_invariant_stops(tmp_path: Path) -> None:
    config = dataset_config("ml-100k", invariants={"items": 1681})
    with pytest.raises(UserError, match="ml-100k should have items=1681 but has 1682"):
        prepare(config, 50, None, tmp_path, "rows")


def test_a_new_kind_of_source_slots_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Toy:
        revision = "1"
        text_source = None

        def __init__(self, options: object) -> None:
            pass

        def row_inputs(self) -> dict[str, str]:
            return {}

        text_inputs = row_inputs
        identity = property(row_inputs)

        def read_rows(self, downloads: Downloads) -> Rows:
            return Rows(["u"] * 4, ["3", "1", "2", "1"])

    monkeypatch.setitem(sources.SOURCES, "toy", Toy)
    config = DatasetConfig("toy", "Toy", {"kind": "toy"})
    for _ in range(2):  # built, and from the cache
        done = prepare(config, 50, None, tmp_path, "rows")
        assert done.interactions.texts is None
        assert done.data.split.items.tolist() == [2, 0, 1, 0]
        assert done.data.embeddings is None
    with pytest.raises(UserError, match="toy has no encoder"):
        prepare(config, 50, None, tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"colour": "red"}, "dataset has no key 'colour'"),
        ({"name": "../x"}, "dataset.name must be"),
        ({"name": ""}, "dataset needs the key 'name'"),
        ({"users": 0}, "dataset.users must be"),
        ({"users": "many"}, "dataset.users must be"),
        ({"users": True}, "dataset.users must be"),
        ({"invariants": {"films": 3}}, "dataset.invariants has no 'films'"),
        ({"invariants": {"users": "all"}}, "dataset.invariants.users must be"),
        ({"source": {"kind": "magic"}}, "source.kind must be one of .*recbole_wheel"),
        ({"source": {"kind": "recbole_wheel"}}, "source needs the key 'folder'"),
        ({"source": {"kind": "recbole_wheel", "folder": "a/b"}}, "plain name"),
        ({"source": {"kind": "recbole_wheel", "folder": "x", "n": 1}}, "source has no key 'n'"),
        ({"encoder": {"name": "x"}}, "encoder needs the key 'source'"),
    ],
)
def test_impossible_configs_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        dataset_config("ml-100k", **overrides)
    assert "\n" not in str(caught.value)


def test_config_from_hydra() -> None:
    config = DatasetConfig.from_mapping(compose_config(["dataset=ml-100k"]).dataset)
    assert config == dataset_config("ml-100k")
    assert type(config.source["text"]) is dict
