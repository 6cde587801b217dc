"""Times of training steps, epochs and validations, of the suite and of the plain reference.

The two take turns in one process, some steps each, so that what else the machine does meets both.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark import provenance
from benchmark.errors import UserError
from benchmark.execution import Execution
from benchmark.speed.plain import PlainRecommender
from benchmark.speed.plain_decode import PrefixTrie, plain_rank
from benchmark.speed.target import Subject, Target, subject, wait_for
from diger.sequences import Rows
from diger.trainer import Trainer

WARM_UP = 3  # steps that are not timed: allocators and libraries settle
GPU_WARM_UP = 600  # enough to meet, and record, every length of history
QUEUED = 32  # steps that a GPU may be behind its host
ROUNDS = 5  # turns that the ways of one target take
PLAIN_BATCHES = 2  # that the plain reference ranks, whole ones, after one that is not timed

COMPILED = "bf16, compile"
COMPARED = ("ms_per_step", "ms_per_user", "epoch_seconds")

Step = Callable[[], int]  # runs one step and returns the tokens in it


def ways(device: str) -> dict[str, Execution]:
    """The ways to run a step that this device has, by the name that tables show."""
    if device == "cpu":
        return {"fp32": Execution(), "bf16": Execution("bf16")}
    return {
        "fp32, eager": Execution(),
        "fp32, graph": Execution(step="graph"),
        "bf16, graph": Execution("bf16", "graph"),
        COMPILED: Execution("bf16", "compile"),
    }


def chosen(device: str, names: Sequence[str] | None) -> dict[str, Execution]:
    """Those of ``ways`` with these names; None: all that do not compile, which takes minutes for
    each length of history."""
    known = ways(device)
    if names is None:
        return {name: way for name, way in known.items() if name != COMPILED}
    for name in names:
        if name not in known:
            raise UserError(f"--ways knows {'; '.join(known)}; got {name!r}")
    return {name: known[name] for name in names}


def measure(
    target: Target, device: str, threads: int, seconds: float, names: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each way to run this target's steps, and after the first one for the plain
    reference.

    Args:
        seconds: to spend on it, roughly, half of it on the plain reference.
        names: of the ways; see ``chosen``.
    """
    with subject(target, device, threads) as made:
        tried = chosen(device, names)
        plain: PlainRecommender | None = None
        reference: dict[str, Any] = {}
        for name, execution in tried.items():
            forget(device)
            trainer = made.fast(execution)
            first = plain is None
            if plain is None:
                plain = made.plain(trainer)
            share = seconds / (2 * len(tried))
            fast, slow = take_turns(
                fast_steps(trainer), plain_steps(plain) if first else None,
                device, share, seconds / 2, GPU_WARM_UP if trainer.steps.fixed else WARM_UP,
            )  # fmt: skip
            row = _row(target, name, trainer, fast) | _validation(made, trainer)
            if first:
                reference = _plain_row(target, made, plain, trainer, slow)
            yield _beside(row, reference)
            if first:
                yield _beside(reference, reference)
            del trainer


