"""The store: atomic files, stable bytes, done or not done."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from benchmark import store
from benchmark.errors import UserError
from benchmark.recommender import Ranking
from benchmark.run import check_ranking, ranks_frame


def finished(folder: Path) -> Path:
    """A cell's folder with two small files, marked done."""
    names = ("ranks.parquet", "metrics.parquet")
    for name in names:
        store.write_parquet(folder / name, pd.DataFrame({"value": [1, 2, 3]}))
    hashes = {name: store.sha256_file(folder / name) for name in names}
    store.write_json(folder / "run.json", {"status": "done", "sha256": hashes})
    return folder


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    store.write_text(path, "old")
    with pytest.raises(RuntimeError), store.atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    store.write_parquet(tmp_path / "1", frame)
    store.write_parquet(tmp_path / "2", frame.copy().set_index(pd.Index([7, 8])))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert pq.read_schema(tmp_path / "1").metadata is None  # no version of pandas in it


def test_done_only_when_marked_and_whole(tmp_path: Path) -> None:
    assert not store.is_done(tmp_path)
    folder = finished(tmp_path)
    assert store.is_done(folder)
    path = folder / "ranks.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        store.is_done(folder)
    path.unlink()
    with pytest.raises(UserError, match="damaged"):
        store.is_done(folder)


def test_running_is_not_done(tmp_path: Path) -> None:
    store.write_json(tmp_path / "run.json", {"status": "running"})
    assert not store.is_done(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"done"'])
def test_unreadable_record_is_one_clear_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json") as caught:
        store.is_done(tmp_path)
    assert "\n" not in str(caught.value)


def test_done_without_checksums_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"status": "done"}')
    with pytest.raises(UserError, match="no checksums"):
        store.is_done(tmp_path)


def test_a_damaged_log_is_one_clear_line(tmp_path: Path) -> None:
    run = store.RunFolder(tmp_path, tmp_path, "cpu")
    (tmp_path / "train.jsonl").write_text('{"epoch": 0}\n{"epo')
    with pytest.raises(UserError, match="damaged"):
        run.log({"epoch": 1})
    with pytest.raises(UserError, match="damaged"):
        store.StoredRun(tmp_path, {}).train_log()


def test_hash_of_json_ignores_key_order() -> None:
    assert store.sha256_json({"a": 1, "b": [2]}) == store.sha256_json({"b": [2], "a": 1})
    assert store.sha256_json({"a": 1}) != store.sha256_json({"a": 2})


def test_log_replaces_what_a_resumed_run_does_again(tmp_path: Path) -> None:
    run = store.RunFolder(tmp_path, tmp_path, "cpu")
    for epoch in (0, 1, 2):
        run.log({"epoch": epoch, "loss": float(epoch)})
    run.log({"epoch": 1, "loss": math.nan})
    rows = store.StoredRun(tmp_path, {}).train_log()
    assert rows == [{"epoch": 0, "loss": 0.0}, {"epoch": 1, "loss": None}]
    assert "NaN" not in (tmp_path / "train.jsonl").read_text()


def test_kept_ids_survive_a_round_trip(tmp_path: Path) -> None:
    run = store.RunFolder(tmp_path, tmp_path, "cpu")
    sids = np.arange(6, dtype=np.int32).reshape(2, 3)
    run.save_sids(7, sids)
    assert np.array_equal(np.load(tmp_path / "sids" / "epoch=0007.npy"), sids)
    store.write_npy(tmp_path / "sids.npy", sids)
    got = store.StoredRun(tmp_path, {}).sids()
    assert got is not None
    assert np.array_equal(got, sids)


def test_ranks_frame_has_no_rows_for_missing_places() -> None:
    ranking = Ranking(
        np.array([[3, 1], [2, -1], [-1, -1]], dtype=np.int32),
        np.array([[0.9, 0.5], [0.1, -np.inf], [-np.inf, -np.inf]], dtype=np.float32),
    )
    frame = ranks_frame(ranking)
    assert frame[["user", "rank", "item"]].to_numpy().tolist() == [[0, 1, 3], [0, 2, 1], [1, 1, 2]]


GOOD = Ranking(
    np.array([[0, 1, -1], [2, 0, 1]], dtype=np.int32),
    np.array([[0.5, 0.5, -np.inf], [3.0, 2.0, 1.0]], dtype=np.float32),
)


def test_a_good_ranking_passes() -> None:
    check_ranking(GOOD, 2, 3, 3)


@pytest.mark.parametrize(
    ("user", "items", "scores", "message"),
    [
        (1, [2, 2, 1], None, "twice"),
        (1, [3, 0, 1], None, "outside"),
        (1, [-2, 0, 1], None, "outside"),
        (1, [-1, 0, 1], None, "hole"),
        (1, None, [1.0, 2.0, 1.0], "not sorted"),
        (1, None, [3.0, np.nan, 1.0], "finite"),
        (1, None, [np.inf, 2.0, 1.0], "finite"),
    ],
)
def test_the_harness_trusts_no_method(
    user: int, items: list[int] | None, scores: list[float] | None, message: str
) -> None:
    bad = Ranking(GOOD.items.copy(), GOOD.scores.copy())
    if items is not None:
        bad.items[user] = items
    if scores is not None:
        bad.scores[user] = scores
    with pytest.raises(ValueError, match=message):
        check_ranking(bad, 2, 3, 3)


def test_lists_of_the_wrong_shape() -> None:
    with pytest.raises(ValueError, match="shape"):
        check_ranking(GOOD, 3, 3, 3)
