"""SASRec (Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018) by RecBole.

Both variants are RecBole's network, fed with one row per prefix: RecBole predicts at the last
position of each row only, where the paper's code predicts at every position of one row a user.
They differ in the loss, which decides much of the outcome and therefore is part of the name.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.recbole_adapter import RecBoleMethod
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
        module = importlib.import_module("recbole.model.sequential_recommender.sasrec")
        model: type = module.SASRec
        return model

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

    def inputs(
        self, split: Split, positions: NDArray[np.int64], item_ids: NDArray[np.int64]
    ) -> dict[str, torch.Tensor]:
        """Histories as RecBole ids, int64 [n, max_history] padded with 0, and their lengths [n]."""
        items, lengths = split.histories(positions)
        # The last entry is what an index of -1, our padding, finds: RecBole's padding.
        padded = np.append(item_ids, 0)[items]
        width = ((0, 0), (0, split.max_history - items.shape[1]))
        return {
            "item_id_list": torch.from_numpy(np.pad(padded, width)),
            "item_length": torch.from_numpy(lengths),
        }

    def item_embeddings(self) -> NDArray[np.float32]:
        """float32 [n_items, hidden_size]: the fitted item embeddings, in our order of items.

        An item without training rows keeps what the loss made of it as an answer to none.
        """
        fitted = self._after_fit()
        table = fitted.watched.trainer.model.item_embedding.weight.detach().cpu().float().numpy()
        return np.ascontiguousarray(table[fitted.item_ids])


@dataclass(kw_only=True, eq=False)
class SasRecBCE(SasRecCE):
    """SASRec with the loss of its paper: binary cross-entropy, one sampled negative a positive."""

    def model_class(self) -> type:
        return _bce_model_class()


@functools.cache
def _bce_model_class() -> type:
    """RecBole's SASRec with another loss; made on first use, when RecBole can be imported."""
    base = importlib.import_module("recbole.model.sequential_recommender.sasrec").SASRec

    class SASRecBCE(base):  # type: ignore[misc, valid-type]
        """Loss of a row: -log s(r_target) - log(1 - s(r_negative)), s the sigmoid; mean over rows.

        Source: Kang and McAuley 2018, section III-E. The negative is drawn anew at each step,
        uniformly from the items that the user's training rows do not hold.
        """

        def __init__(self, config: Any, dataset: Any) -> None:
            super().__init__(config, dataset)
            rows = dataset.inter_feat
            held = torch.cat([rows[self.ITEM_SEQ], rows[self.ITEM_ID][:, None]], dim=1)
            self.negatives = Negatives(rows[self.USER_ID], held, self.n_items).to(self.device)

        def calculate_loss(self, interaction: Any) -> torch.Tensor:
            hidden_BxD = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
            target_B = interaction[self.POS_ITEM_ID]
            negative_B = self.negatives.sample(interaction[self.USER_ID])
            positive = (hidden_BxD * self.item_embedding(target_B)).sum(dim=1)
            negative = (hidden_BxD * self.item_embedding(negative_B)).sum(dim=1)
            log_sigmoid = torch.nn.functional.logsigmoid
            return -(log_sigmoid(positive) + log_sigmoid(-negative)).mean()

    return SASRecBCE


class Negatives:
    """Uniform draws from what users have not consumed, all rows of a batch at once.

    RecBole's own sampler for sequential models rules out the row's target only, and loops in
    Python.
    """

    def __init__(self, users: torch.Tensor, items: torch.Tensor, n_items: int) -> None:
        """Note what may not be drawn.

        Args:
            users: int64 [n_rows].
            items: int64 [n_rows, width], consumed by the row's user; 0 is padding.
            n_items: RecBole's number of items; 1 .. n_items - 1 are drawn.

        Raises:
            ValueError: a user has consumed everything, so that there is nothing to draw.
        """
        keys = torch.unique((users[:, None] * n_items + items)[items > 0])
        if (torch.bincount(keys // n_items).max() >= n_items - 1).item():
            raise ValueError("a user has consumed the whole catalogue: no negative can be sampled")
        self.n_items = n_items
        self._keys = keys  # sorted

    def to(self, device: torch.device | str) -> Negatives:
        self._keys = self._keys.to(device)
        return self

    def sample(self, users: torch.Tensor) -> torch.Tensor:
        """int64 [B]: one item for each of ``users`` [B], from torch's generator."""
        drawn = torch.randint(1, self.n_items, users.shape, device=users.device)
        while len(again := self._consumed(users, drawn).nonzero()[:, 0]):
            drawn[again] = torch.randint(1, self.n_items, again.shape, device=users.device)
        return drawn

    def _consumed(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """bool [B]: whether the user has consumed the item."""
        keys = users * self.n_items + items
        found = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        return torch.eq(self._keys[found], keys)
