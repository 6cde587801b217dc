"""Whether the ways to run a training step come to the same losses as the plain reference, step by
step on the same batches from the same weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmark.speed.target import Subject, Target, subject
from benchmark.speed.training import forget, ways
from diger.sequences import Rows
from diger.trainer import Trainer

STEPS = 50
#: What there is no randomness in: no dropout, and of the methods whose tokenizer trains the one
#: without noise.
METHODS = ("tiger", "ste")
STILL = ("++method.model.dropout=0",)


def measure(target: Target, device: str, threads: int) -> Iterator[dict[str, Any]]:
    """For each method and way, the largest difference of a step's total loss to the plain one's."""
    for method in METHODS:
        quiet = replace(target, method=method, overrides=(*target.overrides, *STILL))
        with subject(quiet, device, threads) as made:
            batches: list[Rows] = []
            plain: list[float] = []
            for name, execution in ways(device).items():
                if execution.step == "compile":
                    continue
                forget(device)
                trainer = made.fast(execution)
                if not plain:
                    batches = _batches(trainer)
                    plain = _plain(made, trainer, batches)
                apart = [abs(a - b) for a, b in zip(_fast(trainer, batches), plain, strict=True)]
                yield {
                    "experiment": target.experiment, "dataset": target.dataset, "method": method,
                    "way": name, "steps": len(apart), "largest_difference": max(apart),
                    "loss_before": plain[0], "loss_after": plain[-1],
                    "failure": trainer.steps.facts().get("failure", ""),
                }  # fmt: skip
                del trainer


def _batches(trainer: Trainer) -> list[Rows]:
    """Whole ones, as an epoch has them."""
    size = trainer.config.batch_size
    drawn = trainer.rows.epoch(size, 0, trainer.config.length_window, True)
    return list(itertools.islice((r for r in drawn if len(r.positions) == size), STEPS))


def _plain(made: Subject, like: Trainer, batches: list[Rows]) -> list[float]:
    plain = made.plain(like)
    plain.model.train()
    return [plain.step(plain.batch(rows.positions.cpu().numpy())) for rows in batches]


def _fast(trainer: Trainer, batches: list[Rows]) -> list[float]:
    trainer.modules.train()
    torch.manual_seed(0)
    losses: list[float] = []
    for rows in batches:
        # All of them at first, as training does: what is recorded is recorded then.
        trainer.steps.start_epoch(batches if not losses else ())
        trainer.steps.run(rows)
        losses.append(trainer.steps.mean_losses()["total"])
    return losses
