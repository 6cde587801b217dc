"""The plain reference of the speed table computes what diger computes."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5Attention

from benchmark.metrics import METRICS, target_ranks
from benchmark.speed.plain import PlainRecommender
from benchmark.speed.plain_decode import PrefixTrie, plain_beam_search, plain_metrics, plain_rank
from benchmark.speed.synthetic import synthetic_sids, synthetic_split
from diger.decode import DecodeConfig
from diger.generator import Generator
from diger.optimizer import TrainConfig
from diger.rqvae import RQVAE, RQVAEConfig
from diger.seq2seq import ModelConfig
from diger.trainer import Trainer
from tests.estimators import ESTIMATORS

K, LEVELS, N, USERS, LONGEST = 6, 3, 40, 150, 6
BATCH, STEPS = 32, 50


class SharedNoise:
    """Gumbel noise that only step, level and row decide: however many rows a path tokenises at
    once, and however it draws, both paths get the same."""

    def __init__(self) -> None:
        self.step = self.level = 0

    def start(self, step: int) -> None:
        self.step, self.level = step, 0

    def __call__(self, like: Tensor, generator: torch.Generator) -> Tensor:
        rows = np.random.default_rng([self.step, self.level]).gumbel(size=(512, like.shape[1]))
        self.level += 1
        return torch.as_tensor(rows[: len(like)], dtype=like.dtype)


class Pair(NamedTuple):
    plain: PlainRecommender
    trainer: Trainer


def make_pair(
    name: str,
    mean_history: float = 6,
    dropout: float = 0.0,
    beams: int = 20,
    logit_scale: str = "none",
    **settings: Any,
) -> Pair:
    """Both paths of a small method, from the same weights."""
    torch.manual_seed(0)
    tokenizer = RQVAE(10, LEVELS, K, RQVAEConfig(hidden=(12,), latent=5))
    nn.init.normal_(tokenizer.codebooks)
    content = 2 * torch.randn(N, 10)
    estimator = ESTIMATORS[name](LEVELS, K, logit_scale=logit_scale, gap_target=2.0)
    for _ in range(100):  # codes 0 and 1 become hot
        estimator.observe(torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1]]))
    split = synthetic_split(USERS, N, mean_history, LONGEST)
    sids = synthetic_sids(N, LEVELS, K)
    model = ModelConfig(2, 16, 24, 2, 8, dropout, init_std=0.3)
    # Warmed up as the paper's. At the full rate, AdamW makes of one ReLU that rounding turns on or
    # off a difference of 1e-3 within 50 steps, which says nothing of either path.
    usual: dict[str, Any] = {"warmup_steps": 500, "weight_decay": 1.0, "clip": 0.1}
    train = TrainConfig(
        **{"batch_size": BATCH, "epochs": 40, "lr_tokenizer": 1e-3, **usual, **settings}
    )
    plain = PlainRecommender(
        model, train, LEVELS, K, tokenizer, estimator, content, sids, split, "cpu", 0
    )
    generator = Generator(LEVELS, K, model)
    plain.copy_weights(generator)
    trainer = Trainer(
        train, DecodeConfig(beams), generator, tokenizer, estimator, content, sids, split, 0, "cpu"
    )
    return Pair(plain, trainer)


CASES = [
    ("tiger", {}),
    ("ste", {}),
    ("ste", {"freeze_encoder": False}),
    ("diger_sdud", {}),
    ("diger_frqud", {}),
    ("diger_sdud_frqud_cached", {"w_vq": 0.5, "w_reconstruction": 2.0, "logit_scale": "gap"}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_losses_agree_step_by_step(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = SharedNoise()
    monkeypatch.setattr("diger.estimators.sample_gumbel", noise)
    plain, trainer = make_pair(name, **settings)
    before = trainer.tokenizer.codebooks.detach().clone()
    trainer.modules.train()
    order = np.random.default_rng(0).permutation(trainer.data.train_positions)
    noise.start(0)
    first = plain.loss(order[:BATCH])["rec"]
    for step in range(STEPS):
        positions = np.take(order, np.arange(step * BATCH, (step + 1) * BATCH), mode="wrap")
        if step % 10 == 0:
            noise.start(step)
            slow = plain.loss(positions)
        noise.start(step)
        loss = plain.step(plain.batch(positions))
        noise.start(step)
        fast = trainer.step(positions)
        assert loss == pytest.approx(float(fast["total"]), abs=1e-4, rel=0)
        if step % 10 == 0:
            assert slow.keys() == fast.keys()
            for key, value in slow.items():
                torch.testing.assert_close(value.detach(), fast[key], atol=1e-4, rtol=0)
    noise.start(0)
    assert plain.loss(order[:BATCH])["rec"].item() < first.item() - 0.02  # they do train
    # What the last steps' losses have not yet read agrees as well.
    mine, theirs = plain.tokenizer.codebooks, trainer.tokenizer.codebooks
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
    moved = float((theirs - before).abs().max().detach())
    assert moved > 1e-3 if trainer.estimator.trains_tokenizer else moved == 0
    for part, other in zip(
        plain.estimator.state_dict().values(), trainer.estimator.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(part, other, atol=1e-4, rtol=0)


def test_dropout_is_that_of_the_model() -> None:
    plain, _ = make_pair("tiger", dropout=0.25)
    parts = list(plain.model.modules())
    assert {part.p for part in parts if isinstance(part, nn.Dropout)} == {0.25}
    assert {part.dropout for part in parts if isinstance(part, T5Attention)} == {0.25}
    assert plain.model.t5.config._attn_implementation == "eager"
    positions = plain.data.train_positions[:BATCH]
    assert plain.loss(positions)["rec"] != plain.loss(positions)["rec"]


def test_an_epoch_reads_every_row_once_in_a_new_order() -> None:
    plain, _ = make_pair("tiger")
    data = plain.data
    starts = data.history_starts(data.train_positions)
    want = [
        (tuple(data.items[start:end].tolist()), int(data.items[end]))
        for start, end in zip(starts, data.train_positions, strict=True)
    ]
    epochs = []
    for _ in range(2):
        rows = []
        for batch in plain.loader:
            assert batch.history.shape[1] == LONGEST
            assert (batch.history[~batch.mask] == 0).all()
            for history, mask, target in zip(*batch, strict=True):
                assert mask[: mask.sum()].all()  # left-aligned
                rows.append((tuple(history[mask].tolist()), int(target)))
        epochs.append(rows)
    assert Counter(epochs[0]) == Counter(epochs[1]) == Counter(want)
    assert epochs[0] != epochs[1] != want


def test_an_epoch_trains_on_its_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = make_pair("diger_sdud", dropout=0.1, warmup_steps=2)
    shares: list[float] = []
    monkeypatch.setattr(plain.estimator, "advance", shares.append)
    first = plain.model.start.detach().clone()
    plain.model.eval()
    losses = list(plain.epoch())
    assert plain.model.training
    assert len(losses) == plain.steps == len(plain.loader) == plain.total_steps / 40
    assert shares == [step / plain.total_steps for step in range(len(losses))]
    assert all(np.isfinite(loss) for loss in losses)
    assert not plain.model.start.equal(first)
    assert plain.schedule.get_last_lr()[0] < plain.config.learning_rate


@pytest.mark.parametrize("layers", [1, 3])
def test_weights_of_another_model_are_refused(layers: int) -> None:
    plain, _ = make_pair("tiger")
    with pytest.raises(ValueError, match="only one of the generator and the plain model has"):
        plain.copy_weights(Generator(LEVELS, K, ModelConfig(layers, 16, 24, 2, 8)))


# Decoding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("beams", [5, 12, 3 * N])
def test_finds_what_the_fast_search_finds(beams: int, exclude_seen: bool) -> None:
    # Histories so long that all items below some codes are seen, and most of them twice.
    plain, trainer = make_pair("tiger", mean_history=25, dropout=0.3, beams=beams)
    plain.model.train()  # as an epoch leaves it
    users = np.random.default_rng(0).permutation(USERS)[:25]
    items, scores = plain_rank(plain, users, beams, "test", beams, 7, exclude_seen)
    want_items, want_scores, _ = trainer.rank(users, beams, "test", exclude_seen)
    assert items.shape == (25, beams)
    assert items.tolist() == want_items.tolist()
    assert scores == pytest.approx(want_scores, abs=1e-4, rel=0)
    for user, row in zip(users, items, strict=True):
        seen = set(plain.data.seen(user, "test").tolist()) if exclude_seen else set()
        found = [item for item in row.tolist() if item >= 0]
        assert len(set(found)) == len(found) == min(beams, N - len(seen))
        assert not seen & set(found)


def test_shorter_lists_are_the_first_of_the_beams() -> None:
    plain, _ = make_pair("tiger")
    users = np.array([7, 3, 20])
    items, scores = plain_rank(plain, users, 4, "valid", 9, 2)
    all_items, all_scores = plain_rank(plain, users, 9, "valid", 9, 3)
    assert items.tolist() == all_items[:, :4].tolist()
    assert scores == pytest.approx(all_scores[:, :4], abs=1e-5)


def test_ties_go_to_the_lower_item() -> None:
    plain, trainer = make_pair("tiger", beams=2 * N)
    nn.init.zeros_(trainer.generator.tables)
    plain.copy_weights(trainer.generator)
    plain.model.eval()
    batch = plain.batch(plain.data.positions("test")[:2])
    items, _ = plain_beam_search(plain, batch, PrefixTrie(trainer.sids), 2 * N)
    assert items.tolist() == [[*range(N), *[-1] * N]] * 2
    assert items.tolist() == trainer.rank(np.arange(2), 2 * N, "test", False)[0].tolist()


def test_more_items_than_beams_are_refused() -> None:
    plain, _ = make_pair("tiger")
    with pytest.raises(ValueError, match="a list of 10 needs as many beams, there are 5"):
        plain_rank(plain, np.arange(3), 10, "test", 5, 2)


def test_metrics_by_hand_and_against_the_suites_own() -> None:
    lists = np.array([[4, 2, 7], [1, 5, -1], [0, 3, 6], [9, 8, 2]])
    targets = np.array([7, 1, 5, 8], dtype=np.int32)
    found = plain_metrics(lists, targets, 2)
    assert found["recall"].tolist() == [0, 1, 0, 1]
    assert found["ndcg"].tolist() == pytest.approx([0, 1, 0, 1 / np.log2(3)])
    ranks = target_ranks(lists.astype(np.int32), targets)
    for name, values in plain_metrics(lists, targets, 3).items():
        assert values.tolist() == METRICS[name].per_user(ranks, 3).tolist()
