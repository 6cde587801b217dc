"""Tables that explain results: codes and collisions, cost, training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.aggregate import DatasetResults, MethodRuns
from benchmark.metrics import CODE_LEVEL, METRICS
from benchmark.report.codes import code_uses
from benchmark.report.table import Column, Table, fixed, integer, percent, share, significant
from benchmark.store import StoredRun

MIB = 2**20


def codes_table(result: DatasetResults) -> Table | None:
    """Code use and what counting codes instead of items would report; None without any SIDs."""
    k = result.headline_k
    items = result.summary("ndcg", k)["mean"]
    codes = result.summary(f"{CODE_LEVEL}ndcg", k)["mean"]
    rows, guessed = [], []
    for method in result.methods:
        uses = code_uses(method)
        if not uses:
            continue
        if not all(use.size_known for use in uses):
            guessed.append(method.label)
        item, code = float(items[method.key]), float(codes.get(method.key, np.nan))
        rows.append(
            {
                "method": method.label,
                "item": item,
                "code": code,
                "inflation": code / item - 1 if item > 0 else None,
                "collisions": np.mean([use.collision_rate for use in uses]),
                "group": max(use.largest_group for use in uses),
                "size": uses[0].counts.shape[1],
                "assignment": _distinct(method.facts("describe", "assignment")),
                "used": _levels([use.used for use in uses], 0),
                "perplexity": _levels([use.perplexity for use in uses], 1),
                "balance": _levels([use.balance for use in uses], 2),
                "gini": _levels([use.gini for use in uses], 2),
                "invalid": _mean([value for run in method.runs
                                  if (value := run.info.get("describe", {}).get("invalid_beams"))
                                  is not None]),
            }
        )  # fmt: skip
    if not rows:
        return None
    label = f"{METRICS['ndcg'].label}@{k}"
    columns: tuple[Column, ...] = (
        Column("method", "Method"), Column("item", f"{label}, items", fixed(4)),
        Column("code", f"{label}, codes", fixed(4)), Column("inflation", "Inflation", percent),
        Column("collisions", "Collision rate", share), Column("group", "Largest group", integer),
        Column("size", "Codes a level", integer), Column("assignment", "Assignment"),
        Column("used", "Used"),
        Column("perplexity", "Perplexity"), Column("balance", "Balance"), Column("gini", "Gini"),
    )  # fmt: skip
    free = any(row["invalid"] is not None for row in rows)
    if free:
        columns = (*columns, Column("invalid", "Invalid beams", share))
    caption = (
        f"Semantic IDs on {result.heading}, means over seeds, levels separated by slashes. A hit "
        "counts the target item; 'codes' counts its codes without the suffix, whichever item has "
        "them, and inflation is what that adds. Collision rate = 1 - distinct code tuples / "
        "items; balance = 1 - sum_k |n_k - N/K| / (2N); perplexity = exp(entropy) of code use; "
        "Gini, of the items on a level's codes: 0 where all are alike, 1 - 1/K where one has all. "
        "Assignment: how items get their codes; IDs that stay frozen may be balanced (sinkhorn), "
        "those that train are the nearest codes (argmin), which accounts for part of a difference "
        "in balance and collisions."
    )
    if free:
        caption += (
            " Invalid beams: share of the beams of a free search that spell no item's ID; none "
            "for methods whose search is constrained to existing IDs."
        )
    notes = [f"{', '.join(guessed)}: the run does not say how many codes a level has; the highest "
             "code in use was taken."] if guessed else []  # fmt: skip
    return Table(f"{result.dataset}-codes", pd.DataFrame(rows), columns, caption, tuple(notes))


def training_table(result: DatasetResults) -> Table | None:
    """One row a method that logs epochs; None where none does."""
    k = result.headline_k
    rows = [_training_row(method, k) for method in result.methods if any(map(epochs, method.runs))]
    if not rows:
        return None
    columns = (
        Column("method", "Method"), Column("epochs", "Epochs"), Column("best", "Best epoch"),
        Column("valid", f"Validation {METRICS['ndcg'].label}@{k}, best", fixed(4)),
        Column("scale", "Logit scale"), Column("snr", "Signal to noise", significant),
        Column("drift", "Drift an epoch", share), Column("first", "|dL_rec|, first", significant),
        Column("last", "|dL_rec|, last", significant), Column("verdict", "L_rec gradient"),
        Column("used", "Used codes, last epoch"), Column("ended", "Ended"),
    )  # fmt: skip
    caption = (
        f"Training on {result.heading}. Epochs and best epoch by seed; the rest are means over "
        "seeds and levels. Validation: of the epoch that it selects. Signal to noise: median gap "
        "between a level's best two logits over the noise, last epoch. Drift: share of items whose "
        "codes change in an epoch, mean over epochs. |dL_rec|: norm of the recommendation loss's "
        "gradient on the codebooks in the first and last epoch; the verdict says whether that "
        "gradient reached the tokenizer. Used codes: by level, as the tokenizer left them in the "
        "last epoch, whichever epoch validation chose; a run ends as collapsed where more items "
        "share their codes than the suffix can tell apart."
    )
    return Table(f"{result.dataset}-training", pd.DataFrame(rows), columns, caption)


def _training_row(method: MethodRuns, k: int) -> dict[str, Any]:
    logs = [epochs(run) for run in method.runs]
    gradients = [grads for log in logs if (grads := series(log, "grad/codebook"))]
    return {
        "method": method.label,
        "epochs": ", ".join(str(len(log)) for log in logs),
        "best": ", ".join(map(str, method.facts("describe", "best_epoch"))) or None,
        "valid": _mean([value for run, log in zip(method.runs, logs, strict=True)
                        if (value := _chosen_validation(run, log, k)) is not None]),
        # Frozen IDs have no logits: their setting is there, and nothing reads it.
        "scale": _distinct(method.facts("describe", "logit_scale"))
        if any(method.facts("describe", "trains_tokenizer") or [True])
        else None,
        "snr": _mean([ratio for log in logs if (ratio := _last_snr(log)) is not None]),
        "drift": _mean([np.mean([np.mean(v) for _, v in s])
                        for log in logs if (s := series(log, "drift/full"))]),
        "first": _mean([np.mean(grads[0][1]) for grads in gradients]),
        "last": _mean([np.mean(grads[-1][1]) for grads in gradients]),
        "used": _levels([used[-1][1] for log in logs if (used := series(log, "codes/used"))], 0),
        "ended": _endings(method.runs),
        "verdict": _distinct([gradient_verdict([v for _, v in grads]) for grads in gradients])
        or "not measured",
    }  # fmt: skip


def _last_snr(log: list[dict[str, Any]]) -> float | None:
    """Of the last epoch, mean over the levels that have noise; None where none has."""
    levels = (log[-1].get("snr") or []) if log else []
    loud = [value for value in levels if value is not None]
    return float(np.mean(loud)) if loud else None


def _chosen_validation(run: StoredRun, log: list[dict[str, Any]], k: int) -> float | None:
    """Validation NDCG@k of the epoch that the run went on with; the best where it does not say."""
    found = {epoch: float(value[0]) for epoch, value in series(log, f"valid/ndcg@{k}")}
    best = run.info.get("describe", {}).get("best_epoch")
    return found.get(best, max(found.values())) if found else None


def _endings(runs: Sequence[StoredRun]) -> str | None:
    """Why training ended, by seed; None for methods that do not say."""
    said = [run.info.get("describe", {}).get("stopped") for run in runs]
    if not any(reason is not None for reason in said):
        return None
    words = ["all epochs" if not reason else
             "collapsed" if str(reason).startswith("codes collapsed") else "early stop"
             for reason in said]  # fmt: skip
    return ", ".join(words)


def gradient_verdict(norms: Sequence[NDArray[np.float64]]) -> str:
    """Whether L_rec reaches the tokenizer, from gradient norms [m] on the codebooks, an epoch each.

    ``zero`` means exactly zero in every epoch: a detached path gives no rounding error.
    """
    if not norms:
        return "not measured"
    reached = np.any(np.stack(norms) > 0, axis=0)
    if reached.all():
        return "reaches tokenizer"
    if not reached.any():
        return "zero"
    return f"reaches levels {', '.join(str(level + 1) for level in np.flatnonzero(reached))} only"


def epochs(run: StoredRun) -> list[dict[str, Any]]:
    """The run's log without the row -1 for the state before training."""
    return [row for row in run.train_log() if row["epoch"] >= 0]


def series(log: list[dict[str, Any]], key: str) -> list[tuple[int, NDArray[np.float64]]]:
    """(epoch, values [levels], [1] for a plain number) where the log has the key, nothing
    missing in it."""
    found = []
    for row in log:
        value = row.get(key)
        values = value if isinstance(value, list) else [value]
        if values and all(v is not None for v in values):
            found.append((int(row["epoch"]), np.asarray(values, dtype=np.float64)))
    return found


def _levels(values: Sequence[NDArray[Any]], digits: int) -> str | None:
    """Mean over seeds, level by level: ``256 / 255 / 250``; None without values."""
    if not values:
        return None
    return " / ".join(f"{value:.{digits}f}" for value in np.mean(np.stack(values), axis=0))


def _distinct(values: Sequence[Any]) -> str | None:
    return ", ".join(dict.fromkeys(str(value) for value in values)) or None


def _mean(values: Sequence[Any]) -> float | None:
    return float(np.mean(values)) if values else None
