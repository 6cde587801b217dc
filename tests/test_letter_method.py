"""LETTER as a method: SASRec's item embeddings, what is stored, and bad settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from baselines import recbole_trainer
from baselines.collaborative import item_embeddings
from baselines.letter import Letter
from baselines.letter_tokenizer import LetterRQVAE
from baselines.sasrec import SasRecCE
from baselines.tiger import TwoStage
from benchmark.config import build_method, compose_config, settings_from
from benchmark.data.split import Split
from benchmark.errors import UserError
from benchmark.recommender import BenchmarkData
from benchmark.store import RunFolder, StoredRun
from diger.checks import SettingError
from tests.recbole_cases import N_ITEMS, UNUSED, fitted, planted
from tests.test_config import PROTOCOLS
from tests.test_letter_tokenizer import same

# SASRec's item embeddings ------------------------------------------------------------------

SASREC: dict[str, Any] = {
    "epochs": 6, "learning_rate": 0.01, "train_batch_size": 64, "hidden_size": 8,
    "inner_size": 16, "n_layers": 1, "stopping_step": 6,
}  # fmt: skip


LOG = "train.jsonl"  # SASRec's own


class Killed(Exception):
    pass


def embeddings(
    cache: Path, data: BenchmarkData | None = None, seed: int = 0, **options: Any
) -> NDArray[np.float32]:
    run = RunFolder(
        cache / "cell", cache, "cpu", options.pop("show", None), options.pop("exclude_seen", None)
    )
    return item_embeddings({**SASREC, **options}, data or planted(), seed, run)


def no_fit(*_: Any, **__: Any) -> None:
    raise AssertionError("trained again")


def test_embeddings_are_in_our_order_of_items(tmp_path: Path) -> None:
    method = fitted(SasRecCE, planted(), tmp_path, epochs=1)
    assert isinstance(method, SasRecCE)
    tokens = method.loaders.train._dataset.field2id_token["item_id"]  # by RecBole's id
    model = method._after_fit().watched.trainer.model
    with torch.no_grad():
        for number, token in enumerate(tokens[1:], start=1):
            model.item_embedding.weight[number] = float(token)
    table = method.item_embeddings()
    assert table.dtype == np.float32
    assert np.array_equal(table, np.repeat(np.arange(N_ITEMS, dtype=np.float32)[:, None], 16, 1))


def test_sasrec_is_trained_once_and_apart_from_the_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    first = embeddings(tmp_path, show=lambda _done, _total, _unit, note: notes.append(note))
    assert first.shape == (N_ITEMS, 8)
    assert all(note.startswith("SASRec for the tokenizer") for note in notes) and notes
    assert not (tmp_path / "cell" / "train.jsonl").exists()
    (folder,) = (tmp_path / "collaborative").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "items.npy", LOG]
    with monkeypatch.context() as patched:
        patched.setattr(SasRecCE, "fit", no_fit)
        assert np.array_equal(embeddings(tmp_path), first)
        others: list[dict[str, Any]] = [
            {"seed": 1}, {"exclude_seen": True}, {"dropout": 0.1}, {"data": planted(max_history=3)},
        ]  # fmt: skip
        for other in others:
            with pytest.raises(AssertionError, match="trained again"):
                embeddings(tmp_path, **other)
    whole = (folder / "items.npy").read_bytes()
    for damaged in (whole[:300], b"", whole.replace(b"'<f4'", b"'<i4'")):
        (folder / "items.npy").write_bytes(damaged)
        assert np.array_equal(embeddings(tmp_path), first)  # made again
    assert (folder / "items.npy").read_bytes() == whole


def test_an_interrupted_sasrec_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recbole_trainer, "CHECKPOINT_SECONDS", 0.0)
    straight = embeddings(tmp_path / "whole")
    done: list[int] = []

    def cut(at: int, *_: Any) -> None:
        done.append(at)
        if len(done) == 20:
            raise Killed

    with pytest.raises(Killed):
        embeddings(tmp_path / "cut", show=cut)
    resumed: list[int] = []
    again = embeddings(tmp_path / "cut", show=lambda at, *_: resumed.append(at))
    assert np.array_equal(again, straight)
    assert 1 < resumed[0] <= done[-1]
    for name in ("whole", "cut"):  # no checkpoint is left
        (folder,) = (tmp_path / name / "collaborative").iterdir()
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "items.npy", LOG]


def test_embeddings_do_not_know_the_test_items(tmp_path: Path) -> None:
    data = planted()
    items = data.split.items.copy()
    last = data.split.positions("test")
    items[last] = (items[last] + 5) % (N_ITEMS - UNUSED)
    other = Split(items, data.split.offsets, N_ITEMS, data.split.max_history)
    trained_on = np.unique(data.split.items[data.split.train_positions])
    one = embeddings(tmp_path, data)
    two = embeddings(tmp_path, dataclasses.replace(data, split=other))
    assert len(list((tmp_path / "collaborative").iterdir())) == 2  # it was trained for each
    assert np.array_equal(one[trained_on], two[trained_on])


def test_a_diverged_sasrec_names_its_own_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: Any) -> None:
        raise SettingError("the loss is not a number: lower method.learning_rate")

    monkeypatch.setattr(SasRecCE, "fit", diverge)
    with pytest.raises(SettingError, match=r"lower method\.collaborative\.learning_rate"):
        embeddings(tmp_path)


# The method --------------------------------------------------------------------------------


def method(**letter: float) -> Letter:
    return Letter(
        collaborative=SASREC,
        letter={"alpha": 0.5, "beta": 0.1, "clusters": 3, **letter},
        estimator=TwoStage,
        levels=2,
        codebook_size=8,
        tokenizer={"hidden": [16], "latent": 8, "epochs": 20, "min_epochs": 5, "check_every": 5},
        model={"layers": 1, "d_model": 16, "d_ff": 16, "heads": 1, "d_head": 16, "dropout": 0.0},
        train={"epochs": 2, "patience": 2, "warmup_steps": 1},
        decode={"beams": 20},
    )


def with_text() -> BenchmarkData:
    vectors = np.random.default_rng(3).normal(size=(N_ITEMS, 12)).astype(np.float32)
    return dataclasses.replace(planted(), embeddings=vectors, embeddings_sha256="vectors")


def test_the_tokenizer_is_the_same_whatever_was_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = with_text(), RunFolder(tmp_path / "cell", tmp_path / "cache", "cpu")
    cold = method().make_tokenizer(data, 4, run)
    monkeypatch.setattr(SasRecCE, "fit", no_fit)
    stored = method().make_tokenizer(data, 4, run)
    for path in (tmp_path / "cache" / "tokenizer").glob("*.pt"):
        path.unlink()
    torch.manual_seed(99)
    remade = method().make_tokenizer(data, 4, run)  # SASRec from the cache
    assert isinstance(cold, LetterRQVAE)
    assert cold._seed == 4  # of clusters and draws
    assert same(cold, stored)
    assert same(cold, remade)
    assert not same(cold, method(alpha=0.6).make_tokenizer(data, 4, run))
    assert not same(cold, method(beta=0.2).make_tokenizer(data, 4, run))


def test_an_interrupted_tokenizer_goes_on(tmp_path: Path) -> None:
    data, done = with_text(), []

    def run(name: str, show: Callable[..., None]) -> RunFolder:
        return RunFolder(tmp_path / name / "cell", tmp_path / name, "cpu", show)

    def cut(at: int, _total: int, _unit: str, note: str) -> None:
        if note == "LETTER tokenizer" and at == 12:  # kept at 10
            raise Killed

    def follow(at: int, _total: int, _unit: str, note: str) -> None:
        done.append((note, at))

    whole = method().make_tokenizer(data, 0, run("whole", lambda *_: None))
    with pytest.raises(Killed):
        method().make_tokenizer(data, 0, run("cut", cut))
    assert same(method().make_tokenizer(data, 0, run("cut", follow)), whole)
    assert done[0] == ("LETTER tokenizer", 11)


def test_other_collaborative_embeddings_are_another_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = with_text(), RunFolder(tmp_path / "cell", tmp_path / "cache", "cpu")
    table = np.random.default_rng(0).normal(size=(N_ITEMS, 8)).astype(np.float32)
    made = []
    for sign in (1, -1):
        monkeypatch.setattr("baselines.letter.item_embeddings", lambda *_, s=sign: s * table)
        made.append(method().make_tokenizer(data, 0, run))
    assert not same(*made)


def test_fit_is_two_stage_and_says_what_it_used(tmp_path: Path) -> None:
    data, cell = with_text(), tmp_path / "cell"
    letter = method()
    letter.fit(data, 0, RunFolder(cell, tmp_path / "cache", "cpu"))
    facts = letter.describe()
    assert facts["collaborative_width"] == 8
    assert facts["letter"] == {"alpha": 0.5, "beta": 0.1, "clusters": 3}
    assert facts["trains_tokenizer"] is False
    rows = StoredRun(cell, {}).train_log()
    assert [row["epoch"] for row in rows] == [0, 1]  # none of SASRec's
    assert all(row["grad/encoder"] == 0 for row in rows)
    tokenizer = letter.make_tokenizer(data, 0, RunFolder(cell, tmp_path / "cache", "cpu"))
    codes = tokenizer.assign(torch.as_tensor(data.embeddings), tokenizer.assignment)
    assert np.array_equal(letter.semantic_ids()[:, :-1], codes)


@pytest.mark.parametrize(
    "override, message",
    [
        ("method.letter.alpha=-1", "letter.alpha must be at least 0"),
        ("method.letter.beta=inf", "letter.beta must be less than inf"),
        ("method.letter.beta=nan", "letter.beta must be at least 0"),
        ("method.letter.clusters=2.5", "letter.clusters must be a whole number"),
        ("method.letter.clusters=0", "letter.clusters must be at least 1"),
        ("method.letter.clusters=33", "method.letter.clusters must be at most half of"),
        ("+method.letter.gamma=1", "unknown key method.letter.gamma"),
        ("method.letter=null", "method.letter must be a group of settings"),
        ("method.collaborative.hidden_size=48", "hidden_size must be method.tokenizer.latent (32)"),
        ("method.collaborative.epochs=0", "method.collaborative.epochs must be at least 1"),
        ("+method.collaborative.width=3", "unknown key method.collaborative.width"),
        ("method.collaborative=null", "method.collaborative must be a group of settings"),
        ("++method.tokenizer.kind=rq-kmeans", "LETTER trains an RQ-VAE of its own"),
        ("++method.tokenizer.checkpoint=beauty", "LETTER trains an RQ-VAE of its own"),
        ("+method.width=3", "unexpected keyword argument 'width'"),
    ],
)
def test_bad_settings_are_one_line(override: str, message: str) -> None:
    settings = settings_from(compose_config(["protocol=quick", "method=letter_tiger", override]))
    with pytest.raises(UserError) as caught:
        build_method(settings)
    text = str(caught.value)
    assert text.startswith("method letter_tiger: ")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sasrec_is_as_wide_as_the_latents(protocol: str) -> None:
    chosen = [f"protocol={protocol}", "method=letter_tiger"]
    for more, width in ([], None), (["method.tokenizer.latent=48"], 48):
        letter = build_method(settings_from(compose_config([*chosen, *more])))
        assert isinstance(letter, Letter)
        assert letter.collaborative_width == (width or letter.tokenizer.latent)
