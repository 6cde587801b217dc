"""A run's metrics.parquet as a table of users: the same as pandas' pivot, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.aggregate import _complete, _pivot, aggregate
from benchmark.errors import UserError
from benchmark.store import StoredRun, sha256_file, write_json, write_parquet
from tests.store_fixture import add_run


def rewritten(run: StoredRun, frame: pd.DataFrame) -> StoredRun:
    """The run with other per-user values."""
    path = run.folder / "metrics.parquet"
    write_parquet(path, frame)
    info = {**run.info, "sha256": {"metrics.parquet": sha256_file(path)}}
    write_json(run.folder / "run.json", info)
    return StoredRun(run.folder, info)


@pytest.mark.parametrize("spread", [1, 7_000_000])
def test_it_is_pandas_pivot(tmp_path: Path, spread: int) -> None:
    run = add_run(tmp_path, "tiger", 0, n_users=50)
    frame = run.metrics()
    frame["user"] *= spread  # ids far apart are numbered in another way
    frame = frame.sample(frac=0.7, random_state=0)  # in any order, some values not there
    wanted = frame.pivot(index="user", columns=["metric", "k"], values="value").sort_index(axis=1)
    found = _pivot(rewritten(run, frame))
    pd.testing.assert_frame_equal(
        found, wanted, check_column_type=False, check_index_type=False, check_names=True
    )
    assert found.isna().to_numpy().any()


def test_a_value_that_is_missing_is_a_zero_and_the_rest_stays(tmp_path: Path) -> None:
    run = add_run(tmp_path, "pop", 0, n_users=4, ranks=[1, 1, 1, 1])
    frame = run.metrics()
    gone = (frame["user"] == 2) & (frame["metric"] == "ndcg") & (frame["k"] == 10)
    result = aggregate([rewritten(run, frame[~gone])])["toy"]
    assert result.values("ndcg", 10)["pop"].to_list() == [1, 1, 0, 1]
    assert result.values("ndcg", 5)["pop"].to_list() == [1, 1, 1, 1]


def test_a_whole_table_is_not_copied(tmp_path: Path) -> None:
    table = _pivot(add_run(tmp_path, "pop", 0, n_users=4))
    assert np.shares_memory(_complete(table, pd.RangeIndex(4)).to_numpy(), table.to_numpy())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda frame: pd.concat([frame, frame.iloc[[3]]]), "names a user twice"),
        (lambda frame: frame.replace({"value": {0.0: np.inf}}), "not finite"),
        (lambda frame: frame[frame["k"] != 10], "has no recall@10"),
        (lambda frame: frame.iloc[:0], "has no recall@5"),
        (lambda frame: frame.drop(columns="k"), "cannot be read"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, rows: object, message: str) -> None:
    assert callable(rows)
    run = add_run(tmp_path, "pop", 0, n_users=6, ranks=[0, 1, 2, 3, 4, 5])
    with pytest.raises(UserError, match=message) as error:
        aggregate([rewritten(run, rows(run.metrics()))])
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_parquet_is_one_clear_line(tmp_path: Path) -> None:
    run = add_run(tmp_path, "pop", 0)
    (run.folder / "metrics.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"metrics\.parquet cannot be read"):
        aggregate([run])
