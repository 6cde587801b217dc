"""scripts/gpu_portion.sh from end to end, on a CPU: what it brings back, and that it goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark import portions, store
from benchmark.errors import UserError
from benchmark.processes import Planned
from benchmark.provenance import COMMIT_VARIABLE, git_state
from tests.test_portions import cells, record  # noqa: F401 - a fixture

REPO = Path(__file__).parents[1]
SCRIPT = REPO / "scripts" / "gpu_portion.sh"


def portion(*arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False,
        env={**os.environ, **{key: str(value) for key, value in environment.items()}},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["-", "{tmp}/o"], {}, "usage: "),
        (["-", "{tmp}/o", "smoke"], {"MINUTES": "x"}, "MINUTES must be a number above 0, got x"),
        (["-", "{tmp}/o", "smoke"], {"MINUTES": "0"}, "MINUTES must be a number above 0"),
        (["-", "{tmp}/o", "smoke"], {"FINISH_WITHIN": "-1"}, "FINISH_WITHIN must be"),
        (["-", "{tmp}/o", "smoke"], {"COMMAND": "rm"}, "COMMAND must be experiment or tune"),
        (["-", "{tmp}/o", "smoke"], {"MINUTES": "0.3"}, "raise MINUTES"),
        (["{tmp}", "{tmp}/o", "smoke"], {}, "is no folder that"),
    ],
)
def test_bad_arguments(
    arguments: list[str], environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    places = {"RESULTS": tmp_path / "r", **environment}
    done = portion(*(word.format(tmp=tmp_path) for word in arguments), **places)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.slow
def test_two_portions_and_the_way_back(tmp_path: Path, data_cache: Path) -> None:
    """The first portion finishes pop, the second is told that it is done and runs SASRec only; what
    comes back is imported into a store and reported there."""
    pytest.importorskip("benchmark.export", reason="needs python -m benchmark.export")
    words = ["smoke", "--assume", "1", "device=cpu"]
    places = {"DIGER_BENCH_CACHE": data_cache, "MINUTES": 4}
    first, second = tmp_path / "first", tmp_path / "second"
    done = portion("-", first, *words, "grid.method=[pop]", RESULTS=tmp_path / "r1", **places)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in first.iterdir()} == {"runs.zip", "gpu.txt", "log.txt", "cache"}
    target = tmp_path / "results"
    module("benchmark.export", f"import={first}/runs.zip", f"store={target}")
    (pop,) = target.rglob("run.json")
    assert store.is_done(pop.parent)
    assert not (pop.parent / "ranks.parquet").exists()

    node = tmp_path / "node"  # another machine, which knows what is done by its records alone
    assert portions.copy_records(target, node / "known") == 1
    methods = "grid.method=[pop,sasrec_ce]"
    done = portion("-", second, *words, methods, "--known", node / "known",
                   RESULTS=tmp_path / "r2", **places)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "all 2 cells are done" in (second / "log.txt").read_text()
    assert not list((tmp_path / "r2").rglob("pop"))
    module("benchmark.export", f"import={second}/runs.zip", f"store={target}")
    module("benchmark.report", "experiment=smoke", methods, f"store={target}",
           f"out={tmp_path}/report")  # fmt: skip
    index = (tmp_path / "report" / "index.md").read_text(encoding="utf-8")
    assert "not finished" not in index


def module(name: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", name, *arguments],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_it_is_over_when_it_said(tmp_path: Path) -> None:
    """Whatever the command does: here it hangs, and the 25 seconds for the way back stay."""
    repo = tmp_path / "repo"
    for folder in ("scripts", ".venv/bin"):
        (repo / folder).mkdir(parents=True)
    (repo / "scripts" / SCRIPT.name).write_text(SCRIPT.read_text())
    python = repo / ".venv" / "bin" / "python"
    python.write_text("#!/usr/bin/env bash\nexec sleep 60\n")
    python.chmod(0o755)
    started = time.monotonic()
    done = subprocess.run(
        ["bash", str(repo / "scripts" / SCRIPT.name), "-", str(tmp_path / "out"), "smoke"],
        env={**os.environ, "MINUTES": "0.8", COMMIT_VARIABLE: "a" * 40},
        capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip
    assert done.returncode == 124
    assert time.monotonic() - started < 48 - 20
    assert "long after its own limit" in done.stderr
    assert (tmp_path / "out" / "log.txt").exists()


def test_records_of_finished_cells_alone_are_copied(
    cells: list[Planned],  # noqa: F811
    tmp_path: Path,
) -> None:
    """Published ones among them, in the place where their cell would be."""
    results, known = tmp_path / "r", tmp_path / "known"
    record(cells[0])
    record(cells[1], results / "published")
    record(cells[2], status="running")
    (cells[0].settings.cell.folder / "metrics.parquet").write_text("large")
    assert portions.copy_records(results, known) == 2
    assert {path.name for path in known.rglob("*") if path.is_file()} == {"run.json"}
    found = portions.Known([known])
    states = [found.done_elsewhere(cell.settings.cell) for cell in cells]
    assert states == [True, True, False, False]
    with pytest.raises(UserError, match="no results folder"):
        portions.copy_records(tmp_path / "none", known)


def test_the_commit_of_a_copy_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.provenance.ROOT", tmp_path)
    monkeypatch.delenv(COMMIT_VARIABLE, raising=False)
    assert git_state() == {"commit": None, "dirty": None}
    monkeypatch.setenv(COMMIT_VARIABLE, "c" * 40)
    assert git_state() == {"commit": "c" * 40, "dirty": None}
