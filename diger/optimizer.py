"""How the joint model is optimised: settings, parameter groups, learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from diger.checks import above, at_least, whole
from diger.estimators import Estimator
from diger.generator import Generator
from diger.tokenizer import Tokenizer


@dataclass(frozen=True)
class TrainConfig:
    """Joint training. ``lr_tokenizer`` is the paper's lr_id; learning rates follow one cosine
    schedule after ``warmup_steps``; ``patience`` counts validations without a better NDCG@10;
    ``length_window`` batches share their rows out by length of history (1: they do not), which
    saves padding."""

    epochs: int = 120
    patience: int = 15
    valid_every: int = 1
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    lr_tokenizer: float = 1e-5
    lr_sigma: float = 1e-3
    warmup_steps: int = 500
    clip: float = 1.0
    w_reconstruction: float = 1.0
    w_vq: float = 1.0
    freeze_encoder: bool = True
    length_window: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "valid_every", "batch_size", "length_window"):
            whole(f"train.{name}", getattr(self, name), 1)
        whole("train.warmup_steps", self.warmup_steps, 0)
        for name in ("learning_rate", "lr_tokenizer", "lr_sigma", "clip"):
            above(f"train.{name}", getattr(self, name), 0)
        for name in ("weight_decay", "w_reconstruction", "w_vq"):
            at_least(f"train.{name}", getattr(self, name), 0)


def make_optimizer(
    config: TrainConfig,
    generator: Generator,
    tokenizer: Tokenizer,
    estimator: Estimator,
    total_steps: int,
) -> tuple[torch.optim.AdamW, LambdaLR]:
    """AdamW with a group each for the generator, for the part of the tokenizer that trains (none
    where the estimator freezes it) and for the estimator's own parameters; linear warm-up, then
    a cosine to zero at ``total_steps``."""
    groups: list[dict[str, Any]] = [
        {"params": list(generator.parameters()), "lr": config.learning_rate}
    ]
    if estimator.trains_tokenizer:
        moved = [tokenizer.codebooks]
        if not config.freeze_encoder:
            moved += list(tokenizer.encoder.parameters())
        groups.append({"params": moved, "lr": config.lr_tokenizer})
    own = list(estimator.parameters())
    if own:
        # Decay would pull the noise scale to zero whatever the loss says.
        groups.append({"params": own, "lr": config.lr_sigma, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        share = (step - config.warmup_steps) / max(total_steps - config.warmup_steps, 1)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))

    return optimizer, LambdaLR(optimizer, factor)
