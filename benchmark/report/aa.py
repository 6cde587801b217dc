"""A method compared with itself, as a table: which tests find differences where there are none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.aggregate import DatasetResults
from benchmark.metrics import METRICS
from benchmark.power import ALPHA
from benchmark.report.table import Column, Table, integer, share
from benchmark.resampling import SEED
from benchmark.self_comparison import (
    LABELS,
    SEED_AWARE,
    Size,
    binomial_interval,
    by_made_up_trainings,
    by_trainings,
    by_users,
    training_ratio,
    varying,
)

USERS, STORED, MADE_UP = "users drawn anew", "stored trainings", "made-up trainings"


def aa_table(result: DatasetResults, size: Size | None = None, seed: int = SEED) -> Table | None:
    """One row a check and test, with the rate of rejections at 5%; None where no method has values
    that could tell (no hits, or trainings that are all the same) or there are fewer than two users.

    A few seconds with the default size, whatever the number of users.
    """
    size = size or Size()
    k = result.headline_k
    runs = varying(result.seed_values("ndcg", k))
    if not runs or len(result.users) < 2:
        return None
    frame = pd.DataFrame([
        *_rows(USERS, "", by_users(runs, size, seed)),
        *_rows(STORED, _sides(runs), by_trainings(runs, size, seed), independent=False),
        *_rows(MADE_UP, f"{size.trainings} and {size.trainings}",
               by_made_up_trainings(runs, size, seed)),
    ])  # fmt: skip
    columns = (
        Column("check", "What is drawn"), Column("sides", "Trainings"), Column("test", "Test"),
        Column("rejected", "Rejected", integer), Column("of", "of", integer),
        Column("rate", "Rate", share), Column("low", "low", share), Column("high", "high", share),
        Column("verdict", "5%?"),
    )  # fmt: skip
    return Table(
        f"{result.dataset}-aa", frame, columns, _caption(result, runs, size, k),
        tuple(_notes(result, runs)),
    )  # fmt: skip


def verdict(low: float, high: float) -> str:
    """What an interval of the rate says of 5%."""
    if low > ALPHA:
        return "too often"
    return "less often" if high < ALPHA else "as promised"


def _rows(
    check: str, sides: str, found: Mapping[str, NDArray[np.bool_]], independent: bool = True
) -> list[dict[str, object]]:
    """Of repeats that are not independent no interval can be given, and so no verdict."""
    rows: list[dict[str, object]] = []
    for name, flags in found.items():
        rejected, repeats = int(flags.sum()), len(flags)
        row: dict[str, object] = {"check": check, "sides": sides or None, "test": LABELS[name],
               "rejected": rejected, "of": repeats, "rate": rejected / repeats,
               "low": float("nan"), "high": float("nan"), "verdict": None}  # fmt: skip
        if independent:
            low, high = binomial_interval(rejected, repeats)
            row |= {"low": low, "high": high, "verdict": verdict(low, high)}
        rows.append(row)
    return rows


def _sides(runs: Mapping[str, NDArray[np.float64]]) -> str:
    counts = sorted({values.shape[1] for values in runs.values()} - {1})
    return "; ".join(f"{count // 2} and {count - count // 2}" for count in counts)


def _caption(
    result: DatasetResults, runs: Mapping[str, NDArray[np.float64]], size: Size, k: int
) -> str:
    several = [values for values in runs.values() if values.shape[1] > 1]
    users = min(size.users, len(result.users))
    made_up = (
        f" {MADE_UP.capitalize()}: {size.trainings} on each side, for the store has few; every "
        f"training gives each of {users:,} users one of the user's stored values and then "
        "raises or lowers the chance of a hit for all users at once. That variance between "
        f"trainings is estimated from the store, all methods together, at "
        f"{training_ratio(several):.2f} times that of chance among the store's users, and is "
        "simulated at the same ratio."
        if several else ""
    )  # fmt: skip
    return (
        f"Methods compared with themselves on {result.heading}, {METRICS['ndcg'].label}@{k}: how "
        f"often a test finds a difference (p < {ALPHA}, one comparison, no correction) where there "
        f"is none. {USERS.capitalize()}: {users:,} users with replacement, the values of two "
        "trainings of each in random order (of a method trained once: of two users). "
        f"{STORED.capitalize()}: all users, the trainings split in two in every way; the splits "
        f"share trainings, so there is no interval of the rate.{made_up} Low and high: exact 99% "
        "interval of the rate. Where trainings differ only the seed-aware interval is held to 5%; "
        "the other tests know users only and find that two trainings differ, which is why a "
        "difference between methods counts only if both agree."
    )


def _notes(result: DatasetResults, runs: Mapping[str, NDArray[np.float64]]) -> list[str]:
    left_out = [method.label for method in result.methods if method.key not in runs]
    once = [result.labels[key] for key, values in runs.items() if values.shape[1] == 1]
    notes = []
    if left_out:
        notes.append(f"Left out, all trainings the same or without a hit: {'; '.join(left_out)}.")
    if once:
        notes.append(f"Trained once, so by users alone: {'; '.join(once)}.")
    if not any(values.shape[1] >= 4 for values in runs.values()) and len(once) < len(runs):
        notes.append(f"{LABELS[SEED_AWARE].capitalize()}: not for stored trainings, which would "
                     "take four of a method.")  # fmt: skip
    return notes
