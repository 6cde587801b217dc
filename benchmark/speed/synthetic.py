"""Catalogues and splits of any size, without text: what speed is measured on.

Items are drawn like Zipf's law and lengths of history like those of Beauty, so that batches have
the padding and the repeated items of real data; nothing can be learned from them. A million users
and items take seconds and, with ``synthetic_content`` 384 wide, less than 2 GB.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.data.split import MIN_INTERACTIONS, Split
from benchmark.errors import UserError

ZIPF_EXPONENT = 0.8
#: Ranks start here: flattens the head, so that no item is in most users' histories.
ZIPF_OFFSET = 10
BLOCK = 1 << 16  # rows that are worked on at once


def synthetic_split(
    users: int, items: int, mean_history: float = 8.0, max_history: int = 50, seed: int = 0
) -> Split:
    """Users with 3 interactions and a geometric number more, ``mean_history`` in the mean.

    An item of popularity rank r = 0, 1, ... is drawn with a probability proportional to
    (r + 10)^-0.8; ranks are dealt to item ids at random. A user may have an item twice.

    Args:
        mean_history: interactions a user in the mean, the two held out among them, > 3.
        max_history: histories keep their last ``max_history`` items.

    Raises:
        UserError: a size is impossible, or so small that no user has a training row.
    """
    _at_least("users", users, 1)
    _at_least("items", items, 1)
    _at_least("max_history", max_history, 1)
    if not MIN_INTERACTIONS < mean_history < float("inf"):
        raise UserError(
            f"mean_history must be greater than {MIN_INTERACTIONS}, got {mean_history}: every user "
            f"has at least {MIN_INTERACTIONS} interactions"
        )
    rng = np.random.default_rng(seed)
    least = MIN_INTERACTIONS - 1  # a geometric number is at least 1
    lengths = least + rng.geometric(1 / (mean_history - least), users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if lengths.max() == MIN_INTERACTIONS:
        raise UserError(
            f"none of {users} synthetic users has a training row: raise users or mean_history"
        )
    drawn = _popular_items(rng, items, int(offsets[-1]))
    return Split(drawn, offsets, items, max_history)


def _popular_items(rng: np.random.Generator, items: int, n: int) -> NDArray[np.int32]:
    """int32 [n]: item ids by their popularity."""
    weights = (np.arange(items) + ZIPF_OFFSET) ** -ZIPF_EXPONENT
    cumulated = np.cumsum(weights)
    ranks = np.searchsorted(cumulated, rng.random(n) * cumulated[-1], side="right")
    # Rounding can carry the largest draws past the end.
    return rng.permutation(items).astype(np.int32)[np.minimum(ranks, items - 1)]


def synthetic_sids(
    items: int, levels: int = 3, codebook_size: int = 256, seed: int = 0
) -> NDArray[np.int32]:
    """Distinct semantic IDs, int32 [N, m + 1]: uniform codes, and a suffix that numbers the items
    that share theirs, in item order.

    Raises:
        UserError: a size is impossible, or there are more items than IDs.
    """
    _at_least("items", items, 1)
    _at_least("levels", levels, 1)
    _at_least("codebook_size", codebook_size, 2)
    if items > codebook_size ** (levels + 1):
        raise UserError(
            f"{levels} levels and a suffix of {codebook_size} codes make "
            f"{codebook_size ** (levels + 1)} semantic IDs, too few for {items} items: raise "
            "codebook_size or levels"
        )
    if codebook_size**levels > np.iinfo(np.int64).max:
        raise UserError(
            f"{levels} levels of {codebook_size} codes are more than synthetic IDs are made for: "
            "lower codebook_size or levels"
        )
    rng = np.random.default_rng(seed)
    tuples = rng.integers(0, codebook_size**levels, items)
    suffix = _number_equal(tuples)
    while (late := suffix >= codebook_size).any():
        tuples[late] = _redraw(rng, tuples[~late], codebook_size**levels, codebook_size, late.sum())
        suffix = _number_equal(tuples)
    sids = np.empty((items, levels + 1), dtype=np.int32)
    sids[:, levels] = suffix
    for level in reversed(range(levels)):
        tuples, sids[:, level] = np.divmod(tuples, codebook_size)
    return sids


def _redraw(
    rng: np.random.Generator, taken: NDArray[np.int64], size: int, room: int, n: int
) -> NDArray[np.int64]:
    """int64 [n]: other code tuples, of ``size`` in all, for items that found theirs full."""
    if size > 4 * len(taken):
        return rng.integers(0, size, n)  # nearly all have room
    return rng.choice(np.flatnonzero(np.bincount(taken, minlength=size) < room), n)


def _number_equal(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [N]: how many of the values before each one are equal to it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.diff(np.append(starts, len(values)))
    number = np.empty(len(values), dtype=np.int64)
    number[order] = np.arange(len(values)) - np.repeat(starts, counts)
    return number


def synthetic_content(items: int, width: int = 384, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors in random directions, float32 [N, W], as sentence encoders give.

    Raises:
        UserError: a size is impossible.
    """
    _at_least("items", items, 1)
    _at_least("width", width, 1)
    content = np.empty((items, width), dtype=np.float32)
    rng = np.random.default_rng(seed)
    for start in range(0, items, BLOCK):  # in place: a second copy would not fit in memory
        block = content[start : start + BLOCK]
        rng.standard_normal(out=block, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return content


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{name} must be at least {least}, got {value}")
