"""TIGER: the two-stage road. The tokenizer is trained first and then frozen.

Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023.
"""

from __future__ import annotations

from torch import Tensor

from diger.estimators import Estimator


class TwoStage(Estimator):
    """Frozen semantic IDs: the recommendation loss never sees the tokenizer."""

    trains_tokenizer = False

    def noise_scale(self, level: int) -> Tensor:
        return self.unit.new_zeros(())
