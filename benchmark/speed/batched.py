"""Several trainings as one batched model, in place of a process each: what each more of them adds.

The two-stage recommender, its weights stacked over S models and mapped by ``torch.func.vmap``.
The blocks are those of ``diger.functional`` composed of single operations, which vmap can map, and
there is no dropout: the step of S models is compared with that of one, both made this way.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmark.execution import Execution
from benchmark.speed.target import Target, subject, wait_for
from diger import functional, passes, seq2seq
from diger.generator import Batch, Generator
from diger.keep import mask
from diger.trainer import Trainer

COUNTS = {"cpu": (1, 2, 4), "cuda": (1, 4, 8)}
WARM_UP = 3
EPSILON = passes.EPSILON


class Loss(nn.Module):
    """The generator's loss as a forward pass, which is what ``functional_call`` calls."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, history: Tensor, mask: Tensor, target: Tensor, sids: Tensor) -> Tensor:
        return self.generator.loss(Batch(history, mask, target, sids))


def measure(target: Target, device: str, threads: int, seconds: float) -> Iterator[dict[str, Any]]:
    """A row for each number of models: steps a second of all, and over those of one."""
    alone = math.nan
    with subject(target, device, threads) as made:
        trainer = made.fast(Execution())
        for models in COUNTS[device]:
            rate = _steps_per_second(trainer, models, seconds / len(COUNTS[device]))
            if models == 1:
                alone = rate
            yield {
                "experiment": target.experiment, "dataset": target.dataset, "method": "tiger",
                "way": "batched", "precision": "fp32", "processes": models, "threads": threads,
                "steps_per_second": rate, "over_one": rate / alone,
                "over_plain": None,  # the plain reference has dropout, and this has none
            }  # fmt: skip


def _steps_per_second(trainer: Trainer, models: int, seconds: float) -> float:
    """Of all models together: each step of the batched model is one of every model."""
    device, config = trainer.device, trainer.config
    sizes = trainer.generator
    losses = [Loss(_like(sizes, seed)).to(device).train() for seed in range(models)]
    parameters, _ = torch.func.stack_module_state(losses)  # type: ignore[arg-type]
    base = losses[0].to("meta")
    step_of = torch.func.vmap(
        lambda weights, *batch: torch.func.functional_call(base, weights, batch)
    )
    leaves = list(parameters.values())
    optimizer = torch.optim.AdamW(leaves, config.learning_rate, fused=True)
    batches = _batches(trainer, models)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        step_of(parameters, *next(batches)).sum().backward()
        optimizer.step()

    with composed():
        for _ in range(WARM_UP):
            step()
        wait_for(device)
        started, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - started < seconds:
            step()
            count += 1
        wait_for(device)
    return models * count / (time.perf_counter() - started)


def _like(generator: Generator, seed: int) -> Generator:
    torch.manual_seed(seed)
    levels, size, _ = generator.tables.shape
    return Generator(levels - 1, size, replace(generator.seq2seq.config, dropout=0.0))


def _batches(trainer: Trainer, models: int) -> Iterator[tuple[Tensor, ...]]:
    """Another batch for every model, of the same shape: [S, ...] each."""
    size = trainer.config.batch_size
    for epoch in itertools.count():
        rows = [r for r in trainer.rows.epoch(size, epoch) if len(r.positions) == size]
        for some in zip(*[iter(rows)] * models, strict=False):
            width = max(row.width for row in some)
            read = [
                trainer.rows.batch(
                    row.positions, trainer.sids_on_device, width, apart=True
                )[0]
                for row in some
            ]  # fmt: skip
            parts = zip(*((b.history, b.mask, b.target, b.sids) for b in read), strict=True)
            yield tuple(torch.stack(part) for part in parts)


# The blocks of diger.functional, of single operations; what these take beside is for kernels ---


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON))


def self_attention(
    x: Tensor, norm: Tensor, qkv: Tensor, o: Tensor, bias: Tensor, position: Tensor,
    keep_weights: Tensor | None, keep_out: Tensor | None, scale: float, heads: int,
    links: object = None, part: object = None, mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    b, t = x.shape[:2]
    bias = bias if mask is None else bias + mask
    q, k, v = (rms_norm(x, norm) @ qkv.T).view(b, t, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) + bias + (position - position.detach())
    weights = _kept(scores.softmax(-1), keep_weights, scale)
    read = (weights @ v).transpose(1, 2).reshape(b, t, -1)
    return x + _kept(read @ o.T, keep_out, scale)


def cross_attention(
    x: Tensor, memory: Tensor, norm: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor,
    bias: Tensor, keep_weights: Tensor | None, keep_out: Tensor | None, scale: float, heads: int,
    *_: object,
) -> Tensor:  # fmt: skip
    b, t = x.shape[:2]
    query, key, value = (
        (y @ w.T).view(b, y.shape[1], heads, -1).transpose(1, 2)
        for y, w in ((rms_norm(x, norm), q), (memory, k), (memory, v))
    )
    weights = _kept((query @ key.transpose(-1, -2) + bias).softmax(-1), keep_weights, scale)
    read = (weights @ value).transpose(1, 2).reshape(b, t, -1)
    return x + _kept(read @ o.T, keep_out, scale)


def feed_forward(
    x: Tensor, norm: Tensor, wide: Tensor, narrow: Tensor,
    keep_hidden: Tensor | None, keep_out: Tensor | None, scale: float, *_: object,
) -> Tensor:  # fmt: skip
    hidden = (rms_norm(x, norm) @ wide.T).relu()
    if keep_hidden is not None:
        hidden = _kept(hidden, keep_hidden, scale)
    return x + _kept(hidden @ narrow.T, keep_out, scale)


def _kept(y: Tensor, keep: Tensor | None, scale: float) -> Tensor:
    return y if keep is None else y * mask(y, keep, scale) * scale


COMPOSED = (rms_norm, self_attention, cross_attention, feed_forward)


@contextmanager
def composed(blocks: Sequence[Any] = COMPOSED) -> Iterator[None]:
    """Let the encoder-decoder use these blocks inside."""
    named = {block.__name__: block for block in blocks}
    uncompiled = mock.patch.object(seq2seq, "compiled_for", lambda x, dtype: None)
    with uncompiled, mock.patch.multiple(functional, **named):
        yield
