"""Which stored runs a command is about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.errors import UserError
from benchmark.experiment import plan
from benchmark.selection import select
from tests.store_fixture import add_run


def store_with(root: Path, experiment: str, *overrides: str) -> None:
    """A store with a finished cell for every one of the experiment's."""
    for cell in plan(experiment, [*overrides, f"results={root}"], check=False):
        settings = cell.settings
        made = add_run(root / "made", settings.method_name, settings.cell.seed)
        info = json.loads((made.folder / "run.json").read_text(encoding="utf-8"))
        info["config_sha256"] = settings.cell.config_sha256
        settings.cell.folder.mkdir(parents=True)
        for path in made.folder.iterdir():
            path.rename(settings.cell.folder / path.name)
        (settings.cell.folder / "run.json").write_text(json.dumps(info), encoding="utf-8")


def test_several_experiments_are_read_together_and_a_shared_cell_once(tmp_path: Path) -> None:
    store_with(tmp_path, "smoke", "grid.method=[pop]")
    both = select("smoke,quick", ["grid.method=[pop]"], str(tmp_path))
    (alone,) = select("smoke", ["grid.method=[pop]"], str(tmp_path)).runs
    assert [run.folder for run in both.runs] == [alone.folder]
    assert len(both.missing) == 1
    assert both.missing[0].endswith("cells of quick are not finished")
    twice = select("smoke,smoke", ["grid.method=[pop]"], str(tmp_path))
    assert [run.folder for run in twice.runs] == [alone.folder]
    assert twice.missing == []


def test_an_experiment_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no experiment 'quik'"):
        select("smoke,quik", [], str(tmp_path))
