"""LightGCN (He et al., "LightGCN", SIGIR 2020) as RecBole implements it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.recbole_adapter import RecBoleMethod
from baselines.recbole_lightgcn import lightgcn_class
from benchmark.data.split import Split
from diger import checks


@dataclass(kw_only=True, eq=False)
class LightGCN(RecBoleMethod):
    """Propagated user and item embeddings, trained with BPR on one sampled negative.

    It sees a user's items as a set: it trains on all training interactions, whatever
    ``max_history`` and ``train_prefixes`` say, and its list does not depend on the valid item
    at test other than through the exclusion of seen items.

    Attributes:
        embedding_size: width of the embeddings.
        n_layers: propagation steps.
        reg_weight: weight of the L2 norm of a batch's embeddings.
    """

    embedding_size: int = 64
    n_layers: int = 2
    reg_weight: float = 1e-5

    excludes_seen = True
    reads_histories = False
    samples_negatives = True
    notes = ("trains on every training interaction, whatever train_prefixes says",)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("embedding_size", self.embedding_size, 1)
        checks.whole("n_layers", self.n_layers, 1)
        checks.at_least("reg_weight", self.reg_weight, 0)

    def model_class(self) -> type:
        return lightgcn_class()

    def model_settings(self, split: Split) -> dict[str, Any]:
        return {
            "embedding_size": self.embedding_size,
            "n_layers": self.n_layers,
            "reg_weight": float(self.reg_weight),
            # RecBole counts a general model's evaluation batch in scores, not in users.
            "eval_batch_size": self.eval_users * (split.n_items + 1),
        }

    def train_rows(self, split: Split) -> NDArray[np.int64]:
        """Every training interaction, also the first of a user, which has no history."""
        position = np.arange(len(split.items))
        return position[position < split.positions("valid")[split.user_of]]
