"""Fitting RecBole's models: the same run twice, resumable, and no traces left behind."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines import recbole_compat, recbole_trainer
from baselines.lightgcn import LightGCN
from baselines.recbole_adapter import RecBoleMethod
from baselines.sasrec import SasRecBCE, SasRecCE
from benchmark.errors import UserError
from benchmark.store import RunFolder
from tests.recbole_cases import METHODS, SMALL, fitted, logged, planted, scores, small


@pytest.mark.parametrize("kind", METHODS)
def test_the_same_seed_gives_the_same_model(kind: type[RecBoleMethod], tmp_path: Path) -> None:
    data = planted()
    one, two, other = (
        scores(fitted(kind, data, tmp_path / str(number), seed), data)
        for number, seed in enumerate((3, 3, 4))
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", METHODS)
def test_the_seed_decides_both_the_weights_and_the_order_of_rows(
    kind: type[RecBoleMethod], tmp_path: Path
) -> None:
    data, still = planted(), 1e-20  # a learning rate that moves nothing
    methods = [
        fitted(kind, data, tmp_path / str(seed), seed, learning_rate=still, epochs=1)
        for seed in (3, 4)
    ]
    assert not np.array_equal(scores(methods[0], data), scores(methods[1], data))
    assert [method.loaders.train.generator.initial_seed() for method in methods] == [3, 4]


@pytest.mark.parametrize(
    ("kind", "wide"), [(LightGCN, {"embedding_size": 256}), (SasRecCE, {"hidden_size": 256})]
)
def test_threads_do_not_disturb_repeatability(
    kind: type[RecBoleMethod], wide: dict[str, Any], tmp_path: Path
) -> None:
    """Gradients wide enough that torch would add them up in parallel, in any order."""
    data, threads = planted(), torch.get_num_threads()
    wide = {**wide, "epochs": 1, "train_batch_size": 512}
    torch.set_num_threads(2)
    try:
        runs = [scores(fitted(kind, data, tmp_path / name, **wide), data) for name in "abc"]
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0], runs[2])


def test_a_fit_can_be_taken_apart(tmp_path: Path) -> None:
    """What measures speed: one epoch, one validation, lists; the same as in a fit."""
    data, apart = planted(), tmp_path / "apart"
    whole = fitted(SasRecBCE, data, tmp_path / "whole", epochs=1)
    (row,) = logged(tmp_path / "whole")
    method = small(SasRecBCE, epochs=1)
    with method.opened(data, 0, RunFolder(apart, apart, "cpu")) as parts:
        assert torch.are_deterministic_algorithms_enabled()  # sums of gradients in a fixed order
        assert parts.epoch(0) == pytest.approx(row["loss/train"])
        assert parts.validate() == {name: row[f"valid/{name}"] for name in parts.validate()}
        assert np.array_equal(scores(method, data), scores(whole, data))
    assert list(apart.iterdir()) == []


class Interrupted(Exception):
    pass


class FragileRun(RunFolder):
    """A run that is cut off as it logs the validation of one epoch."""

    cut_at = 5

    def log(self, row: Mapping[str, Any]) -> None:
        if row["epoch"] == self.cut_at and "valid/ndcg@10" in row:
            raise Interrupted
        super().log(row)


@pytest.mark.parametrize("kind", METHODS)
def test_an_interrupted_fit_ends_like_an_uninterrupted_one(
    kind: type[RecBoleMethod], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recbole_trainer, "CHECKPOINT_SECONDS", 0.0)
    data, whole, cut = planted(), tmp_path / "whole", tmp_path / "cut"
    settings: dict[str, Any] = {"epochs": 8, "stopping_step": 8}
    straight = fitted(kind, data, whole, **settings)
    with pytest.raises(Interrupted):
        small(kind, **settings).fit(data, 0, FragileRun(cut, cut, "cpu"))
    batches: list[int] = []
    resumed = small(kind, **settings)
    show = lambda done, *_: batches.append(done)  # noqa: E731
    resumed.fit(data, 0, RunFolder(cut, cut, "cpu", show))
    assert np.array_equal(scores(resumed, data), scores(straight, data))
    assert resumed.describe() == straight.describe()
    for one, two in zip(logged(cut), logged(whole), strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}
    assert batches[0] == 5 * len(resumed.loaders.train) + 1


def test_a_best_epoch_before_the_interruption_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recbole_trainer, "CHECKPOINT_SECONDS", 0.0)
    wild: dict[str, Any] = {"epochs": 8, "learning_rate": 2.0, "stopping_step": 8}
    data, cut = planted(), tmp_path / "cut"
    straight = fitted(LightGCN, data, tmp_path / "whole", **wild)
    best = straight.describe()["best_epoch"]
    assert best + 1 < wild["epochs"]
    monkeypatch.setattr(FragileRun, "cut_at", best + 1)
    with pytest.raises(Interrupted):
        small(LightGCN, **wild).fit(data, 0, FragileRun(cut, cut, "cpu"))
    resumed = fitted(LightGCN, data, cut, **wild)
    assert resumed.describe() == straight.describe()
    assert np.array_equal(scores(resumed, data), scores(straight, data))


def test_a_checkpoint_of_another_fit_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recbole_trainer, "CHECKPOINT_SECONDS", 0.0)
    data = planted()
    fitted(SasRecCE, data, tmp_path / "mixed", seed=1)
    mixed = fitted(SasRecCE, data, tmp_path / "mixed", seed=2)
    clean = fitted(SasRecCE, data, tmp_path / "clean", seed=2)
    assert np.array_equal(scores(mixed, data), scores(clean, data))


@pytest.mark.parametrize("kind", METHODS)
def test_the_best_epoch_is_kept(kind: type[RecBoleMethod], tmp_path: Path) -> None:
    wild: dict[str, Any] = {"epochs": 16, "learning_rate": 0.5, "stopping_step": 20}
    method = fitted(kind, planted(), tmp_path, **wild)
    curve = [row["valid/ndcg@10"] for row in logged(tmp_path)]
    assert curve[-1] < max(curve)
    assert method.recbole_figures("valid")["ndcg@10"] == pytest.approx(max(curve), abs=1e-7)
    assert curve[method.describe()["best_epoch"]] == max(curve)


def test_recbole_stops_early(tmp_path: Path) -> None:
    fitted(SasRecCE, planted(), tmp_path, epochs=40, learning_rate=0.3, stopping_step=1)
    curve = [row["valid/ndcg@10"] for row in logged(tmp_path)]
    assert len(curve) < 40
    assert max(curve[-2:]) < max(curve[:-2])


def test_every_epoch_is_logged_and_every_batch_shown(tmp_path: Path) -> None:
    shown: list[tuple[int, int, str, str]] = []
    method = LightGCN(**{**SMALL, "epochs": 5, "eval_every": 2})
    show = lambda *call: shown.append(call)  # noqa: E731
    method.fit(planted(), 0, RunFolder(tmp_path, tmp_path, "cpu", show))
    rows = logged(tmp_path)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert [("valid/ndcg@10" in row, "valid/recall@10" in row) for row in rows] == [
        (False, False),
        (True, True),
    ] * 2 + [(False, False)]
    assert all(0 < row["loss/train"] < 0.7 and row["seconds"] > 0 for row in rows)
    total = 5 * len(method.loaders.train)
    assert [call[:2] for call in shown] == [(done, total) for done in range(1, total + 1)]
    assert "valid NDCG@10" in shown[-1][3]


def test_a_fit_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no changed command line or environment, no process-wide mode, no chatter."""
    for name in ("here", "temporary", "run"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    argv = ["run.py", "--epochs=1", "--learning_rate=9", "method=lightgcn", "-m"]
    monkeypatch.setattr(sys, "argv", argv)
    fitted(LightGCN, planted(), tmp_path / "run").recbole_figures("test")
    assert sys.argv == ["run.py", "--epochs=1", "--learning_rate=9", "method=lightgcn", "-m"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert list((tmp_path / "here").iterdir()) == []
    assert list((tmp_path / "temporary").iterdir()) == []
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["train.jsonl"]
    assert len(logged(tmp_path / "run")) == SMALL["epochs"]
    assert not torch.is_anomaly_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", METHODS)
def test_warnings_and_chatter_stay_away(
    kind: type[RecBoleMethod],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    with caplog.at_level(logging.INFO):
        fitted(kind, planted(), tmp_path).recbole_figures("test")
        logging.getLogger().info("ours")
    assert [record.message for record in caplog.records] == ["ours"]
    assert [str(warning.message) for warning in recwarn.list] == []


def test_a_folder_may_look_like_a_bad_number(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    method = LightGCN(**SMALL)
    recbole_compat.prepare()
    with recbole_compat.quiet():
        method._config(planted().split, 0, "cpu", tmp_path / "a-1or")
    assert [str(warning.message) for warning in recwarn.list] == []


def test_preparing_twice_is_preparing_once() -> None:
    recbole_compat.prepare()
    trainers = importlib.import_module("recbole.trainer.trainer")
    patched = trainers.get_tensorboard(None)
    recbole_compat.prepare()
    assert type(trainers.get_tensorboard(None)) is type(patched)


def test_without_recbole_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "recbole.config", None)
    with pytest.raises(UserError, match=r"run_all\.sh.*pip install --no-deps recbole") as caught:
        fitted(LightGCN, planted(), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_device_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="device=cuda"):
        LightGCN(**SMALL).fit(planted(), 0, RunFolder(tmp_path, tmp_path, "cuda"))


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (LightGCN, "epochs", 0),
        (LightGCN, "epochs", 2.5),
        (LightGCN, "train_batch_size", True),
        (LightGCN, "learning_rate", 0.0),
        (LightGCN, "learning_rate", float("nan")),
        (LightGCN, "learning_rate", float("inf")),
        (LightGCN, "learning_rate", "fast"),
        (LightGCN, "weight_decay", -0.1),
        (LightGCN, "stopping_step", -1),
        (LightGCN, "eval_every", 301),
        (LightGCN, "eval_users", 0),
        (LightGCN, "embedding_size", 0),
        (LightGCN, "n_layers", 0),
        (LightGCN, "reg_weight", -1),
        (SasRecCE, "hidden_size", 0),
        (SasRecCE, "inner_size", "big"),
        (SasRecCE, "n_layers", 0),
        (SasRecCE, "n_heads", 3),
        (SasRecBCE, "dropout", 1.0),
        (SasRecBCE, "dropout", -0.1),
    ],
)
def test_impossible_settings_are_named(kind: type[RecBoleMethod], key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{key} .*{value}") as caught:
        kind(**{key: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
