"""Times of the RecBole baselines: an epoch, a validation and the lists of all users."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from baselines.recbole_adapter import RecBoleMethod
from benchmark.config import build_method
from benchmark.run import visit
from benchmark.speed.target import Target, wait_for

METHODS = ("lightgcn", "sasrec_ce", "sasrec_bce")
LISTED = 20
EPOCHS = 2  # the second is timed


def measure(targets: Sequence[Target], device: str, threads: int) -> list[dict[str, Any]]:
    """A row for each baseline on each of the targets' data sets."""
    rows = []
    known = dict.fromkeys((t.experiment, t.dataset, t.overrides) for t in targets)
    for experiment, dataset, overrides in known:
        for method in METHODS:
            rows.append(_row(Target(experiment, dataset, method, overrides), device, threads))
    return rows


def _row(target: Target, device: str, threads: int) -> dict[str, Any]:
    settings = target.settings(device, threads)
    method = build_method(settings)
    assert isinstance(method, RecBoleMethod)
    with visit(settings, method, str(target)) as (prepared, run):
        users = np.arange(prepared.data.split.n_users)
        with method.opened(prepared.data, 0, run) as fit:
            for epoch in range(EPOCHS):
                seconds = _timed(device, lambda epoch=epoch: fit.epoch(epoch))  # type: ignore[misc]
            scorer = method._after_fit().scorer
            validation = _timed(device, lambda: scorer.validate(bool(run.exclude_seen)))
            lists = _timed(
                device,
                lambda: method.rank(prepared.data, users, LISTED, "test", bool(run.exclude_seen)),
            )
    return {
        "experiment": target.experiment, "dataset": target.dataset, "method": target.method,
        "epoch_seconds": seconds, "validation_seconds": validation,
        "ms_per_user": lists / len(users) * 1e3, "validation_users": len(users),
    }  # fmt: skip


def _timed(device: str, run: Any) -> float:
    wait_for(device)
    started = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - started
