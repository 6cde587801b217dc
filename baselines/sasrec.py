"""SASRec (Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018) by RecBole.

Both variants are RecBole's network, fed with one row per prefix: RecBole predicts at the last
position of each row only, where the paper's code predicts at every position of one row a user.
They differ in the loss, which decides much of the outcome and therefore is part of the name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.recbole_adapter import RecBoleMethod
from baselines.recbole_sasrec import sasrec_bce_class, sasrec_class
from benchmark.data.split import Split
from diger import checks


@dataclass(kw_only=True, eq=False)
class SasRecCE(RecBoleMethod):
    """SASRec with RecBole's default loss: cross-entropy over the whole catalogue.

    Attributes:
        hidden_size: width of the item embeddings and of attention.
        inner_size: width of the feed-forward layers.
        n_layers: attention blocks.
        n_heads: attention heads; must divide ``hidden_size``.
        dropout: of embeddings, attention and feed-forward layers alike.
    """

    hidden_size: int = 64
    inner_size: int = 256
    n_layers: int = 2
    n_heads: int = 2
    dropout: float = 0.5

    reads_histories = True
    samples_negatives = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("hidden_size", "inner_size", "n_layers", "n_heads"):
            checks.whole(key, getattr(self, key), 1)
        checks.at_least("dropout", self.dropout, 0)
        checks.below("dropout", self.dropout, 1)
        if self.hidden_size % self.n_heads:
            raise ValueError(
                f"n_heads must divide hidden_size={self.hidden_size}, got {self.n_heads}"
            )

    def model_class(self) -> type:
        return sasrec_class()

    def model_settings(self, split: Split) -> dict[str, Any]:
        return {
            "hidden_size": self.hidden_size,
            "inner_size": self.inner_size,
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "hidden_dropout_prob": float(self.dropout),
            "attn_dropout_prob": float(self.dropout),
            "MAX_ITEM_LIST_LENGTH": split.max_history,
            # RecBole's defaults, said here because it finds them by the class name only.
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "initializer_range": 0.02,
            "loss_type": "CE",
            "train_neg_sample_args": None,
        }

    def train_rows(self, split: Split) -> NDArray[np.int64]:
        return split.train_positions

    def item_embeddings(self) -> NDArray[np.float32]:
        """float32 [n_items, hidden_size]: the fitted item embeddings, in our order of items.

        An item without training rows keeps what the loss made of it as an answer to none.
        """
        fitted = self._after_fit()
        table = fitted.watched.trainer.model.item_embedding.weight.detach().cpu().float().numpy()
        return np.array(table[1:])  # without RecBole's padding


@dataclass(kw_only=True, eq=False)
class SasRecBCE(SasRecCE):
    """SASRec with the loss of its paper: binary cross-entropy, one sampled negative a positive."""

    samples_negatives = True

    def model_class(self) -> type:
        return sasrec_bce_class()
