"""Every pair of methods on every metric, ready for a reader to pick from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from benchmark.aggregate import DatasetResults
from benchmark.metrics import METRICS
from benchmark.report.page.embed import rounded
from benchmark.report.tables import compared
from benchmark.significance import TESTS, in_words

#: Those that the overall table tests as well, so that nothing is computed for the page alone.
SHOWN_METRICS = ("recall", "ndcg")

#: Columns of ``compare_all`` that the page shows, where the frame has them.
COLUMNS = (
    "n", "mean_a", "mean_b", "difference", "relative", "d_z", "ci_low", "ci_high", "mdd",
    "seeds_a", "seeds_b", "sd_a", "sd_b", "seed_low", "seed_high", "seed_mdd",
    *(f"{name}_{part}" for name in TESTS for part in ("p", "p_holm")),
)  # fmt: skip
DIGITS = 6


def comparisons(result: DatasetResults) -> dict[str, Any] | None:
    """One data set's pairs as JSON; None with fewer than two methods or users.

    Keys: dataset, heading, methods (key and label, in table order), columns (names of the numbers
    of a row), and metrics: name, label and rows, where a row is the positions of a and b among the
    methods, then the numbers, the word in ``found`` and the comparison in words. a comes before b
    in the order of the methods.
    """
    if len(result.methods) < 2 or len(result.users) < 2:
        return None
    metrics = []
    columns: list[str] = []
    for name in SHOWN_METRICS:
        for k in result.ks:
            frame = compared(result, name, k)
            columns = [column for column in COLUMNS if column in frame]
            metrics.append(
                {
                    "name": f"{name}@{k}",
                    "label": f"{METRICS[name].label}@{k}",
                    "rows": _rows(frame, columns, result.labels),
                }
            )
    return {
        "dataset": result.dataset,
        "heading": result.heading,
        "methods": [[method.key, method.label] for method in result.methods],
        "columns": columns,
        "metrics": metrics,
    }


def test_labels() -> list[list[str]]:
    """Name and label of each test."""
    return [[test.name, test.label] for test in TESTS.values()]


def _rows(frame: pd.DataFrame, columns: list[str], labels: Mapping[str, str]) -> list[list[Any]]:
    positions = {key: position for position, key in enumerate(labels)}
    rows = []
    for _, row in frame.iterrows():
        numbers = [rounded(_plain(row[column]), DIGITS) for column in columns]
        rows.append(
            [
                positions[row["a"]],
                positions[row["b"]],
                *numbers,
                str(row["found"]),
                in_words(row, labels),
            ]
        )
    return rows


def _plain(value: Any) -> Any:
    """A numpy number as JSON knows it."""
    if value is None or value is pd.NA:
        return None
    return value.item() if isinstance(value, np.generic) else value
