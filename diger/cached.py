"""DIGER on the semantic IDs of the last refresh, with and without its gradient.

The authors' released main branch, behind the reported numbers, runs the recommender on the hard IDs
that it renewed after the last epoch and detaches the recommendation loss before it reaches the
tokenizer (``detached`` here). A later branch of theirs keeps the forward pass and restores the
gradient (``cached``). In both, noise changes the soft codes p_l alone, never which code is read.
"""

from __future__ import annotations

from torch import Tensor

from diger.estimators import CombinedDecay, Estimator, FrequencyDecay, StandardDeviationDecay


class CachedForward(Estimator):
    """Forward: the codes of the last refresh. Backward: the soft codes p_l, with their noise."""

    def forward_codes(self, logits_nxK: Tensor, cached_n: Tensor | None) -> Tensor:
        if cached_n is None:
            raise ValueError(f"{type(self).__name__} needs the codes of the last refresh")
        return cached_n


class DetachedForward(CachedForward):
    """The same, but the recommendation loss ends at y: only the quantisation and reconstruction
    losses move the tokenizer."""

    def present(self, y: Tensor) -> Tensor:
        return y.detach()


class StandardDeviationDecayCached(CachedForward, StandardDeviationDecay):
    """SDUD on cached codes."""


class FrequencyDecayCached(CachedForward, FrequencyDecay):
    """FrqUD on cached codes."""


class CombinedDecayCached(CachedForward, CombinedDecay):
    """SDUD and FrqUD on cached codes."""


class StandardDeviationDecayDetached(DetachedForward, StandardDeviationDecay):
    """SDUD on cached codes, the recommendation loss detached."""


class FrequencyDecayDetached(DetachedForward, FrequencyDecay):
    """FrqUD on cached codes, the recommendation loss detached."""


class CombinedDecayDetached(DetachedForward, CombinedDecay):
    """SDUD and FrqUD on cached codes, the recommendation loss detached."""
