"""``python -m benchmark.tokenize``: what it prints, writes and refuses; stopped, it goes on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from benchmark import tokenize
from benchmark.report.code_map import UNUSED, code_maps, use_of
from benchmark.store import sha256_file
from tests.conftest import REPO
from tests.test_cli import call, last_error, one_error

SMALL = ["dataset=ml-100k-150u", "protocol=smoke", "device=cpu"]
#: Long enough to be stopped: an epoch is two steps.
LONG = [*SMALL, "method.tokenizer.epochs=120", "method.tokenizer.check_every=5", "seed=7"]


def output(*arguments: str, reports: Path, cache: Path) -> tuple[list[str], Path]:
    """Lines that were printed, and the folder that was written."""
    done = call("benchmark.tokenize", *arguments, f"reports={reports}", f"cache={cache}")
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    return printed[:-1], Path(printed[-1])


def linked_cache(folder: Path, data_cache: Path) -> Path:
    """A cache with the prepared data but without tokenizers."""
    folder.mkdir()
    for path in data_cache.iterdir():
        if path.name != "tokenizer":
            (folder / path.name).symlink_to(path)
    return folder


def epoch_of(cache: Path) -> int:
    (path,) = (cache / "tokenizer").glob("*.training.pt")
    return int(torch.load(path, weights_only=True)["reached"]["epoch"])


@pytest.mark.parametrize("kind", ["rqvae", "rq-kmeans"])
def test_table_files_and_figure(kind: str, tmp_path: Path, data_cache: Path) -> None:
    more = [] if kind == "rqvae" else ["method.tokenizer.kind=rq-kmeans"]
    cache = linked_cache(tmp_path / "cache", data_cache)
    text, folder = output(*SMALL, *more, reports=tmp_path, cache=cache)
    assert folder.is_relative_to(tmp_path / "tokenizers" / "ml-100k-150u" / "tiger")
    assert sorted(path.name for path in folder.iterdir()) == [
        "codes.pdf", "codes.png", "sids-argmin.npy", "sids-sinkhorn.npy", "statistics.json",
    ]  # fmt: skip
    facts = json.loads((folder / "statistics.json").read_text())
    assert facts["kind"] == {"rqvae": "RQVAE", "rq-kmeans": "RQKMeans"}[kind]
    if kind == "rqvae":
        assert facts["training"]["epochs"] == 60
    for rule in ("argmin", "sinkhorn"):
        sids = np.load(folder / f"sids-{rule}.npy")
        assert sids.shape == (1327, 4)
        assert len(np.unique(sids, axis=0)) == 1327  # with the suffix every item has its own
        stated = facts["assignments"][rule]
        distinct = len(np.unique(sids[:, :3], axis=0))
        assert stated["distinct"] == distinct
        assert stated["collision_rate"] == pytest.approx(1 - distinct / 1327)
        assert stated["largest_group"] == sids[:, 3].max() + 1
        for level in range(3):
            counts = np.bincount(sids[:, level], minlength=32)
            share = counts[counts > 0] / 1327
            entropy = -(share * np.log(share)).sum()
            balance = 1 - np.abs(counts - 1327 / 32).sum() / (2 * 1327)
            row = (
                rule, str(level + 1), str((counts > 0).sum()), f"{entropy:.3f}",
                f"{np.exp(entropy):.1f}", f"{balance:.3f}",
            )  # fmt: skip
            assert row in [tuple(line.split()) for line in text]
        for level in range(3):
            shares = [
                stated["shared_prefixes"][of][level] for of in ("nearest", "following", "random")
            ]
            shared = (rule, str(level + 1), *(f"{share:.4f}" for share in shares))
            assert shared in [tuple(line.split()) for line in text]
        assert stated["shared_prefixes"]["nearest"][0] > 2 / 32  # twice what chance would bring
        (line,) = (line for line in text if re.match(rf"{rule} .*%", line))
        assert line.split()[1] == f"{distinct:,}"
        assert ("own" in line) == (rule == "sinkhorn")


def test_default_protocol_is_the_papers() -> None:
    assert tokenize.with_defaults(["seed=1"]) == ["protocol=paper", "seed=1"]
    assert tokenize.with_defaults(["protocol=full"]) == ["protocol=full"]
    more = ["protocol=full", "method.tokenizer.kind=x", "method.levels=2"]
    assert tokenize.with_defaults(more) == [more[0], f"++{more[1]}", more[2]]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("method=pop", "pop has no tokenizer; choose a method with semantic IDs"),
        ("method=sasrec_ce", "sasrec_ce has no tokenizer"),
        ("method.tokenizer.nonsense=1", "unknown key method.tokenizer.nonsense"),
        ("method.tokenizer.kind=k-means", "tokenizer.kind must be one of rqvae, rq-kmeans"),
        ("method.tokenizer.checkpoint=nowhere", "neither a file nor a data set"),
        ("dataset=nonsense", "Could not find 'dataset/nonsense'"),
        ("--fast", "cannot read --fast"),
    ],
)
def test_bad_input_is_one_line(
    argument: str, message: str, tmp_path: Path, data_cache: Path
) -> None:
    done = call("benchmark.tokenize", *SMALL, argument, f"reports={tmp_path / 'r'}",
                f"cache={data_cache}")  # fmt: skip
    # A checkpoint is looked for once the data are there, which may have to be embedded first.
    found = last_error(done) if "checkpoint" in argument else one_error(done)
    assert message in found
    assert not list(tmp_path.rglob("*.npy"))


def test_impossible_on_the_data_is_one_line(tmp_path: Path, data_cache: Path) -> None:
    done = call("benchmark.tokenize", *SMALL, "method.codebook_size=5000",
                f"reports={tmp_path}", f"cache={data_cache}")  # fmt: skip
    assert "codebook_size 5000 needs at least as many items" in last_error(done)


def test_too_many_sharers_is_a_note(tmp_path: Path, data_cache: Path) -> None:
    text, folder = output(
        *SMALL, "method.codebook_size=2", "method.tokenizer.kind=rq-kmeans",
        reports=tmp_path, cache=data_cache,
    )  # fmt: skip
    assert sum("note: no semantic IDs by" in line for line in text) == 2
    assert not list(folder.glob("*.npy"))
    assert (folder / "statistics.json").exists()


def start(cache: Path, reports: Path) -> subprocess.Popen[bytes]:
    """A long training, once it has kept its state."""
    before = set((cache / "tokenizer").glob("*.training.pt"))
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark.tokenize", *LONG, f"cache={cache}", f"reports={reports}"],
        cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    end = time.monotonic() + 120
    while set((cache / "tokenizer").glob("*.training.pt")) == before:
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_started_again_it_goes_on(
    number: signal.Signals, tmp_path: Path, data_cache: Path
) -> None:
    cache = linked_cache(tmp_path / "cache", data_cache)
    process = start(cache, tmp_path / "reports")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        last = errors.decode().replace("\r", "\n").strip().splitlines()[-1]
        assert last == "interrupted: the same command goes on from here"
        assert b"Traceback" not in errors
    assert not (tmp_path / "reports" / "tokenizers").exists()
    assert 5 <= epoch_of(cache) < 120
    _, folder = output(*LONG, reports=tmp_path / "reports", cache=cache)
    whole = linked_cache(tmp_path / "whole", data_cache)
    _, other = output(*LONG, reports=tmp_path / "other", cache=whole)
    for rule in ("argmin", "sinkhorn"):
        assert sha256_file(folder / f"sids-{rule}.npy") == sha256_file(other / f"sids-{rule}.npy")
    weights = [
        torch.load(next((place / "tokenizer").glob("*[0-9a-f].pt")), weights_only=True)
        for place in (cache, whole)
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not list((cache / "tokenizer").glob("*.training.pt"))


# --- the figure -----------------------------------------------------------------------------


def values(axes: Axes) -> NDArray[np.float64]:
    """What the image of a panel shows, [rows, columns]."""
    return np.asarray(axes.images[0].get_array())


def test_maps_show_the_counts_and_tell_none_from_one() -> None:
    codes = np.array([[0, 1], [0, 1], [3, 2], [1, 1]], dtype=np.int32)
    uses = {"argmin": use_of(codes, 4), "sinkhorn": use_of(codes[:, ::-1], 4)}
    figure = code_maps("codes", "title", uses, "caption").figure
    maps = [axes for axes in figure.axes if axes.images]
    shown = [values(axes).astype(int).tolist() for axes in maps]
    first, second = [[2, 1], [0, 1]], [[0, 3], [1, 0]]  # codes 0 1 / 2 3, row by row
    assert shown == [first, second, second, first]
    assert [axes.get_title().splitlines()[0] for axes in maps] == [
        "argmin, level 1", "argmin, level 2", "sinkhorn, level 1", "sinkhorn, level 2",
    ]  # fmt: skip
    grey = np.array([int(UNUSED[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    for axes, counts in zip(maps, shown, strict=True):
        image = axes.images[0]
        colours = image.to_rgba(values(axes))[..., :3]
        is_grey = np.isclose(colours, grey).all(-1)
        assert is_grey.tolist() == [[count == 0 for count in row] for row in counts]
        assert image.get_clim() == maps[0].images[0].get_clim()


def test_use_by_hand() -> None:
    use = use_of(np.array([[0, 1], [0, 1], [2, 1]], dtype=np.int32), 4)
    assert use.counts.tolist() == [[2, 0, 1, 0], [0, 3, 0, 0]]
    assert (use.n_distinct, use.largest_group) == (2, 2)
