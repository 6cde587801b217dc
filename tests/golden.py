"""Records one training step of every estimator: ``python -m tests.golden`` writes the record.

A small world, the same for all: numpy's weights (torch's initialisation may change with its
version), one batch, noise and usage that make every decay take part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from diger.decode import DecodeConfig
from diger.generator import Generator
from diger.optimizer import TrainConfig
from diger.rqvae import RQVAE, RQVAEConfig
from diger.semantic_ids import add_suffix
from diger.seq2seq import ModelConfig
from diger.trainer import Trainer
from tests.conftest import make_split
from tests.estimators import ESTIMATORS, LEVELS, K

RECORD = Path(__file__).with_name("golden_steps.yaml")
N_ITEMS, WIDTH = 20, 10


def golden_trainer(name: str) -> Trainer:
    """A trainer of the estimator before its first step."""
    rng = np.random.default_rng(7)
    torch.manual_seed(0)
    tokenizer = RQVAE(WIDTH, LEVELS, K, RQVAEConfig(hidden=(12,), latent=5))
    generator = Generator(LEVELS, K, ModelConfig(1, 16, 16, 2, 8, 0.0))
    for module, scale in ((tokenizer, 0.5), (generator, 0.3)):
        _fill(module, rng, scale)
    content = torch.as_tensor(rng.normal(size=(N_ITEMS, WIDTH)), dtype=torch.float32)
    split = make_split([[int(i) for i in rng.permutation(N_ITEMS)[:8]] for _ in range(6)], N_ITEMS)
    estimator = ESTIMATORS[name](LEVELS, K)
    sids = add_suffix(rng.integers(0, K, (N_ITEMS, LEVELS)).astype(np.int32), K)
    config = TrainConfig(batch_size=16, warmup_steps=0, lr_tokenizer=1e-2)
    return Trainer(
        config, DecodeConfig(), generator, tokenizer, estimator, content, sids, split, 0, "cpu"
    )


def golden_step(name: str) -> dict[str, Any]:
    """Losses of a step, gradient norms (before clipping to 1) by part, and the loss after it."""
    trainer = golden_trainer(name)
    trainer.modules.train()
    trainer.estimator.advance(0.25)
    for _ in range(100):  # codes 0 and 1 become hot
        trainer.estimator.observe(torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1]]))
    trainer.noise.manual_seed(5)
    positions = trainer.data.train_positions[:16]
    batch, distinct = trainer.read(positions)
    parts, _ = trainer.losses(batch, distinct)
    trainer.optimizer.zero_grad(set_to_none=True)
    parts["total"].backward()
    found: dict[str, Any] = {f"loss/{key}": float(value.detach()) for key, value in parts.items()}
    book = trainer.tokenizer.codebooks.grad
    found["grad/codebook"] = (
        [0.0] * LEVELS if book is None else book.flatten(1).norm(dim=1).tolist()
    )
    found["grad/generator"] = _norm(trainer.generator)
    found["grad/noise"] = _norm(trainer.estimator)
    trainer.noise.manual_seed(5)
    trainer.step(positions)
    trainer.noise.manual_seed(5)
    with torch.no_grad():
        after, _ = trainer.losses(batch, distinct)
    found["loss/rec after the step"] = float(after["rec"])
    moved = trainer.tokenizer.codebooks.detach() - golden_trainer(name).tokenizer.codebooks.detach()
    found["codebooks moved by"] = float(moved.norm())
    return found


def _norm(module: nn.Module) -> float:
    grads = [p.grad.square().sum() for p in module.parameters() if p.grad is not None]
    return float(torch.stack(grads).sum().sqrt()) if grads else 0.0


@torch.no_grad()
def _fill(module: nn.Module, rng: np.random.Generator, scale: float) -> None:
    for parameter in module.parameters():
        drawn = rng.normal(scale=scale, size=tuple(parameter.shape))
        parameter.copy_(torch.as_tensor(drawn, dtype=parameter.dtype))


if __name__ == "__main__":
    torch.set_num_threads(1)
    record = {name: golden_step(name) for name in ESTIMATORS}
    RECORD.write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")
    print(f"{len(record)} steps recorded; say in the commit why")
