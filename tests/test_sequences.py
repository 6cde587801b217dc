"""Training rows in batches: all of them, once, in an order that the seed decides."""

from __future__ import annotations

import numpy as np
import pytest

from diger.sequences import RowReader
from tests.conftest import make_split


def reader() -> RowReader:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 40, 60)
    return RowReader(make_split([list(rng.integers(0, 50, n)) for n in lengths], 50), "cpu")


def epoch(rows: RowReader, seed: int, window: int) -> list[np.ndarray]:
    return [batch.positions.numpy() for batch in rows.epoch(16, seed, window)]


def padding(rows: RowReader, batches: list[np.ndarray]) -> float:
    """Share of a batch's places that no item fills."""
    lengths = [batch - rows.data.history_starts(batch) for batch in batches]
    places = sum(len(part) * part.max() for part in lengths)
    return 1 - float(sum(part.sum() for part in lengths)) / float(places)


@pytest.mark.parametrize("window", [1, 2, 8, 10_000])
def test_an_epoch_reads_every_row_once(window: int) -> None:
    rows = reader()
    batches = epoch(rows, 3, window)
    assert sorted(np.concatenate(batches).tolist()) == sorted(rows.data.train_positions.tolist())
    assert sorted(len(batch) for batch in batches)[1:] == [16] * (len(batches) - 1)


@pytest.mark.parametrize("window", [1, 8])
def test_the_seed_alone_decides_the_order(window: int) -> None:
    rows = reader()
    first, same, other = (np.concatenate(epoch(rows, seed, window)) for seed in (3, 3, 4))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_batches_of_like_length_waste_little() -> None:
    rows = reader()
    apart, together = (padding(rows, epoch(rows, 0, window)) for window in (1, 32))
    assert apart > 0.4
    assert together < 0.15


def test_long_rows_do_not_come_last() -> None:
    rows = reader()
    means = [float((b - rows.data.history_starts(b)).mean()) for b in epoch(rows, 0, 32)]
    half = len(means) // 2
    assert abs(np.mean(means[:half]) - np.mean(means[half:])) < 0.5 * np.mean(means)
