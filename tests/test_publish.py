"""Publishing keeps what a report needs and drops the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import store
from benchmark.errors import UserError
from benchmark.publish import publish
from benchmark.report.__main__ import write_report
from tests.test_cli import call


def test_published_runs_give_the_same_tables(tmp_path: Path, data_cache: Path) -> None:
    overrides = [f"results={tmp_path}/r", f"cache={data_cache}", "grid.method=[pop,tiger]"]
    overrides.append(f"reports={tmp_path}/reports")
    done = call("benchmark.experiment", "smoke", *overrides)
    assert done.returncode == 0, done.stderr
    folders = publish(["experiment=smoke", *overrides], tmp_path / "published")
    assert len(folders) == 2
    names = {path.name for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "run.json", "config.yaml", "metrics.parquet", "train.jsonl", "sids.npy", "epoch=0001.npy"
    }  # fmt: skip
    assert all(store.is_done(folder) for folder in folders)
    tables = []
    for root in ("r", "published"):
        out = tmp_path / f"report-{root}"
        write_report([f"store={tmp_path}/{root}", f"out={out}"])
        text = (out / "tables" / "ml-100k-150u-overall.md").read_text(encoding="utf-8")
        tables.append([line for line in text.splitlines() if "Made by" not in line])
    assert tables[0] == tables[1]


def test_nothing_to_publish(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no cell of smoke is finished"):
        publish(["experiment=smoke", f"results={tmp_path}/none"], tmp_path / "published")
    with pytest.raises(UserError, match="name one experiment"):
        publish([])
