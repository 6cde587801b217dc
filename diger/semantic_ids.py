"""Semantic IDs: m codes an item and a suffix that tells apart items with the same codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diger.checks import SettingError

Codes = NDArray[np.int32]


def number_sharers(codes: Codes) -> Codes:
    """int32 [N, m + 1] from int32 [N, m]: the items that share their m codes are numbered from 0
    in item order, in a last column that has no upper bound."""
    _, group = np.unique(codes, axis=0, return_inverse=True)
    group = group.reshape(-1)
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group)
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    suffix = np.empty(len(codes), dtype=np.int32)
    suffix[order] = np.arange(len(codes)) - np.repeat(firsts, counts)
    return np.concatenate([codes, suffix[:, None]], axis=1).astype(np.int32)


def add_suffix(codes: Codes, codebook_size: int) -> Codes:
    """Append the suffix code: int32 [N, m + 1] from int32 [N, m], see ``number_sharers``.

    Raises:
        SettingError: more items share one tuple than the suffix level has codes.
    """
    sids = number_sharers(codes)
    suffix = sids[:, -1]
    if suffix.max() >= codebook_size:
        raise SettingError(
            f"{suffix.max() + 1} items share the same {codes.shape[1]} codes, but the suffix has "
            f"only {codebook_size} values: raise method.codebook_size or method.levels, or train "
            "the tokenizer longer (method.tokenizer.epochs) so that fewer items collide"
        )
    return sids


@dataclass(frozen=True)
class CodeStatistics:
    """How a catalogue uses its codes; lists have one value a level (without the suffix).

    used: codes with at least one item. entropy: of the usage, in nats. perplexity: exp(entropy).
    balance: 1 - sum_k |n_k - N/K| / (2N), 1 where every code has the same load.
    collision_rate: 1 - distinct tuples / N. largest_group: most items on one tuple.
    """

    used: list[int]
    entropy: list[float]
    perplexity: list[float]
    balance: list[float]
    collision_rate: float
    largest_group: int

    def as_log(self) -> dict[str, Any]:
        """The same under the names of train.jsonl."""
        return {f"codes/{name}": value for name, value in vars(self).items()}


def code_statistics(codes: Codes, codebook_size: int) -> CodeStatistics:
    """Statistics of int32 [N, m] codes, N >= 1."""
    n = len(codes)
    used, entropy, balance = [], [], []
    for column in codes.T:
        counts = np.bincount(column, minlength=codebook_size)
        share = counts[counts > 0] / n
        used.append(int((counts > 0).sum()))
        entropy.append(float(-(share * np.log(share)).sum()))
        balance.append(float(1 - np.abs(counts - n / codebook_size).sum() / (2 * n)))
    _, groups = np.unique(codes, axis=0, return_counts=True)
    return CodeStatistics(
        used,
        entropy,
        [float(np.exp(value)) for value in entropy],
        balance,
        float(1 - len(groups) / n),
        int(groups.max()),
    )


def changed_share(before: Codes, after: Codes) -> float:
    """Share of rows [N, *] that are not the same in every column."""
    return float((before != after).any(axis=1).mean())


def drift(before: Codes, after: Codes) -> dict[str, Any]:
    """Share of items whose codes [N, m] changed: any of them, and level by level."""
    changed = before != after
    return {
        "drift/full": changed_share(before, after),
        "drift/level": [float(value) for value in changed.mean(axis=0)],
    }
