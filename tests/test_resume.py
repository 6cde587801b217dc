"""The same command twice gives the same bytes; so does a fit that was killed on its way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark import store

REPO = Path(__file__).parents[1]
GENERATIVE = ["tiger", "letter_tiger", "diger_sdud_frqud", "diger_sdud_cached", "gumbel_cosine"]
SMALL = ["dataset=ml-100k-150u", "protocol=smoke", "seed=3", "device=cpu"]


def command(method: str, results: Path, cache: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "benchmark.run", f"method={method}", *SMALL,
        f"results={results}", f"cache={cache}", *more,
    ]  # fmt: skip


def run(*arguments: str | Path, method: str, results: Path, cache: Path) -> Path:
    done = subprocess.run(
        command(method, results, cache, *map(str, arguments)),
        cwd=REPO, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize(
    "method", ["pop", "lightgcn", "sasrec_ce", "sasrec_bce", "tiger", "letter_tiger"]
)
def test_twice_the_same_bytes(method: str, tmp_path: Path, data_cache: Path) -> None:
    folders = [run(method=method, results=tmp_path / name, cache=data_cache) for name in "ab"]
    first, second = ((folder / "ranks.parquet").read_bytes() for folder in folders)
    assert first == second


def wait_for(path: Path, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end, f"{path.name} did not appear"
        time.sleep(0.005)


def timeless_log(folder: Path) -> list[dict[str, object]]:
    """train.jsonl without the seconds: losses, code statistics and gradients to the last bit."""
    rows = store.StoredRun(folder, {}).train_log()
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.parametrize("method", GENERATIVE)
def test_killed_and_continued_gives_the_same_bytes(
    method: str, tmp_path: Path, data_cache: Path
) -> None:
    more = ["method.train.epochs=6", "method.train.patience=6", "method.train.lr_tokenizer=1e-4"]
    whole = run(*more, method=method, results=tmp_path / "whole", cache=data_cache)
    assert [row["epoch"] for row in store.StoredRun(whole, {}).train_log()] == list(range(6))
    cell = tmp_path / "cut" / whole.relative_to(tmp_path / "whole")
    with subprocess.Popen(
        command(method, tmp_path / "cut", data_cache, *more), cwd=REPO,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        wait_for(cell / "sids" / "epoch=0002.npy", process)
        os.kill(process.pid, signal.SIGKILL)
    assert not (cell / "ranks.parquet").exists()
    assert (cell / "checkpoint.pt").exists()
    assert not store.is_done(cell)
    first_epoch = (cell / "sids" / "epoch=0000.npy").stat().st_mtime_ns
    again = run(*more, method=method, results=tmp_path / "cut", cache=data_cache)
    assert again == cell
    for name in ("ranks.parquet", "metrics.parquet", "sids.npy"):
        assert (cell / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (cell / "checkpoint.pt").exists()
    assert (cell / "sids" / "epoch=0000.npy").stat().st_mtime_ns == first_epoch  # it went on
    # Validation may select an epoch before the cut, so the epochs after it are compared too.
    assert timeless_log(cell) == timeless_log(whole)


def test_a_finished_cell_is_skipped(tmp_path: Path, data_cache: Path) -> None:
    folder = run(method="pop", results=tmp_path, cache=data_cache)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    run(method="pop", results=tmp_path, cache=data_cache)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    assert before == after


@pytest.mark.parametrize("sign", ["output.log", "sids/epoch=0001.npy"])
def test_kill_of_the_scheduler_then_the_same_command(
    sign: str, tmp_path: Path, data_cache: Path
) -> None:
    """kill -9 of run_all's process, at once or mid-way: its cells end by themselves, and the same
    command goes on."""
    command_line = [
        sys.executable, "-m", "benchmark.experiment", "smoke", "--jobs", "2",
        "grid.method=[tiger,gumbel]", "grid.seed=[4]", "method.train.epochs=40",
        "method.train.patience=40", f"results={tmp_path}/r", f"cache={data_cache}",
        f"reports={tmp_path}/reports",
    ]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command_line, cwd=REPO, **quiet) as process:  # type: ignore[call-overload]
        cells = tmp_path / "r" / "ml-100k-150u"
        end = time.monotonic() + 120
        while len(list(cells.rglob(sign))) < 2:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    done = subprocess.run(command_line, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 cells, 0 done, 2 left" in done.stdout
    assert len(list(cells.rglob("ranks.parquet"))) == 2
