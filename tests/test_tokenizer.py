"""Quantiser, RQ-VAE and semantic IDs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from diger.checks import SettingError
from diger.quantizer import (
    Nearest,
    Sinkhorn,
    make_assignment,
    quantize,
    residual_kmeans,
    squared_distances,
)
from diger.rqvae import RQVAE, RQVAEConfig, shared_rqvae, train_rqvae
from diger.semantic_ids import add_suffix, code_statistics, drift
from diger.tokenizer_training import Reached


def test_quantize_by_hand() -> None:
    books = torch.tensor([[[0.0, 0.0], [4.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    latent = torch.tensor([[5.0, 0.0], [0.0, 2.0]])
    # Row 0: nearest to (4, 0), leaves (1, 0): code 1. Row 1: to (0, 0), leaves (0, 2): code 0.
    got = quantize(latent, books, Nearest())
    assert got.codes.tolist() == [[1, 1], [0, 0]]
    assert got.residuals[:, 1].tolist() == [[1.0, 0.0], [0.0, 2.0]]
    assert got.quantized.tolist() == [[5.0, 0.0], [0.0, 1.0]]


def test_squared_distances_are_those_of_cdist() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(7, 3), torch.randn(5, 3)
    torch.testing.assert_close(squared_distances(a, b), torch.cdist(a, b).square())


def test_sinkhorn_loads_every_code_alike(ml100k_with_text) -> None:  # type: ignore[no-untyped-def]
    """On real embeddings the transported mass is even, and argmax codes are far evener than
    nearest ones."""
    content = torch.as_tensor(ml100k_with_text.data.embeddings)
    n, k = len(content), 64
    distances = squared_distances(content, residual_kmeans(content, 1, k, 0)[0])
    plan = Sinkhorn().transport(distances).exp()
    torch.testing.assert_close(plan.sum(0) * n, torch.full((k,), n / k).double(), rtol=0.01, atol=0)
    balance = [
        code_statistics(rule(distances)[:, None].numpy().astype(np.int32), k).balance[0]
        for rule in (Sinkhorn(), Nearest())
    ]
    assert balance[0] > balance[1] + 0.1


def test_sinkhorn_survives_distances_that_underflow() -> None:
    distances = torch.tensor([[0.0, 1e6], [1.0, 1e6], [2.0, 0.0], [3.0, 0.0]])
    assert Sinkhorn(epsilon=1e-3)(distances).tolist() == [0, 0, 1, 1]


def test_kmeans_needs_as_many_items_as_codes() -> None:
    with pytest.raises(SettingError, match="codebook_size 9 needs at least as many items"):
        residual_kmeans(torch.randn(8, 2), 1, 9, 0)


def test_unknown_assignment() -> None:
    with pytest.raises(ValueError, match="'argmin' or 'sinkhorn'"):
        make_assignment("nearest")


def test_suffix_numbers_sharers_in_item_order() -> None:
    codes = np.array([[1, 2], [0, 0], [1, 2], [1, 2], [0, 1]], dtype=np.int32)
    assert add_suffix(codes, 4)[:, 2].tolist() == [0, 0, 1, 2, 0]


def test_too_many_sharers_say_what_to_change() -> None:
    with pytest.raises(SettingError, match=r"3 items share the same 2 codes.*codebook_size"):
        add_suffix(np.zeros((3, 2), dtype=np.int32), 2)


def test_statistics_by_hand() -> None:
    codes = np.array([[0, 0], [0, 1], [0, 1], [2, 1]], dtype=np.int32)
    got = code_statistics(codes, 4)
    assert got.used == [2, 2]
    h = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert got.entropy == pytest.approx([h, h])
    assert got.perplexity == pytest.approx([np.exp(h)] * 2)
    # Loads 3, 0, 1, 0 against 1 each: 1 - (2 + 1 + 0 + 1) / 8
    assert got.balance[0] == pytest.approx(0.5)
    assert got.collision_rate == pytest.approx(1 - 3 / 4)
    assert got.largest_group == 2


def test_drift_counts_items_and_levels() -> None:
    before = np.array([[0, 0], [1, 1], [2, 2], [3, 3]], dtype=np.int32)
    after = np.array([[0, 1], [1, 1], [0, 0], [3, 3]], dtype=np.int32)
    assert drift(before, after) == {"drift/full": 0.5, "drift/level": [0.25, 0.5]}


CONFIG = RQVAEConfig(
    hidden=(16,), latent=8, epochs=60, min_epochs=40, check_every=10, learning_rate=5e-3
)


def clustered(n: int = 300) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 24))
    x = centres[rng.integers(0, 20, n)] + 0.3 * rng.normal(size=(n, 24))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def trained(x: np.ndarray) -> RQVAE:
    torch.manual_seed(3)
    return train_rqvae(RQVAE(24, 3, 16, CONFIG), x, seed=3)


def test_training_lowers_the_loss_and_repeats_bit_for_bit() -> None:
    x = clustered()
    torch.manual_seed(3)
    fresh = RQVAE(24, 3, 16, CONFIG)
    with torch.no_grad():
        fresh.codebooks.copy_(residual_kmeans(fresh.encoder(torch.as_tensor(x)), 3, 16, 3))
        before = float(fresh.loss(torch.as_tensor(x)).total)
    first, second = (trained(x) for _ in range(2))
    assert float(first.loss(torch.as_tensor(x)).total.detach()) < 0.8 * before
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_loss_moves_each_codebook_by_its_own_level_only() -> None:
    x = torch.as_tensor(clustered(50))
    model = RQVAE(24, 2, 4, CONFIG)
    torch.nn.init.normal_(model.codebooks)
    latent = model.encoder(x).detach()
    q = quantize(latent, model.codebooks, Nearest())
    level_one = (model.codebooks[0][q.codes[:, 0]] - latent).square().sum(-1).mean()
    want = torch.autograd.grad(level_one, model.codebooks)[0][0]
    got = torch.autograd.grad(model.loss(x).total, model.codebooks)[0][0]
    torch.testing.assert_close(got, want)


def test_shared_tokenizer_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = clustered()
    made = shared_rqvae(x, "hash", 3, 16, CONFIG, 0, tmp_path)
    monkeypatch.setattr("diger.rqvae.train_rqvae", lambda *_: pytest.fail("trained again"))
    again = shared_rqvae(x, "hash", 3, 16, CONFIG, 0, tmp_path)
    assert torch.equal(made.codebooks, again.codebooks)
    monkeypatch.undo()
    path = next((tmp_path / "tokenizer").glob("*.pt"))
    path.write_bytes(path.read_bytes()[:1000])  # cut: it is trained again
    assert torch.equal(
        shared_rqvae(x, "hash", 3, 16, CONFIG, 0, tmp_path).codebooks, made.codebooks
    )
    monkeypatch.setattr("diger.rqvae.train_rqvae", lambda *_: pytest.fail("trained again"))
    with pytest.raises(pytest.fail.Exception):  # another seed is another tokenizer
        shared_rqvae(x, "hash", 3, 16, CONFIG, 1, tmp_path)


# --- a training that is interrupted ---------------------------------------------------------


class Stopped(Exception):
    """Somebody stops the training."""


def stop_after(epoch: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == epoch:
            raise Stopped

    return progress


def training(cache: Path) -> Path:
    """The state of the only training that is going on there."""
    (path,) = (cache / "tokenizer").glob("*.training.pt")
    return path


@pytest.mark.parametrize("epoch", [14, 33, 59])
def test_an_interrupted_training_ends_as_if_it_had_never_stopped(
    epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = clustered()
    whole = shared_rqvae(x, "hash", 3, 16, CONFIG, 3, tmp_path / "whole")
    with pytest.raises(Stopped):
        shared_rqvae(x, "hash", 3, 16, CONFIG, 3, tmp_path, progress=stop_after(epoch))
    assert training(tmp_path).exists()
    monkeypatch.setattr("diger.rqvae.residual_kmeans", lambda *_: pytest.fail("started again"))
    seen: list[int] = []
    again = shared_rqvae(
        x, "hash", 3, 16, CONFIG, 3, tmp_path, progress=lambda done, _: seen.append(done)
    )
    assert seen == list(range(epoch // 10 * 10 + 1, 61))  # from the last check on
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not list((tmp_path / "tokenizer").glob("*.training.pt"))
    without_time = [{**made.facts, "seconds": 0} for made in (whole, again)]
    assert without_time[0] == without_time[1]


@pytest.mark.parametrize("damage", ["cut", "empty", "another model", "another file"])
def test_a_damaged_state_is_not_taken_up(damage: str, tmp_path: Path) -> None:
    x = clustered()
    whole = shared_rqvae(x, "hash", 3, 16, CONFIG, 3, tmp_path / "whole")
    with pytest.raises(Stopped):
        shared_rqvae(x, "hash", 3, 16, CONFIG, 3, tmp_path, progress=stop_after(25))
    path = training(tmp_path)
    state = torch.load(path, weights_only=True)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:2000])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "another model":  # what is read first fits, what is read last does not
        state["optimizer"]["param_groups"][0]["params"].append(99)
        torch.save(state, path)
    else:
        torch.save([1, 2], path)
    again = shared_rqvae(x, "hash", 3, 16, CONFIG, 3, tmp_path)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_states_of_other_settings_are_left_alone(tmp_path: Path) -> None:
    x = clustered()
    with pytest.raises(Stopped):
        shared_rqvae(x, "hash", 3, 16, CONFIG, 3, tmp_path, progress=stop_after(25))
    path = training(tmp_path)
    before = path.read_bytes()
    shared_rqvae(x, "hash", 3, 16, CONFIG, 4, tmp_path)
    assert path.read_bytes() == before


def test_facts_of_a_training_stay_with_the_tokenizer(tmp_path: Path) -> None:
    x = clustered()
    made = shared_rqvae(x, "hash", 3, 16, CONFIG, 3, tmp_path)
    assert made.facts["epochs"] == 60
    assert made.facts["stopped"] == "epochs"
    assert [epoch for epoch, _ in made.facts["collisions"]] == [40, 50, 60]
    rates = dict(made.facts["collisions"])
    assert rates[made.facts["best_epoch"]] == min(rates.values())
    content = torch.as_tensor(x)
    assert code_statistics(made.assign(content), 16).collision_rate == min(rates.values())
    assert shared_rqvae(x, "hash", 3, 16, CONFIG, 3, tmp_path).facts == made.facts
    (path,) = (tmp_path / "tokenizer").glob("*.json")
    for damaged in ("{", "[]"):
        path.write_text(damaged)
        assert shared_rqvae(x, "hash", 3, 16, CONFIG, 3, tmp_path).facts == {}


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    x = clustered()
    shared_rqvae(x, "hash", 3, 16, CONFIG, 3, tmp_path)
    (path,) = (tmp_path / "tokenizer").glob("*.pt")
    leftover = path.with_name(f".{path.stem}.training.pt.123.tmp")
    other = path.with_name(".0123456789.pt.123.tmp")
    for file in (leftover, other):
        file.touch()
    shared_rqvae(x, "hash", 3, 16, CONFIG, 3, tmp_path)
    assert not leftover.exists()
    assert other.exists()  # somebody else may be writing it


RULE = RQVAEConfig(epochs=1000, min_epochs=100, check_every=40, patience=3)


@pytest.mark.parametrize(
    ("epoch", "best", "stale", "last"),
    [
        # The first check is at 120, the first multiple of 40 that is not below 100; if nothing
        # after it is better, the third stale one is 240.
        (0, float("inf"), 0, 240),
        (119, float("inf"), 0, 240),
        (120, 0.1, 0, 240),
        (121, 0.1, 0, 240),
        (160, 0.1, 1, 240),
        (160, 0.1, 0, 280),
        (240, 0.1, 3, 240),
        (960, 0.1, 0, 1000),
        (1000, 0.1, 1, 1000),
    ],
)
def test_when_a_training_will_end(epoch: int, best: float, stale: int, last: int) -> None:
    assert Reached({}, epoch=epoch, best=best, stale=stale).last_epoch(RULE) == last


def test_progress_counts_to_where_the_training_ends() -> None:
    rule = RQVAEConfig(hidden=(16,), latent=8, epochs=500, min_epochs=5, check_every=5, patience=2)
    seen: list[tuple[int, int]] = []
    torch.manual_seed(3)
    made = train_rqvae(RQVAE(24, 3, 16, rule), clustered(), 3, "cpu", lambda *at: seen.append(at))
    assert made.facts["stopped"] == "patience"
    assert made.facts["epochs"] < 500
    assert seen[-1] == (made.facts["epochs"], made.facts["epochs"])
    totals = [total for _, total in seen]
    assert totals == sorted(totals)
