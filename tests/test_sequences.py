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


def mixed(z: int, salt: int) -> int:
    """SplitMix64 of z, in whole numbers of 64 bits."""
    mask = (1 << 64) - 1
    z = (z + (salt + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def order(n: int, seed: int) -> list[int]:
    """0 .. n - 1 by a hash of the seed and the number, compared as signed numbers."""
    hashed = [mixed(mixed(i, seed), seed >> 32) for i in range(n)]
    signed = [h - (1 << 64) if h >> 63 else h for h in hashed]
    return sorted(range(n), key=lambda i: signed[i])


@pytest.mark.parametrize("window", [1, 3, 10_000])
@pytest.mark.parametrize("seed", [0, 7, (5 << 32) + 11])
def test_the_batches_are_the_same_on_every_device(window: int, seed: int) -> None:
    """Those of a reader that knows no torch and no device: an order drawn by a device's own
    generator would be another one on each, and the results of one seed with it."""
    rows, size = reader(), 16
    positions = rows.data.train_positions.tolist()
    starts = rows.data.history_starts(rows.data.train_positions).tolist()
    length = {p: p - s for p, s in zip(positions, starts, strict=True)}
    drawn = [positions[i] for i in order(len(positions), seed)]
    if window > 1:
        pieces = [drawn[i : i + window * size] for i in range(0, len(drawn), window * size)]
        drawn = [p for piece in pieces for p in sorted(piece, key=length.__getitem__)]
    batches = [drawn[i : i + size] for i in range(0, len(drawn), size)]
    if window > 1:
        batches = [batches[i] for i in order(len(batches), seed)]
    assert [batch.tolist() for batch in epoch(rows, seed, window)] == batches
