"""Bad input: one clear line, exit code 2, nothing trained, nothing lost."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from benchmark.errors import UserError
from benchmark.experiment import execute, plan, read_arguments, untuned_line

REPO = Path(__file__).parents[1]
SMALL = ["dataset=ml-100k-150u", "protocol=smoke", "device=cpu"]


def call(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=REPO, capture_output=True, text=True,
        check=False, env={**os.environ, **environment},
    )  # fmt: skip


def one_error(done: subprocess.CompletedProcess[str]) -> str:
    """The single line of standard error of a call that must have ended with code 2."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def last_error(done: subprocess.CompletedProcess[str]) -> str:
    """The error line of a call that failed with code 2 after progress had been shown."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    return last


BAD = [
    ("method=nonsense", "Could not find 'method/nonsense'"),
    ("dataset=nonsense", "Could not find 'dataset/nonsense'"),
    ("method.codebook_size=-1", "codebook_size must be at least 2, got -1"),
    ("method.codebook_size=1", "codebook_size must be at least 2, got 1"),
    ("method.codebook_size=2.5", "codebook_size must be a whole number, got 2.5"),
    ("method.nonsense=1", "method.nonsense"),
    ("nonsense=1", "nonsense"),
    ("+method.nonsense=1", "nonsense"),
    ("+method.train.nonsense=1", "unknown key method.train.nonsense"),
    ("method.train.epochs=0", "train.epochs must be at least 1"),
    ("method.train.learning_rate=-1", "train.learning_rate must be greater than 0"),
    ("method.decode.beams=10", "10 beams cannot fill lists of 20"),
    ("method.decode.mode=greedy", "decode.mode must be one of"),
    ("protocol.ks=[5,50]", "shorter than the largest cut-off"),
    ("protocol.ks=[]", "at least one cut-off"),
    ("protocol.max_history=0", "max_history must be a whole number of at least 1"),
    ("seed=-1", "seed must be a whole number"),
    ("seed=abc", "seed must be a whole number"),
    ("device=tpu", "device must be auto, cpu or cuda"),
    ("threads=0", "threads must be a whole number"),
    ("exclude_seen=maybe", "exclude_seen must be true, false or null"),
    ("dataset.users=0", "users"),
    ("protocol.ks=5", "protocol.ks must be a list"),
    ("method=null", "method"),
    ("method.tokenizer=null", "method.tokenizer must be a group of settings"),
    ("method.tokenizer.hidden=5", "tokenizer.hidden must be a list"),
    ("method.model.dropout=abc", "dropout must be at least 0, got 'abc'"),
    ("seed=1,2", "multirun"),
    ("seed=[", "cannot read seed=["),
]


@pytest.mark.parametrize(("override", "message"), BAD, ids=[override for override, _ in BAD])
def test_bad_setting(override: str, message: str, tmp_path: Path) -> None:
    from benchmark.config import check_cell
    from benchmark.errors import UserError

    with pytest.raises(UserError) as caught:
        check_cell([*SMALL, f"results={tmp_path}", override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["method=nonsense", "method.codebook_size=-1"])
def test_exit_code_and_one_line(override: str, tmp_path: Path) -> None:
    done = call("benchmark.run", *SMALL, f"results={tmp_path}/r", override)
    one_error(done)
    assert not (tmp_path / "r").exists()


def test_negative_lambda(tmp_path: Path) -> None:
    done = call("benchmark.run", *SMALL, "method=diger_sdud", "method.estimator.lambda_=-1")
    assert "lambda_ must be at least 0, got -1" in one_error(done)


def test_a_grid_with_one_bad_cell_runs_none(tmp_path: Path) -> None:
    done = call(
        "benchmark.run", "-m", *SMALL, f"results={tmp_path}/r", "method=pop,nonsense", "seed=0,1"
    )
    assert "nonsense" in one_error(done)
    assert not (tmp_path / "r").exists()


def test_a_grid_runs_every_cell(tmp_path: Path, data_cache: Path) -> None:
    done = call(
        "benchmark.run", "-m", *SMALL, f"results={tmp_path}/r", f"cache={data_cache}",
        "method=pop", "seed=0,1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(path.parent.name for path in tmp_path.rglob("ranks.parquet")) == [
        "seed=0", "seed=1",
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["results", "cache"])
def test_unwritable_folder(key: str, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")  # a folder below a file cannot be made, whoever asks
    done = call("benchmark.run", *SMALL, "method=pop", f"{key}={blocked}/r")
    assert f"cannot write to {blocked}/r" in one_error(done)


def test_damaged_lists_are_named_and_kept(tmp_path: Path, data_cache: Path) -> None:
    """A truncated ranks.parquet: run and report both say so, and nothing is overwritten."""
    places = [f"results={tmp_path}/r", f"cache={data_cache}"]
    for method in ("pop", "sasrec_ce"):
        assert call("benchmark.run", *SMALL, *places, f"method={method}").returncode == 0
    lists = next((tmp_path / "r" / "ml-100k-150u" / "pop").rglob("ranks.parquet"))
    lists.write_bytes(lists.read_bytes()[:100])
    error = one_error(call("benchmark.run", *SMALL, *places, "method=pop"))
    assert str(lists) in error
    assert "damaged" in error
    assert lists.stat().st_size == 100
    done = call("benchmark.report", f"store={tmp_path}/r", f"out={tmp_path}/report")
    assert str(lists) in one_error(done)
    index = (tmp_path / "report" / "index.md").read_text(encoding="utf-8")
    assert str(lists) in index  # the report of the rest names the bad one
    assert "SASRec" in index


def test_damaged_checkpoint_is_one_line(tmp_path: Path, data_cache: Path) -> None:
    from benchmark.config import check_cell

    places = [*SMALL, f"results={tmp_path}/r", f"cache={data_cache}", "method=tiger"]
    folder = check_cell(places).cell.folder
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"PK nonsense")
    assert "checkpoint.pt is damaged" in last_error(call("benchmark.run", *places))


@pytest.mark.parametrize(
    "settings",
    [
        ["method=tiger", "method.train.learning_rate=1e12"],
        ["method=sasrec_ce", "method.learning_rate=1e30", "method.epochs=5"],
    ],
    ids=["tiger", "sasrec_ce"],
)
def test_divergence_is_one_line_and_not_a_result(
    settings: list[str], tmp_path: Path, data_cache: Path
) -> None:
    done = call("benchmark.run", *SMALL, f"results={tmp_path}/r", f"cache={data_cache}", *settings)
    assert "the loss is not a number" in last_error(done)
    assert not list(tmp_path.rglob("ranks.parquet"))


@pytest.mark.parametrize("override", ["method=tiger", "seed=7", "dataset=ml-100k"])
def test_an_override_of_the_grid_is_refused(override: str) -> None:
    done = call("benchmark.experiment", "smoke", override, "--dry-run")
    assert "choose with grid." in one_error(done)


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--jobs", "x"], ["--jobs", "0"]])
def test_bad_arguments_of_an_experiment(arguments: list[str]) -> None:
    one_error(call("benchmark.experiment", "smoke", *arguments))


def test_nothing_to_report(tmp_path: Path) -> None:
    assert "no results folder" in one_error(call("benchmark.report", f"store={tmp_path}/none"))
    assert "no finished runs" in one_error(call("benchmark.report", f"store={tmp_path}"))
    assert "expected key=value" in one_error(call("benchmark.report", "quick"))
    assert "unknown option" in one_error(call("benchmark.report", "sotre=x"))


def test_report_needs_no_torch(tmp_path: Path, data_cache: Path) -> None:
    places = [f"results={tmp_path}/r", f"cache={data_cache}"]
    assert call("benchmark.run", *SMALL, *places, "method=pop").returncode == 0
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    done = call(
        "benchmark.report", f"store={tmp_path}/r", f"out={tmp_path}/o", PYTHONPATH=str(tmp_path)
    )
    assert done.returncode == 0, done.stderr


def test_dry_run_lists_and_trains_nothing(tmp_path: Path) -> None:
    done = call("benchmark.experiment", "smoke", "--dry-run", f"results={tmp_path}/r")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[-1] == "12 cells: 0 done, 12 left"
    assert len(lines) == 13
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "experiment", sorted(path.stem for path in (REPO / "benchmark/conf/experiment").glob("*.yaml"))
)
def test_every_experiment_has_only_good_cells(experiment: str) -> None:
    from benchmark.experiment import plan

    cells = plan(experiment)
    assert len({cell.name for cell in cells}) == len(cells)


@pytest.mark.parametrize(("method", "texts"), [("pop", False), ("tiger", True)])
def test_an_experiment_embeds_only_for_methods_that_need_it(
    method: str, texts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And goes on with the other methods where texts cannot be had."""
    from benchmark import experiment

    commands = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    experiment.prepare_all(experiment.plan("smoke", [f"grid.method=[pop,{method}]"]))
    (command,) = commands
    assert "--best-effort" in command
    assert ("--no-embeddings" in command) == (not texts)


def test_unknown_experiment() -> None:
    assert "no experiment 'nonsense'" in one_error(call("benchmark.experiment", "nonsense"))


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize(
    "name",
    ["aa", "against", "audit", "export", "findings", "portions", "prepare", "publish", "released",
     "report", "speed.reporting", "speed.statistics", "speed.synthetic_store", "tokenize"],
)  # fmt: skip
def test_every_command_says_what_it_takes(
    name: str, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, flag])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # another test may have imported it
        runpy.run_module(f"benchmark.{name}", run_name="__main__")
    told, error = capsys.readouterr()
    assert f"python -m benchmark.{name}" in told
    assert error == ""


def test_an_experiment_of_tuned_settings_wants_them_first() -> None:
    """Its cells would be others than those it is about."""
    words = ["grid.method=[pop,tiger]", "grid.seed=[0]"]
    found = untuned_line("beauty", plan("beauty", words))
    assert found is not None
    assert "none of tiger on beauty-keyphrases" in found
    assert untuned_line("beauty", plan("beauty", [*words, "tuning=none"])) is None
    assert untuned_line("quick", plan("quick", words)) is None
    with pytest.raises(UserError, match=r"python -m benchmark\.tune beauty"):
        execute(read_arguments(["beauty", *words]))
