"""How much semantic IDs say of the items: how often items that belong together share codes.

Few collisions do not tell: IDs drawn at random would have next to none. A recommender learns from
codes that items share, so what counts is which items these are: the nearest ones by their vectors,
and those that users take one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data.split import Split

NEAREST = 10
SAMPLE = 4000  # items whose nearest ones are looked for: their share is exact to about 0.01


def shared_prefixes(codes_Nxm: NDArray[np.int32], pairs_Px2: NDArray[np.int64]) -> list[float]:
    """Share of the pairs of items whose first l codes are the same, for l = 1 .. m; NaN without
    pairs."""
    if len(pairs_Px2) == 0:
        return [float("nan")] * codes_Nxm.shape[1]
    same = codes_Nxm[pairs_Px2[:, 0]] == codes_Nxm[pairs_Px2[:, 1]]
    return np.logical_and.accumulate(same, axis=1).mean(0).tolist()


def nearest_pairs(content_NxW: NDArray[np.float32], seed: int = 0) -> NDArray[np.int64]:
    """int64 [P, 2]: an item, and one of its ``NEAREST`` nearest others by cosine; of all items or,
    where there are more, of ``SAMPLE`` drawn ones."""
    n = len(content_NxW)
    k = min(NEAREST, n - 1)
    lengths = np.linalg.norm(content_NxW, axis=1, keepdims=True)
    unit = content_NxW / np.maximum(lengths, np.finfo(np.float32).tiny)
    chosen = np.random.default_rng(seed).permutation(n)[:SAMPLE]
    pairs = []
    for part in np.array_split(chosen, max(1, len(chosen) // 500)):
        likeness = unit[part] @ unit.T
        likeness[np.arange(len(part)), part] = -np.inf
        nearest = np.argpartition(-likeness, k - 1, axis=1)[:, :k]
        pairs.append(np.stack([np.repeat(part, k), nearest.ravel()], 1))
    return np.concatenate(pairs).astype(np.int64)


def following_pairs(split: Split) -> NDArray[np.int64]:
    """int64 [P, 2]: each item to train on, and the one that the same user had just before."""
    positions = split.train_positions
    return np.stack([split.items[positions - 1], split.items[positions]], 1).astype(np.int64)


def likeness(
    codes: Mapping[str, NDArray[np.int32]], content_NxW: NDArray[np.float32], split: Split
) -> dict[str, dict[str, list[float]]]:
    """By rule of assignment: ``shared_prefixes`` of the ``nearest`` and of the ``following`` pairs,
    and of as many pairs drawn at ``random`` among these following ones, which is what the frequency
    of the items alone would bring."""
    following = following_pairs(split)
    random = following.copy()
    random[:, 1] = np.random.default_rng(0).permutation(random[:, 1])
    pairs = {
        "nearest": nearest_pairs(content_NxW), "following": following, "random": random,
    }  # fmt: skip
    return {
        rule: {name: shared_prefixes(found, some) for name, some in pairs.items()}
        for rule, found in codes.items()
    }


def likeness_table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of text."""
    head = f"{'assignment':12}{'codes':>6}{'nearest':>10}{'following':>11}{'random':>9}"
    text = [f"share of pairs of items with the same first codes ({NEAREST} nearest by vector; one",
            "after the other in training; the same drawn at random):", head]  # fmt: skip
    for rule, by in found.items():
        for level, (near, after, chance) in enumerate(
            zip(by["nearest"], by["following"], by["random"], strict=True), 1
        ):
            text.append(f"{rule:12}{level:>6}{near:>10.4f}{after:>11.4f}{chance:>9.4f}")
    return text
