"""Bounds beside what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark.speed.bounds import BOUNDS, bounds_table

STATISTICS = {"seconds": 1.0, "peak_memory_bytes": 2**30}


def facts(kind: str, **parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"device": {"kind": kind}, "parts": parts}


def row_of(given: dict[str, Any], words: str) -> Any:
    table = bounds_table(given)
    assert table is not None
    found = table.frame[table.frame["what"].str.contains(words, regex=False)]
    assert len(found) == 1, list(table.frame["what"])
    return found.iloc[0]


def beauty(**changes: float) -> dict[str, Any]:
    return {
        "experiment": "paper", "method": "diger_frqud", "way": "bf16, graph", "ms_per_step": 3.9,
        "epoch_seconds": 2.5, "validation_seconds": 0.9, "new_ids_and_gradients_seconds": 0.1,
        "plain_over_ms_per_step": 25.0, **changes,
    }  # fmt: skip


def test_a_whole_run_is_its_epochs_with_a_validation_each() -> None:
    """120 x (2.5 + 0.9 + 0.1) s = 420 s = 7 minutes, which is just within the bound."""
    row = row_of(facts("cuda", train=[beauty()]), "minutes of a run")
    assert row["value"] == pytest.approx(7.0)
    assert row["holds"] == "yes"
    assert row_of(facts("cuda", train=[beauty(validation_seconds=1.0)]), "minutes")["holds"] == "no"


@pytest.mark.parametrize(("times", "holds"), [(19.9, "no"), (20.0, "yes")])
def test_a_ratio_must_be_at_least_its_bound(times: float, holds: str) -> None:
    given = facts("cuda", train=[beauty(plain_over_ms_per_step=times)])
    assert row_of(given, "times the plain step")["holds"] == holds


def test_the_best_of_enough_processes_counts() -> None:
    rows = [
        {"experiment": "paper", "method": "diger_frqud", "way": way, "processes": n, "over_one": x}
        for way, n, x in (("suite", 4, 9.0), ("suite", 8, 2.0), ("suite, MPS", 8, 3.5))
    ]
    rows.append({**rows[0], "method": "tiger", "way": "batched", "processes": 16, "over_one": 12.0})
    assert row_of(facts("cuda", together=rows), "side by side")["value"] == 3.5


def test_two_on_a_cpu_are_set_beside_the_plain_one_by_precision() -> None:
    rows = [
        {
            "experiment": "quick",
            "method": "tiger",
            "way": way,
            "precision": precision,
            "processes": 2,
            "over_plain": x,
        }
        for way, precision, x in (
            ("suite", "fp32", 2.5),
            ("suite, bf16", "bf16", 3.1),
            ("suite", "bf16", 3.9),
        )
    ]
    alone = {**rows[0], "way": "plain", "processes": 1, "over_plain": 1.0}
    # By itself it may take less than its most: that says no, and no yes.
    given = facts("cpu", together=[alone, *rows], statistics=[STATISTICS])
    assert row_of(given, "quick, tiger, fp32: training steps a second")["holds"] == "no"
    assert row_of(given, "quick, tiger, bf16: training steps a second")["holds"] == "not measured"
    given = facts("cpu", together=[alone, alone | {"processes": 2}, *rows])
    assert row_of(given, "quick, tiger, fp32: training steps a second")["holds"] == "no"
    assert row_of(given, "quick, tiger, bf16: training steps a second")["value"] == 3.9


def test_what_was_not_measured_is_said_and_a_device_has_its_own_bounds() -> None:
    given = facts("cpu", statistics=[STATISTICS])
    table = bounds_table(given)
    assert table is not None
    assert len(table.frame) == sum(bound.device != "cuda" for bound in BOUNDS)
    assert row_of(given, "the same: MiB")["value"] == 1024
    rest = table.frame[table.frame["value"].isna()]
    assert set(rest["holds"]) == {"not measured"}
    assert bounds_table(facts("cpu")) is None
