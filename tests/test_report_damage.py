"""A store with one damaged run: the others are reported, the bad one is named, exit code 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmark.errors import UserError
from benchmark.report import __main__ as command
from benchmark.report.damage import check_run
from benchmark.store import StoredRun, sha256_file, write_json, write_npy, write_parquet
from tests.store_fixture import add_run, example_store, stored


def edit_record(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    change(record)
    write_json(folder / "run.json", record)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def sign(folder: Path) -> None:
    """Make the checksum agree with metrics.parquet, as if it had been damaged when written."""
    digest = sha256_file(folder / "metrics.parquet")
    edit_record(folder, lambda record: record["sha256"].update({"metrics.parquet": digest}))


def rewrite_metrics(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = folder / "metrics.parquet"
    write_parquet(path, change(pd.read_parquet(path)))
    sign(folder)


def bad_json(folder: Path) -> None:
    (folder / "run.json").write_text('{"status": "done", "sha', encoding="utf-8")


def no_protocol(folder: Path) -> None:
    edit_record(folder, lambda record: record.pop("protocol"))


def seed_as_text(folder: Path) -> None:
    edit_record(folder, lambda record: record.update(seed="one"))


def describe_as_list(folder: Path) -> None:
    edit_record(folder, lambda record: record.update(describe=[1]))


def bad_checksum(folder: Path) -> None:
    truncate(folder / "metrics.parquet")


def truncated_parquet(folder: Path) -> None:
    truncate(folder / "metrics.parquet")
    sign(folder)


def other_columns(folder: Path) -> None:
    rewrite_metrics(folder, lambda frame: frame.drop(columns="value"))


def user_twice(folder: Path) -> None:
    rewrite_metrics(folder, lambda frame: pd.concat([frame, frame.head(1)]))


def not_finite(folder: Path) -> None:
    rewrite_metrics(folder, lambda frame: frame.assign(value=np.nan))


def text_as_user(folder: Path) -> None:
    rewrite_metrics(folder, lambda frame: frame.assign(user="u" + frame["user"].astype(str)))


def folder_for_file(folder: Path) -> None:
    (folder / "metrics.parquet").unlink()
    (folder / "metrics.parquet").mkdir()


def malformed_log(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"epoch": 0}\n{"epo', encoding="utf-8")


def log_without_epochs(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"loss": 0}\n', encoding="utf-8")


def flat_sids(folder: Path) -> None:
    write_npy(folder / "sids.npy", np.zeros(300, dtype=np.int32))


def few_sids(folder: Path) -> None:
    write_npy(folder / "sids.npy", np.zeros((7, 4), dtype=np.int32))


def negative_sids(folder: Path) -> None:
    write_npy(folder / "sids.npy", np.full((300, 4), -1, dtype=np.int32))


def truncated_sids(folder: Path) -> None:
    truncate(folder / "sids.npy")


def other_last_sids(folder: Path) -> None:
    (folder / "sids").mkdir()
    write_npy(folder / "sids" / "epoch=0005.npy", np.zeros((300, 3), dtype=np.int32))


def bad_config(folder: Path) -> None:
    (folder / "config.yaml").write_text("method: [", encoding="utf-8")


DAMAGES = [
    bad_json, no_protocol, seed_as_text, describe_as_list, bad_checksum, truncated_parquet,
    other_columns, user_twice, not_finite, text_as_user, folder_for_file, malformed_log,
    log_without_epochs, flat_sids, few_sids, negative_sids, truncated_sids, other_last_sids,
    bad_config,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_costs_only_itself(
    damage: Callable[[Path], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = example_store(tmp_path / "store", ["pop", "tiger"], seeds=[0], n_users=20, epochs=1)
    bad = add_run(tmp_path / "store", "ste", 0, n_users=20, epochs=1)
    damage(bad.folder)
    monkeypatch.setattr(
        sys, "argv", ["report", f"store={tmp_path / 'store'}", f"out={tmp_path / 'out'}"]
    )
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1  # one line, no traceback
    assert errors[0].startswith("error: ")
    name = "ste/" + bad.folder.parent.name
    assert name in errors[0]
    assert "again" in errors[0]  # what to do
    index = (tmp_path / "out" / "index.md").read_text(encoding="utf-8")
    assert "Problems (1)" in index
    assert name in index
    table = (tmp_path / "out" / "tables" / "toy-overall.md").read_text(encoding="utf-8")
    assert "| TIGER |" in table
    assert "| Popularity |" in table
    assert "STE" not in table
    assert len(runs) == 2


def test_whole_runs_pass(tmp_path: Path) -> None:
    for run in example_store(tmp_path, n_users=20):
        check_run(run)


def test_only_what_is_damaged_is_left_out(tmp_path: Path) -> None:
    """Runs that are whole, each for itself, and cannot be compared are refused as before."""
    add_run(tmp_path / "store", "pop", 0, n_users=20)
    add_run(tmp_path / "store", "tiger", 0, n_users=20, split_sha256="6" * 64)
    with pytest.raises(UserError, match="differ in split_sha256"):
        command.write_report([f"store={tmp_path / 'store'}", f"out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_nothing_but_damage_is_one_line(tmp_path: Path) -> None:
    run = add_run(tmp_path / "store", "pop", 0, n_users=20)
    user_twice(run.folder)
    with pytest.raises(
        UserError, match=r"no finished runs to report \(metrics\.parquet of toy/pop"
    ):
        command.write_report([f"store={tmp_path / 'store'}", f"out={tmp_path / 'out'}"])


def test_a_whole_store_has_no_problems(tmp_path: Path) -> None:
    add_run(tmp_path / "store", "pop", 0, n_users=20)
    index, problems = command.write_report(
        [f"store={tmp_path / 'store'}", f"out={tmp_path / 'out'}"]
    )
    assert problems == []
    assert "Problems" not in index.read_text(encoding="utf-8")


def test_line_names_the_file(tmp_path: Path) -> None:
    run = add_run(tmp_path, "tiger", 0)
    flat_sids(run.folder)
    with pytest.raises(UserError, match=r"sids\.npy is damaged .*shape \(300,\)"):
        check_run(stored(run.folder))
    with pytest.raises(UserError, match=r"run\.json is damaged \(counts\.items is missing"):
        check_run(StoredRun(run.folder, {**run.info, "counts": {"users": 3}}))