def _beside(row: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """The row, with the plain reference's times over its own."""
    ratios = {f"plain_over_{name}": reference[name] / row[name] for name in COMPARED}
    return row | ratios


def forget(device: str) -> None:
    """Give back the memory of what was measured before, and start its peak anew."""
    gc.collect()  # a trainer and its steps know each other
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def fast_steps(trainer: Trainer) -> Iterator[Step]:
    """Steps of the suite's trainer, epoch after epoch, in the order that training would have."""
    config = trainer.config
    trainer.modules.train()
    torch.manual_seed(0)
    for epoch in itertools.count():
        drawn = trainer.rows.epoch(
            config.batch_size, epoch, config.length_window, trainer.steps.counts_items
        )
        order = list(drawn)
        trainer.steps.start_epoch(order)
        for rows in order:
            yield lambda rows=rows: _fast_step(trainer, rows)  # type: ignore[misc]


def _fast_step(trainer: Trainer, rows: Rows) -> int:
    trainer.steps.run(rows)
    return len(rows.positions)


def plain_steps(plain: PlainRecommender) -> Iterator[Step]:
    """Steps of the plain reference; reading the next batch is part of a step."""
    plain.model.train()
    onednn: Any = torch.backends.mkldnn
    batches = itertools.chain.from_iterable(iter(plain.loader) for _ in itertools.count())

    def step() -> int:
        batch = next(batches)
        # Products as torch does them unless told otherwise; see benchmark.execution.
        ours, onednn.matmul.fp32_precision = onednn.matmul.fp32_precision, "ieee"
        try:
            plain.step(batch)
        finally:
            onednn.matmul.fp32_precision = ours
        return len(batch.target)

    while True:
        yield step


def take_turns(
    fast: Iterator[Step],
    slow: Iterator[Step] | None,
    device: str,
    seconds: float,
    slow_seconds: float,
    warm_up: int,
) -> tuple[list[float], list[float]]:
    """Seconds a step of both, each timed for about its share of seconds in several turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(warm_up):
        next(fast)()
    if slow is not None:
        next(slow)()
    for _ in range(ROUNDS):
        _some(fast, device, seconds / ROUNDS, times[0])
        if slow is not None:
            _some(slow, device, slow_seconds / ROUNDS, times[1])
    return times


def _some(steps: Iterator[Step], device: str, seconds: float, times: list[float]) -> None:
    """Time steps until the seconds are over: one by one on a CPU; on a GPU, which runs behind its
    host, all together."""
    wait_for(device)
    begun = started = time.perf_counter()
    count = 0
    while count == 0 or started - begun < seconds:
        next(steps)()
        count += 1
        if device != "cpu" and count % QUEUED == 0:
            wait_for(device)  # or an epoch would be queued, and waited for, after the seconds
        now = time.perf_counter()
        if device == "cpu":
            times.append(now - started)
        started = now
    wait_for(device)
    if device != "cpu":
        times.extend([(time.perf_counter() - begun) / count] * count)


def _row(target: Target, way: str, trainer: Trainer, times: list[float]) -> dict[str, Any]:
    mean, batch = float(np.mean(times)), trainer.config.batch_size
    data = trainer.data
    lengths = data.train_positions - data.history_starts(data.train_positions)
    tokens = float((lengths + 1).mean()) * batch * trainer.generator.length
    return {
        **_names(target, way),
        "batch": batch,
        "ms_per_step": mean * 1e3,
        "ms_per_step_median": float(np.median(times)) * 1e3,
        "steps_timed": len(times),
        "steps_per_epoch": trainer.steps_per_epoch,
        "epoch_seconds": mean * trainer.steps_per_epoch,
        "tokens_per_second": tokens / mean,
        "step": trainer.steps.facts(),
        "peak_device_bytes": provenance.peak_device_bytes(trainer.device),
        "peak_memory_bytes": provenance.peak_memory_bytes(),
    }


def _names(target: Target, way: str) -> dict[str, Any]:
    return {
        "experiment": target.experiment, "dataset": target.dataset, "method": target.method,
        "way": way,
    }  # fmt: skip


def _validation(made: Subject, trainer: Trainer) -> dict[str, Any]:
    """Seconds of a whole validation, its lists and metrics; the second of two on a GPU."""
    for _ in range(1 if trainer.device == "cpu" else 2):
        wait_for(trainer.device)
        started = time.perf_counter()
        trainer.validate()
        wait_for(trainer.device)
        seconds = time.perf_counter() - started
    started = time.perf_counter()
    trainer._renew_sids()
    trainer.measure_gradients(trainer.data.train_positions[: trainer.config.batch_size])
    wait_for(trainer.device)
    rest = time.perf_counter() - started
    users = len(made.users)
    return {
        "validation_seconds": seconds,
        "validation_users": users,
        "ms_per_user": seconds / users * 1e3,
        "beams": trainer.decode.beams,
        "new_ids_and_gradients_seconds": rest,
    }


def _plain_row(
    target: Target, made: Subject, plain: PlainRecommender, trainer: Trainer, times: list[float]
) -> dict[str, Any]:
    row = _row(target, "plain", trainer, times)
    decode, size = trainer.decode, trainer.decode.batch_size
    users = np.random.default_rng(0).permutation(made.users)
    started = time.perf_counter()
    trie = PrefixTrie(plain.sids.cpu().numpy())  # once a validation, however many users it has
    once = time.perf_counter() - started

    def rank(users: NDArray[np.int64]) -> float:
        wait_for(trainer.device)
        started = time.perf_counter()
        plain_rank(plain, users, 10, "valid", decode.beams, size, made.exclude_seen, trie)
        return time.perf_counter() - started

    rank(users[:size])
    users = users[: PLAIN_BATCHES * size]
    seconds = once + rank(users) / len(users) * len(made.users)
    return row | {
        "step": {"way": "transformers' T5, padded to the longest history, eager"},
        "validation_seconds": seconds,
        "validation_users": len(users),
        "ms_per_user": seconds / len(made.users) * 1e3,
        "beams": decode.beams,
    }
