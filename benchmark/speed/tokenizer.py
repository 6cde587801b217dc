"""Training steps a second of the RQ-VAE, at the released sizes, on a made-up catalogue."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from benchmark.speed.synthetic import synthetic_content
from benchmark.speed.target import wait_for
from diger.rqvae import RQVAE, RQVAEConfig, TokenizerSteps, start_codebooks

ITEMS, WIDTH = 12_101, 384  # as many items as Beauty has
LEVELS, CODES = 3, 256


def measure(device: str, seconds: float) -> list[dict[str, Any]]:
    """A row for each rule by which codes are chosen inside training."""
    content = torch.from_numpy(synthetic_content(ITEMS, WIDTH)).to(device)
    return [_row(content, rule, seconds / 2) for rule in ("argmin", "sinkhorn")]


def stepper(content: Tensor, rule: str) -> TokenizerSteps:
    """Training steps of the released sizes on this catalogue, before the first one.

    Args:
        content: float32 [N, WIDTH], on the device. rule: by which codes are chosen in training.
    """
    config = RQVAEConfig(train_assignment=rule)
    torch.manual_seed(0)
    model = RQVAE(WIDTH, LEVELS, CODES, config).to(content.device)
    start_codebooks(model, content, 0)
    optimizer = torch.optim.AdamW(
        model.parameters(), config.learning_rate, fused=True, capturable=content.is_cuda
    )
    return TokenizerSteps(model, optimizer, content, config.batch_size)


def _row(content: Tensor, rule: str, seconds: float) -> dict[str, Any]:
    device, steps = content.device.type, stepper(content, rule)
    batches = torch.randperm(ITEMS, device=device).split(steps.model.config.batch_size)
    for rows in batches:  # the short one at the end, too
        steps.run(rows)
    wait_for(device)
    started, epochs = time.perf_counter(), 0
    while epochs == 0 or time.perf_counter() - started < seconds:
        for rows in batches:
            steps.run(rows)
        epochs += 1
    wait_for(device)
    taken = time.perf_counter() - started
    count = epochs * len(batches)
    return {
        "items": ITEMS, "train_assignment": rule, "steps_per_second": count / taken,
        "epoch_seconds": taken / epochs,
        "recorded": 0 if steps.graphs is None else len(steps.graphs),
    }  # fmt: skip
