"""Tidy files say what the reports count, in the same bytes each time."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from benchmark.aggregate import aggregate
from benchmark.errors import UserError
from benchmark.export.__main__ import export
from benchmark.export.tidy import SCHEMA, write_tidy
from benchmark.store import StoredRun
from tests.store_fixture import add_run, example_store
from tests.test_cli import call, one_error

ODD = 'A "50%" <b>&_#, gewöhnlich'
KEYS = ["dataset", "method", "config", "seed", "user", "metric", "k"]


def some_runs(root: Path) -> list[StoredRun]:
    runs = example_store(root, ["pop", "tiger"], [0, 1], n_users=30)
    runs.append(add_run(root, "tiger", 0, config={"size": 2}, n_users=30, method_label=ODD))
    return [*runs, add_run(root, "pop", 3, dataset="other", n_users=20, drop_users=[4, 19])]


def read_csv(path: Path) -> pd.DataFrame:
    """With the floats that the text says, to the last bit."""
    return pd.read_csv(path, converters={"value": float, "mean_ndcg@10": float})


def test_parquet_and_csv_are_the_same_rows_and_those_of_the_store(tmp_path: Path) -> None:
    runs = some_runs(tmp_path / "r")
    write_tidy(runs, tmp_path / "out", "command")
    table = pq.read_table(tmp_path / "out" / "metrics.parquet")
    assert table.schema.equals(SCHEMA)
    frame = table.to_pandas()
    text = read_csv(tmp_path / "out" / "metrics.csv.gz")
    assert list(text.columns) == list(frame.columns) == SCHEMA.names
    for column in SCHEMA.names:
        assert text[column].to_list() == frame[column].to_list(), column
    assert not frame.duplicated(KEYS).any()
    for run in runs:
        mine = frame[(frame["dataset"] == run.dataset) & (frame["method"] == run.method)
                     & (frame["config"] == run.config_sha256[:12])
                     & (frame["seed"] == run.seed)]  # fmt: skip
        stored = run.metrics().set_index(["user", "metric", "k"])["value"]
        found = mine.astype({"metric": str}).set_index(["user", "metric", "k"])["value"]
        assert found.loc[stored.index].to_list() == stored.to_list()
    assert ODD in "".join(frame["label"].cat.categories)


def test_a_missing_user_is_there_with_zeros_as_the_reports_count(tmp_path: Path) -> None:
    runs = some_runs(tmp_path / "r")
    write_tidy(runs, tmp_path / "out", "command")
    frame = pq.read_table(tmp_path / "out" / "metrics.parquet").to_pandas()
    other = frame[frame["dataset"] == "other"]
    assert sorted(other["user"].unique()) == list(range(20))
    assert (other.loc[other["user"].isin([4, 19]), "value"] == 0).all()
    summary = read_csv(tmp_path / "out" / "runs.csv")
    assert summary.set_index("dataset").loc["other", "users_missing"] == 2
    assert summary.loc[summary["dataset"] == "toy", "users_missing"].eq(0).all()
    means = aggregate(runs)["other"].summary("ndcg", 10)["mean"]
    assert summary.set_index("dataset").loc["other", "mean_ndcg@10"] == means["pop"]
    readme = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Popularity, seed 3: 2 users missing from metrics.parquet score 0." in readme


def test_each_run_has_its_own_row_groups_and_its_provenance(tmp_path: Path) -> None:
    runs = some_runs(tmp_path / "r")
    write_tidy(runs, tmp_path / "out", "command")
    assert pq.ParquetFile(tmp_path / "out" / "metrics.parquet").num_row_groups == len(runs)
    summary = pq.read_table(tmp_path / "out" / "runs.parquet").to_pandas()
    assert len(summary) == len(runs)
    row = summary[(summary["method"] == "tiger") & (summary["label"].str.startswith("A "))].iloc[0]
    assert row["commit"] == "c" * 40
    assert row["version_torch"] == "2.11.0"
    assert row["users_without_list"] == 0
    assert row["fit_seconds"] == 12.5
    text = (tmp_path / "out" / "runs.csv").read_text(encoding="utf-8")
    assert ",123456," in text  # whole numbers stay whole


def test_equal_runs_give_equal_bytes_in_any_order(tmp_path: Path) -> None:
    runs = some_runs(tmp_path / "r")
    for out, given in (("a", runs), ("b", runs[::-1])):
        write_tidy(given, tmp_path / out, "command")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["README.md", "metrics.csv.gz", "metrics.parquet", "runs.csv", "runs.parquet"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_csv_can_be_plain_or_left_out_and_no_other_stays(tmp_path: Path) -> None:
    runs = some_runs(tmp_path / "r")
    write_tidy(runs, tmp_path, "command")
    packed = gzip.decompress((tmp_path / "metrics.csv.gz").read_bytes())
    write_tidy(runs, tmp_path, "command", csv="plain")
    assert (tmp_path / "metrics.csv").read_bytes() == packed
    assert not (tmp_path / "metrics.csv.gz").exists()
    write_tidy(runs, tmp_path, "command", csv="none")
    assert not (tmp_path / "metrics.csv").exists()
    with pytest.raises(UserError, match="gz, plain, none"):
        write_tidy(runs, tmp_path, "command", csv="zip")


def test_only_one_data_set_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def spy(runs: list[StoredRun], order: list[str]) -> object:
        seen.append({run.dataset for run in runs})
        return aggregate(runs, order)

    monkeypatch.setattr("benchmark.export.tidy.aggregate", spy)
    write_tidy(some_runs(tmp_path / "r"), tmp_path / "out", "command")
    assert seen == [{"other"}, {"toy"}]


def test_runs_that_cannot_be_compared_leave_what_was_there(tmp_path: Path) -> None:
    runs = some_runs(tmp_path / "r")
    write_tidy(runs, tmp_path / "out", "command")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    odd = add_run(tmp_path / "r", "ste", 0, n_users=30, split_sha256="6" * 64)
    with pytest.raises(UserError, match="differ in split_sha256"):
        write_tidy([*runs, odd], tmp_path / "out", "command")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_unnamed_members_of_a_sample_have_negative_ids(tmp_path: Path) -> None:
    run = add_run(tmp_path / "r", "pop", 0, n_users=10, protocol__users=4,
                  drop_users=range(3, 10))  # fmt: skip
    write_tidy([run], tmp_path / "out", "command")
    frame = pq.read_table(tmp_path / "out" / "metrics.parquet").to_pandas()
    assert sorted(frame["user"].unique()) == [-1, 0, 1, 2]
    assert np.all(frame.loc[frame["user"] == -1, "value"] == 0)


def test_a_damaged_run_is_named_and_the_others_are_exported(tmp_path: Path) -> None:
    some_runs(tmp_path / "r")
    path = next((tmp_path / "r" / "toy" / "pop").rglob("seed=1/metrics.parquet"))
    path.write_bytes(path.read_bytes()[:-1])
    done = call("benchmark.export", f"store={tmp_path}/r", f"out={tmp_path}/out")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {path} is damaged")
    assert len(read_csv(tmp_path / "out" / "runs.csv")) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "expected key=value"),
        (["lr=1"], "unknown option lr"),
        (["store=a", "store=b"], "store= is there twice"),
        (["csv=zip", "store={store}"], "csv must be one of gz, plain, none"),
        (["store={store}/nothing"], "no results folder"),
        (["experiment=nonsense"], "no experiment 'nonsense'"),
        (["experiment=smoke", "store={store}/nothing"], "no finished runs to export"),
        (["bundle=a.zip", "out=b"], "leave out out="),
        (["bundle=", "store={store}"], "name a file with bundle="),
        (["sha256=0"], "belongs to import="),
        (["import=a.zip"], "name the store to import into"),
        (["import=a.zip", "store=b", "out=c"], "import= takes store= and sha256=, not out"),
    ],
)
def test_bad_arguments(arguments: list[str], words: str, tmp_path: Path) -> None:
    some_runs(tmp_path / "r")
    with pytest.raises(UserError, match=words) as error:
        export([argument.format(store=tmp_path / "r") for argument in arguments])
    assert "\n" not in str(error.value)


def test_bad_arguments_end_in_one_line(tmp_path: Path) -> None:
    assert "no results folder" in one_error(call("benchmark.export", f"store={tmp_path}/no"))


def test_an_experiment_is_exported(tmp_path: Path) -> None:
    text, problems = export(
        ["experiment=quick", "store=results/published", f"out={tmp_path}", "csv=none"]
    )
    assert problems == []
    assert text.splitlines()[0] == f"{tmp_path}/metrics.parquet"
    summary = pd.read_csv(tmp_path / "runs.csv")
    assert len(summary) == 24
    assert set(summary["protocol"]) == {"quick"}
    assert summary["commit"].str.fullmatch("[0-9a-f]{40}").all()
