"""Settings are chosen on validation alone, from trials that are ordinary cells."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from benchmark import store, tune
from benchmark.aggregate import aggregate
from benchmark.config import CONF, compose_config, settings_from
from benchmark.errors import UserError
from benchmark.grid import read_grids
from benchmark.report.tuning import tuning_notes
from benchmark.store import StoredRun
from tests.store_fixture import add_run
from tests.test_cli import call

GRID = {
    "seed": 3,
    "grids": {
        "sasrec_ce": {"method.hidden_size": [8, 16], "method.learning_rate": [1.0e-5]},
        "ste": {"noise@preset": [None, "unit_norm"]},
    },
}


@pytest.fixture
def grids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Grids of two methods in place of the suite's."""
    path = tmp_path / "grids.yaml"
    path.write_text(yaml.safe_dump(GRID))
    read = read_grids
    monkeypatch.setattr(tune, "read_grids", lambda: read(path))
    return path


@pytest.fixture
def search(tmp_path: Path, grids: Path) -> tune.Search:
    (found,) = tune.searches("smoke", [f"results={tmp_path}/r", "grid.method=[pop,sasrec_ce]"])
    return found


def finish(search: tune.Search, trial: int, valid: list[float], best: int, **changes: Any) -> Path:
    """Write a trial's cell as a run would have, with these validation values epoch by epoch."""
    cell = search.cells[trial].settings.cell
    made = add_run(cell.root / "made", "sasrec_ce", cell.seed, n_users=20, **changes)
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    made.folder.rename(cell.folder)
    rows = [{"epoch": i, "valid/ndcg@10": value} for i, value in enumerate(valid)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (cell.folder / "train.jsonl").write_text(text, encoding="utf-8")
    info = json.loads((cell.folder / "run.json").read_text(encoding="utf-8"))
    info["describe"]["best_epoch"] = best
    store.write_json(cell.folder / "run.json", info)
    return cell.folder


def test_trials_are_the_grid_with_one_seed(search: tune.Search) -> None:
    assert search.name == "smoke/ml-100k-150u/sasrec_ce"
    assert [cell.settings.method["hidden_size"] for cell in search.cells] == [8, 16]
    assert {cell.settings.method["learning_rate"] for cell in search.cells} == {1e-5}
    assert {cell.settings.seed for cell in search.cells} == {3}


def test_the_best_validation_is_chosen_whatever_the_test_says(search: tune.Search) -> None:
    """The first trial is perfect on test, and nothing but its log is looked at."""
    finish(search, 0, [0.1, 0.2, 0.1], 1, ranks=[1] * 20)
    assert tune.choose(search) is None  # one trial is not enough
    finish(search, 1, [0.3, 0.25, 0.9], 0, ranks=[0] * 20)  # 0.9 is not what the run kept
    assert tune.choose(search) == tune.Chosen(1, 0.3)


def test_the_first_of_equals_is_chosen(search: tune.Search) -> None:
    finish(search, 0, [0.2], 0)
    finish(search, 1, [0.2], 0)
    assert tune.choose(search) == tune.Chosen(0, 0.2)


@pytest.fixture
def no_test_figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("a test figure was read")

    for owner, name in ((StoredRun, "metrics"), (StoredRun, "ranks"), (pd, "read_parquet")):
        monkeypatch.setattr(owner, name, refuse)
    yield


def test_nothing_of_the_test_is_read(
    search: tune.Search, tmp_path: Path, no_test_figures: None
) -> None:
    for trial in (0, 1):
        finish(search, trial, [0.1 * (trial + 1)], 0)
    with pytest.raises(AssertionError):  # the guard is in place
        StoredRun(search.cells[0].settings.cell.folder, {}).metrics()
    (line,) = tune.write_choices([search], tmp_path / "tuned")
    assert line == (
        "smoke/ml-100k-150u/sasrec_ce: method.hidden_size=16 method.learning_rate=1e-05 "
        "(valid/ndcg@10 0.2000, the best of 2 trials)"
    )


def test_a_run_without_validation_cannot_be_chosen_by_it(search: tune.Search) -> None:
    finish(search, 0, [0.2], 0)
    finish(search, 1, [0.2], 5)
    with pytest.raises(UserError, match="logs no valid/ndcg@10 of its best epoch"):
        tune.choose(search)


def test_the_choice_is_what_an_experiment_takes(
    search: tune.Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tuned file, found by Hydra, gives the chosen trial's cell and says how it was found."""
    for trial, value in ((0, 0.1), (1, 0.2)):
        finish(search, trial, [value], 0)
    tune.write_choices([search], tmp_path / "tuned")
    kept = (tmp_path / "tuned" / f"{search.name}.yaml").read_text()
    made = settings_with(
        kept, tmp_path, monkeypatch, "sasrec_ce", f"results={tmp_path}/r", "seed=3"
    )
    assert made.cell == search.cells[1].settings.cell
    assert made.tuning["trials"] == 2
    assert made.tuning["overrides"] == "experiment=smoke"  # no folder of this machine
    assert made.tuning["grid"] == GRID["grids"]["sasrec_ce"]  # type: ignore[index]


def test_a_group_can_be_chosen(
    tmp_path: Path, grids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = ["protocol=small", f"results={tmp_path}/r", "grid.method=[ste]"]
    (search,) = tune.searches("smoke", extra)
    estimators = [cell.settings.method["estimator"] for cell in search.cells]
    assert [one["logit_scale"] for one in estimators] == ["none", "gap"]
    kept = tune.tuned_text(search, tune.Chosen(1, 0.5))
    made = settings_with(kept, tmp_path, monkeypatch, "ste", *extra[:2], "seed=3")
    assert made.cell == search.cells[1].settings.cell


def settings_with(
    tuned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, *overrides: str
) -> Any:
    """The settings of a cell of smoke where the tuned file of its method has this content."""
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    protocol = "small" if "protocol=small" in overrides else "smoke"
    path = conf / "tuned" / "validation" / protocol / "ml-100k-150u" / f"{method}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(tuned)
    monkeypatch.setattr("benchmark.config.CONF", conf)
    words = ["experiment=smoke", "tuning=validation", f"method={method}", *overrides]
    return settings_from(compose_config(words))


def test_every_grid_is_of_a_method_and_gives_good_cells() -> None:
    _, grids = read_grids()
    methods = {path.stem for path in (CONF / "method").glob("*.yaml")}
    assert set(grids) == methods - {"pop"}
    found = tune.searches("beauty")
    trials = {search.method: len(search.cells) for search in found}
    assert {trials[m] for m in ("lightgcn", "sasrec_ce", "sasrec_bce")} == {9}
    assert {n for m, n in trials.items() if m in ("tiger", "ste") or "diger" in m} == {2}


def test_the_preset_is_among_the_trials() -> None:
    """So that tuning can only do as well or better on validation."""
    for search in tune.searches("beauty"):
        words = ["experiment=beauty", "tuning=none", f"method={search.method}", "seed=0",
                 "dataset=beauty/keyphrases"]  # fmt: skip
        usual = settings_from(compose_config(words)).cell.folder
        assert usual in [cell.settings.cell.folder for cell in search.cells], search.method


def test_two_trials_of_the_same_settings_are_refused(grids: Path) -> None:
    grids.write_text(grids.read_text().replace("16", "8"))
    with pytest.raises(UserError, match="the same settings"):
        tune.searches("smoke", ["grid.method=[sasrec_ce]"])


def test_nothing_to_tune(grids: Path) -> None:
    with pytest.raises(UserError, match="no method of smoke has a grid"):
        tune.searches("smoke", ["grid.method=[pop]"])


def test_tables_say_how_many_trials_there_were(tmp_path: Path) -> None:
    record = {"trials": 9, "grid": {"method.dropout": [1], "noise@preset": [None]}}
    for method, tuning in (("sasrec_bce", record), ("tiger", {}), ("pop", None)):
        add_run(tmp_path, method, 0, n_users=20, tuning={})
        add_run(tmp_path, method, 1, n_users=20, tuning=tuning)
    runs = stored(tmp_path)
    (result,) = aggregate(runs).values()
    assert tuning_notes(result) == [
        "Settings chosen on validation, by one seed. SASRec (BCE): 9 trials (dropout x noise). As "
        "configured, without trials: Popularity; TIGER."
    ]
    (result,) = aggregate([run for run in runs if run.method != "sasrec_bce"]).values()
    assert tuning_notes(result) == []


def stored(root: Path) -> list[StoredRun]:
    folders = sorted(path.parent for path in root.rglob("run.json"))
    return [StoredRun(folder, store.read_run_json(folder) or {}) for folder in folders]


def test_tune_runs_its_trials_and_goes_on(tmp_path: Path, data_cache: Path) -> None:
    """The command, on the smoke experiment: a trial that is there is not run again."""
    program = (
        "import sys, pathlib, yaml\nfrom benchmark import tune\n"
        "read = tune.read_grids\n"
        f"tune.read_grids = lambda: read(pathlib.Path({str(tmp_path / 'grids.yaml')!r}))\n"
        f"out = pathlib.Path({str(tmp_path / 'tuned')!r})\n"
        "from benchmark.experiment import read_arguments\nfrom benchmark.guard import guard\n"
        "guard(lambda: tune.execute(read_arguments(sys.argv[1:]), out))\n"
    )
    (tmp_path / "grids.yaml").write_text(yaml.safe_dump(GRID))
    (tmp_path / "program.py").write_text(program)
    words = ["smoke", "grid.method=[sasrec_ce]", f"results={tmp_path}/r", f"cache={data_cache}",
             "+tuning.trials=9"]  # fmt: skip
    done = call("program", *words, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "the best of 2 trials" in done.stdout
    again = call("program", *words, PYTHONPATH=str(tmp_path))
    assert "2 cells, 2 done, 0 left" in again.stdout.replace("smoke: ", "")
    for path in (tmp_path / "r").rglob("run.json"):  # what a run was told of its tuning stays
        assert json.loads(path.read_text())["tuning"] == {"trials": 9}
    (path,) = (tmp_path / "tuned").rglob("*.yaml")
    assert yaml.safe_load(path.read_text())["tuning"]["trials"] == 2
