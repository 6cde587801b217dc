"""Cost against the number of items and of users, on made-up catalogues without text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmark import provenance
from benchmark.execution import Execution
from benchmark.speed.synthetic import synthetic_content, synthetic_sids, synthetic_split
from benchmark.speed.target import wait_for
from benchmark.speed.training import fast_steps
from diger.decode import DecodeConfig, Trie
from diger.estimators import FrequencyDecay
from diger.generator import Generator
from diger.optimizer import TrainConfig
from diger.quantizer import residual_kmeans
from diger.rqvae import RQVAE, RQVAEConfig
from diger.seq2seq import ModelConfig
from diger.steps import Steps
from diger.trainer import Trainer

ITEMS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
USERS = (10_000, 100_000, 1_000_000)
USERS_BESIDE_ITEMS, ITEMS_BESIDE_USERS = 5_000, 10_000
LEVELS, CODES, WIDTH = 3, 256, 64
RANKED = 512  # users whose lists are timed: their time does not depend on how many there are
SAMPLE = 20_000  # items that the codebooks come from
#: More distances of a step than this are not tried: what the whole catalogue costs is plain.
CATALOGUE_AT_MOST = 100_000


def sizes(device: str) -> ModelConfig:
    """The paper's recommender on a GPU, a small one on a CPU."""
    return ModelConfig() if device != "cpu" else ModelConfig(2, 64, 128, 2, 32)


def make_trainer(items: int, users: int, device: str, execution: Execution) -> Trainer:
    """A trainer of FrqUD, end to end, on a made-up catalogue."""
    torch.manual_seed(0)
    split = synthetic_split(users, items)
    content = torch.from_numpy(synthetic_content(items, WIDTH)).to(device)
    tokenizer = RQVAE(WIDTH, LEVELS, CODES, RQVAEConfig(hidden=(128,), latent=WIDTH)).to(device)
    with torch.no_grad():
        sample = tokenizer.encode(content[:SAMPLE])
        tokenizer.codebooks.copy_(residual_kmeans(sample, LEVELS, CODES, 0))
    estimator = FrequencyDecay(LEVELS, CODES, tau=2.0)
    generator = Generator(LEVELS, CODES, sizes(device))
    train = TrainConfig(batch_size=256, length_window=32)
    return Trainer(
        train, DecodeConfig(beams=20), generator, tokenizer, estimator, content,
        synthetic_sids(items, LEVELS, CODES), split, 0, device,
        precision=execution.precision, step=execution.step,
    )  # fmt: skip


def against_items(
    device: str, execution: Execution, seconds: float, counts: Sequence[int] = ITEMS
) -> list[dict[str, Any]]:
    """For each catalogue: a step by distinct items and by the whole catalogue, the trie, lists."""
    rows = []
    for items in counts:
        trainer = make_trainer(items, USERS_BESIDE_ITEMS, device, execution)
        row: dict[str, Any] = {"items": items, "users": USERS_BESIDE_ITEMS}
        row["precision"] = execution.precision
        row["ms_per_step"] = _ms_per_step(trainer, seconds)
        if items <= CATALOGUE_AT_MOST:
            trainer.steps = _WholeCatalogue(trainer, execution.step)
            row["ms_per_step_catalogue"] = _ms_per_step(trainer, seconds)
        row["trie_seconds"] = _timed(
            device,
            lambda trainer=trainer: Trie(trainer.sids_on_device, CODES),  # type: ignore[misc]
        )
        row |= _lists(trainer)
        row["refresh_seconds"] = _timed(device, trainer._renew_sids)
        rows.append(row | _memory(device))
        del trainer
    return rows


def against_users(
    device: str, execution: Execution, seconds: float, counts: Sequence[int] = USERS
) -> list[dict[str, Any]]:
    """For each number of users: drawing an epoch's batches, a step, an epoch, lists."""
    rows = []
    for users in counts:
        trainer = make_trainer(ITEMS_BESIDE_USERS, users, device, execution)
        row: dict[str, Any] = {"users": users, "items": ITEMS_BESIDE_USERS}
        row["precision"] = execution.precision
        row["rows"] = len(trainer.data.train_positions)
        config = trainer.config
        row["order_seconds"] = _timed(
            device,
            lambda trainer=trainer, config=config: next(  # type: ignore[misc]
                trainer.rows.epoch(config.batch_size, 0, config.length_window)
            ),
        )
        row["ms_per_step"] = _ms_per_step(trainer, seconds)
        row["steps_per_epoch"] = trainer.steps_per_epoch
        row["epoch_seconds"] = (
            row["order_seconds"] + row["ms_per_step"] / 1e3 * trainer.steps_per_epoch
        )
        row |= _lists(trainer)
        row["validation_seconds"] = row["ms_per_user"] / 1e3 * users
        rows.append(row | _memory(device))
        del trainer
    return rows


class _WholeCatalogue(Steps):
    """Steps that tokenise every item there is."""

    def __init__(self, trainer: Trainer, way: str) -> None:
        super().__init__(trainer, way, fixed=True)

    def _shape(self, rows: Any) -> tuple[int, int]:
        return super()._shape(rows)[0], self.trainer.data.n_items


def _ms_per_step(trainer: Trainer, seconds: float) -> float:
    steps = fast_steps(trainer)
    for _ in range(2 if trainer.device == "cpu" else 60):
        next(steps)()
    wait_for(trainer.device)
    started, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - started < seconds:
        next(steps)()
        count += 1
    wait_for(trainer.device)
    return (time.perf_counter() - started) / count * 1e3


def _lists(trainer: Trainer) -> dict[str, Any]:
    users = np.arange(min(RANKED, trainer.data.n_users))
    ranker = trainer.ranker()
    ranker.lists(users[:8], 10, "valid", False)
    seconds = _timed(trainer.device, lambda: ranker.lists(users, 10, "valid", False))
    return {"ms_per_user": seconds / len(users) * 1e3}


def _timed(device: str, run: Callable[[], object]) -> float:
    wait_for(device)
    started = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - started


def _memory(device: str) -> dict[str, int | None]:
    return {
        "peak_memory_bytes": provenance.peak_memory_bytes(),
        "peak_device_bytes": provenance.peak_device_bytes(device),
    }
