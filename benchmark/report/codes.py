"""How a method uses its codes, from stored semantic IDs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.aggregate import MethodRuns
from benchmark.store import StoredRun


def gini(counts: NDArray[np.int64]) -> float:
    """How unevenly codes are used: 0 where all are alike, 1 - 1/K where one has everything.

    G = sum_i (2i - K - 1) n_i / (K sum_i n_i) with the counts n rising and i from 1: twice the
    area between the Lorenz curve and the diagonal (Gini 1912; Dorfman 1979, "A Formula for the
    Gini Coefficient"). 0 where nothing is counted.

    Args:
        counts: [K], items on each code, unused ones included; at least one code.
    """
    rising = np.sort(np.asarray(counts, dtype=np.float64))
    if not len(rising) or rising[0] < 0:
        raise ValueError("gini needs at least one count, and none below 0")
    total, size = float(rising.sum()), len(rising)
    if total == 0:
        return 0.0
    weights = 2 * np.arange(1, size + 1) - size - 1
    return float(weights @ rising) / (size * total)


@dataclass(frozen=True, eq=False)
class CodeUse:
    """Use of the codes over the whole catalogue.

    Attributes:
        counts: int64 [m, K], items on each code of each level (the suffix is no level).
        n_distinct: how many different m-tuples the items have.
        largest_group: items that share the most crowded m-tuple.
        size_known: whether the run says K; if not, K is the highest code in use plus 1.
    """

    counts: NDArray[np.int64]
    n_distinct: int
    largest_group: int
    size_known: bool

    @property
    def n_items(self) -> int:
        return int(self.counts[0].sum())

    @property
    def used(self) -> NDArray[np.int64]:
        """int64 [m]: codes with at least one item."""
        return np.asarray((self.counts > 0).sum(axis=1))

    @property
    def perplexity(self) -> NDArray[np.float64]:
        """float64 [m]: exp(-sum_k p_k ln p_k), from 1 (one code) to K (all alike)."""
        share = self.counts / self.n_items
        logs = np.log(np.where(share > 0, share, 1.0))
        return np.asarray(np.exp(-(share * logs).sum(axis=1)))

    @property
    def balance(self) -> NDArray[np.float64]:
        """float64 [m]: 1 - sum_k |n_k - N/K| / (2N), from 1/K (one code) to 1 (all alike)."""
        even = self.n_items / self.counts.shape[1]
        return np.asarray(1 - np.abs(self.counts - even).sum(axis=1) / (2 * self.n_items))

    @property
    def gini(self) -> NDArray[np.float64]:
        """float64 [m]: see ``gini``."""
        return np.array([gini(level) for level in self.counts])

    @property
    def collision_rate(self) -> float:
        """1 - distinct m-tuples / items."""
        return 1 - self.n_distinct / self.n_items


def code_use(run: StoredRun, last: bool = False) -> CodeUse | None:
    """Code use of the semantic IDs that a run was tested with or, with ``last``, of those of its
    last epoch; None for methods without, or where they were not kept."""
    sids = run.last_sids() if last else run.sids()
    if sids is None:
        return None
    codes = sids[:, :-1]
    size = run.info.get("describe", {}).get("codebook_size")
    k = max(int(size or 0), int(codes.max()) + 1)
    counts = np.stack([np.bincount(level, minlength=k) for level in codes.T]).astype(np.int64)
    groups = np.unique(codes, axis=0, return_counts=True)[1]
    return CodeUse(counts, len(groups), int(groups.max()), size is not None)


def code_uses(method: MethodRuns) -> list[CodeUse]:
    """Of the method's runs, by seed; empty for methods without semantic IDs."""
    return [use for use in map(code_use, method.runs) if use is not None]
