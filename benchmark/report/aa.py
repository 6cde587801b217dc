"""A method compared with itself, as a table: which tests find differences where there are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
    MAX_SPLITS,
    SEED_AWARE,
    Size,
    binomial_interval,
    by_made_up_trainings,
    by_trainings,
    by_users,
    training_ratio,
    varying,
)

Runs = Mapping[str, NDArray[np.float64]]
Check = Callable[[Runs, Size, int], dict[str, NDArray[np.bool_]]]

USERS, STORED, MADE_UP = "users drawn anew", "stored trainings", "made-up trainings"
CHECKS = (USERS, STORED, MADE_UP)


def aa_table(
    result: DatasetResults,
    size: Size | None = None,
    seed: int = SEED,
    begin: Callable[[str], None] = lambda check: None,
) -> Table | None:
    """One row a check and test, with the rate of rejections at 5%; None where no method has values
    that could tell (no hits, or trainings that are all the same) or there are fewer than two users.

    A few seconds with the default size, whatever the number of users.

    Args:
        size: the default is that of reports.
        begin: told each check's name before its work starts.
    """
    size = size or Size()
    k = result.headline_k
    runs = varying(result.seed_values("ndcg", k))
    if not runs or len(result.users) < 2:
        return None
    rows = []
    for check, (sides, run, independent) in _checks(runs, size).items():
        begin(check)
        rows += _rows(check, sides, run(runs, size, seed), independent)
    columns = (
        Column("check", "What is drawn"), Column("sides", "Trainings"), Column("test", "Test"),
        Column("rejected", "Rejected", integer), Column("of", "of", integer),
        Column("rate", "Rate", share), Column("low", "low", share), Column("high", "high", share),
        Column("verdict", "5%?"),
    )  # fmt: skip
    return Table(
        f"{result.dataset}-aa", pd.DataFrame(rows), columns, _caption(result, runs, size, k),
        tuple(_notes(result, runs)),
    )  # fmt: skip


def _checks(runs: Runs, size: Size) -> dict[str, tuple[str | None, Check, bool]]:
    """Each check by name: trainings a side, what it does, and whether its repeats are independent
    of each other."""
    return {
        USERS: (None, by_users, True),
        STORED: (_sides(runs), by_trainings, False),
        MADE_UP: (f"{size.trainings} and {size.trainings}", by_made_up_trainings, True),
    }


def verdict(low: float, high: float) -> str:
    """What an interval of the rate says of 5%."""
    if low > ALPHA:
        return "too often"
    return "less often" if high < ALPHA else "as promised"


def _rows(
    check: str, sides: str | None, found: Mapping[str, NDArray[np.bool_]], independent: bool
) -> list[dict[str, object]]:
    """Of repeats that are not independent no interval can be given, and so no verdict."""
    rows: list[dict[str, object]] = []
    for name, flags in found.items():
        rejected, repeats = int(flags.sum()), len(flags)
        row: dict[str, object] = {"check": check, "sides": sides, "test": LABELS[name],
               "rejected": rejected, "of": repeats, "rate": rejected / repeats,
               "low": float("nan"), "high": float("nan"), "verdict": None}  # fmt: skip
        if independent:
            low, high = binomial_interval(rejected, repeats)
            row |= {"low": low, "high": high, "verdict": verdict(low, high)}
        rows.append(row)
    return rows


def _sides(runs: Runs) -> str:
    counts = sorted({values.shape[1] for values in runs.values()} - {1})
    return "; ".join(f"{count // 2} and {count - count // 2}" for count in counts)


def _caption(result: DatasetResults, runs: Runs, size: Size, k: int) -> str:
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
        f"{STORED.capitalize()}: all users, the trainings split in two in every way, "
        f"{MAX_SPLITS} ways of a method at most; the splits "
        f"share trainings, so there is no interval of the rate.{made_up} Low and high: exact 99% "
        "interval of the rate. Where trainings differ only the seed-aware interval is held to 5%; "
        "the other tests know users only and find that two trainings differ, which is why a "
        "difference between methods counts only if both agree."
    )


def _notes(result: DatasetResults, runs: Runs) -> list[str]:
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
