"""RecBole's SASRec, computing what its loss reads and no more.

RecBole's forward pass runs every position of a row through every layer and then takes the last
one. Nothing reads the others of the last layer, so it is computed there for one position: the same
hidden state, up to rounding, from the same parameters (tests/test_recbole_models.py). Keys and
values are not made at all: for a single query their projections can be moved to the query and to
the weighted sum, which are one vector a head instead of one a position.

Shapes: B rows, T positions, D width, H heads of h = D / H, N items.
"""

from __future__ import annotations

import functools
import importlib
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diger.dropout import dropout

#: Most scores of a loss over the catalogue that are held at once, by kind of device; but at least
#: those of so many rows, lest each pass over the table do too little.
MAX_SCORES = {"cpu": 1 << 22}
MAX_SCORES_ELSEWHERE = 1 << 26
LEAST_ROWS = 32


class Dropout(nn.Module):
    """``torch.nn.Dropout`` by another road, which is cheaper on a CPU."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)


def use_cheap_parts(model: nn.Module) -> None:
    """Put ``Dropout`` in place of every dropout in ``model``, and torch's GELU, which is exact
    and one operation, in place of RecBole's, which is exact and four."""
    modules: list[Any] = list(model.modules())
    for module in modules:
        for name, part in module.named_children():
            if isinstance(part, nn.Dropout):
                setattr(module, name, Dropout(part.p))
        activation = getattr(module, "intermediate_act_fn", None)
        if activation is not None and activation == getattr(module, "gelu", None):
            module.intermediate_act_fn = F.gelu


class Lookup(torch.autograd.Function):
    """Rows of a table whose row 0 is padding and gets no gradient, as ``F.embedding`` has it.

    Args of forward:
        table_ND: float. index: int64 of any shape; the result has D more.
    """

    @staticmethod
    def forward(ctx: Any, table_ND: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.n = len(table_ND)
        return table_ND.index_select(0, index.flatten()).view(*index.shape, -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        by_table = grad.new_zeros((ctx.n, grad.shape[-1]))
        by_table.index_add_(0, index.flatten(), grad.reshape(-1, grad.shape[-1]))
        by_table[0].zero_()
        return by_table, None


class Attend(torch.autograd.Function):
    """sum_t a_t x_t and sum_t a_t with a = keep * softmax(query . x_t + bias_t), for each head.

    Args of forward:
        query_BHD, x_BTD: float. bias_B1T: float, a constant. keep_BHT: float, of a dropout.

    Returns:
        [B, H, D] and [B, H, 1].
    """

    @staticmethod
    def forward(
        ctx: Any, query_BHD: Tensor, x_BTD: Tensor, bias_B1T: Tensor, keep_BHT: Tensor
    ) -> tuple[Tensor, Tensor]:
        share_BHT = (query_BHD @ x_BTD.transpose(1, 2)).add_(bias_B1T).softmax(-1)
        kept_BHT = share_BHT * keep_BHT
        ctx.save_for_backward(query_BHD, x_BTD, keep_BHT, share_BHT, kept_BHT)
        return kept_BHT @ x_BTD, kept_BHT.sum(-1, keepdim=True)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, by_sum_BHD: Tensor, by_total_BH1: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        query_BHD, x_BTD, keep_BHT, share_BHT, kept_BHT = ctx.saved_tensors
        by_kept_BHT = (by_sum_BHD @ x_BTD.transpose(1, 2)).add_(by_total_BH1)
        flow_BHT = by_kept_BHT.mul_(keep_BHT).mul_(share_BHT)
        by_score_BHT = flow_BHT - share_BHT * flow_BHT.sum(-1, keepdim=True)
        # Both roads to x in one product.
        weights_BT2H = torch.cat([by_score_BHT, kept_BHT], dim=1).transpose(1, 2)
        by_x_BTD = weights_BT2H @ torch.cat([query_BHD, by_sum_BHD], dim=1)
        return by_score_BHT @ x_BTD, by_x_BTD, None, None


def last_state(layer: Any, x_BTD: Tensor, mask_BT: Tensor, last_BD: Tensor) -> Tensor:
    """What RecBole's ``TransformerLayer`` gives at one position of each row, [B, D].

    With queries q = W_q x + b_q, keys k_t = W_k x_t + b_k and values v_t = W_v x_t + b_v, a score
    q . k_t is (W_k^T q) . x_t plus a term that is the same for all t, which softmax takes no
    notice of; and sum_t a_t v_t is W_v (sum_t a_t x_t) + b_v sum_t a_t. With dropout, the weights
    a_t do not sum to one.

    Args:
        mask_BT: True at the positions that may be attended to.
        last_BD: ``x_BTD`` at the position that is asked for.
    """
    attention = layer.multi_head_attention
    heads, width = attention.num_attention_heads, x_BTD.shape[-1]
    by_head = (heads, width // heads, width)
    query_BHh = attention.query(last_BD).unflatten(1, by_head[:2]) / math.sqrt(by_head[1])
    query_BHD = torch.einsum("bhi,hid->bhd", query_BHh, attention.key.weight.view(by_head))
    # RecBole's mask: so low that softmax gives exactly zero.
    bias_B1T = torch.where(mask_BT, 0.0, -10000.0)[:, None]
    keep_BHT = attention.attn_dropout(x_BTD.new_ones(len(x_BTD), heads, x_BTD.shape[1]))
    sum_BHD, share_BH1 = Attend.apply(  # type: ignore[no-untyped-call]
        query_BHD, x_BTD, bias_B1T, keep_BHT
    )
    context_BHh = torch.einsum("bhd,hid->bhi", sum_BHD, attention.value.weight.view(by_head))
    context_BHh = context_BHh + attention.value.bias.view(by_head[:2]) * share_BH1
    hidden_BD = attention.out_dropout(attention.dense(context_BHh.flatten(1)))
    return layer.feed_forward(attention.LayerNorm(hidden_BD + last_BD))


class CatalogueCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of scores ``hidden @ table^T`` against one item a row.

    The gradient is made along with the loss, while the scores are at hand: nothing of the size of
    the catalogue times the batch is kept for later, or made more than once. Rows are taken as many
    at a time as ``space`` has room for.

    Args of forward:
        hidden_BD, table_ND: float. target_B: int64. space: float [2, rows, N], overwritten.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_BD: Tensor, table_ND: Tensor, target_B: Tensor, space: Tensor
    ) -> Tensor:
        loss = hidden_BD.new_zeros(())
        by_hidden, by_table = torch.empty_like(hidden_BD), torch.zeros_like(table_ND)
        for first in range(0, len(hidden_BD), space.shape[1]):
            part = slice(first, first + space.shape[1])
            hidden, target = hidden_BD[part], target_B[part, None]
            logits, shares = space[0, : len(hidden)], space[1, : len(hidden)]
            torch.mm(hidden, table_ND.T, out=logits)
            torch.softmax(logits, 1, out=shares)
            # The largest share is exp(largest logit - log of the sum): no second pass of exp.
            log_sum = logits.amax(1) - shares.amax(1).log()
            loss += (log_sum - logits.gather(1, target)[:, 0]).sum()
            shares.scatter_(1, target, shares.gather(1, target) - 1)
            torch.mm(shares, table_ND, out=by_hidden[part])
            by_table.addmm_(shares.T, hidden)
        ctx.save_for_backward(by_hidden, by_table)
        ctx.rows = len(hidden_BD)
        return loss / ctx.rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_hidden, by_table = ctx.saved_tensors
        return by_hidden * (grad / ctx.rows), by_table * (grad / ctx.rows), None, None


@functools.cache
def sasrec_class() -> type:
    """RecBole's SASRec with a cheaper forward pass; made on first use, when RecBole can be
    imported."""
    base = importlib.import_module("recbole.model.sequential_recommender.sasrec").SASRec

    class SASRec(base):  # type: ignore[misc, valid-type]
        """Same parameters, same loss, same hidden state (see the head of this module).

        The bias of the last layer's keys has no part in that state; it keeps its first value.
        """

        def __init__(self, config: Any, dataset: Any) -> None:
            super().__init__(config, dataset)
            use_cheap_parts(self)
            self._space = torch.empty(0)

        def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
            """Hidden state [B, D] after the last item of histories [B, T] of lengths [B]."""
            positions_TD = self.position_embedding.weight[: item_seq.shape[1]]
            x_BTD = self.dropout(self.LayerNorm(self.rows_of(item_seq) + positions_TD))
            *layers, last = self.trm_encoder.layer
            if layers:
                mask = self.get_attention_mask(item_seq)
                for layer in layers:
                    x_BTD = layer(x_BTD, mask)
            # Left-aligned histories: what comes up to the last item is what is not padding.
            last_BD = self.gather_indexes(x_BTD, item_seq_len - 1)
            return last_state(last, x_BTD, item_seq != 0, last_BD)

        def calculate_loss(self, interaction: Any) -> Tensor:
            hidden_BD = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
            table_ND, target_B = self.item_embedding.weight, interaction[self.POS_ITEM_ID]
            return CatalogueCrossEntropy.apply(  # type: ignore[no-untyped-call]
                hidden_BD, table_ND, target_B, self._room(hidden_BD, len(table_ND))
            )

        def rows_of(self, items: Tensor) -> Tensor:
            """Embeddings of ``items``, of any shape."""
            table_ND = self.item_embedding.weight
            return Lookup.apply(table_ND, items)  # type: ignore[no-untyped-call]

        def _room(self, hidden_BD: Tensor, n_items: int) -> Tensor:
            """The same memory at every step: fresh memory costs a CPU more than the products."""
            most = MAX_SCORES.get(hidden_BD.device.type, MAX_SCORES_ELSEWHERE)
            rows = min(len(hidden_BD), max(LEAST_ROWS, most // n_items))
            if self._space.numel() < 2 * rows * n_items:
                self._space = hidden_BD.new_empty(2 * rows * n_items)
            return self._space[: 2 * rows * n_items].view(2, rows, n_items)

    return SASRec


@functools.cache
def sasrec_bce_class() -> type:
    """The same with another loss."""

    class SASRecBCE(sasrec_class()):  # type: ignore[misc]
        """Loss of a row: -log s(r_target) - log(1 - s(r_negative)), s the sigmoid; mean over rows.

        Source: Kang and McAuley 2018, section III-E. The negative comes with the row: drawn anew
        at each step, uniformly from the items that the user's training rows do not hold.
        """

        def calculate_loss(self, interaction: Any) -> Tensor:
            hidden_BD = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
            pair_2B = torch.stack([interaction[self.POS_ITEM_ID], interaction[self.NEG_ITEM_ID]])
            positive_B, negative_B = (hidden_BD * self.rows_of(pair_2B)).sum(dim=2)
            return -(F.logsigmoid(positive_B) + F.logsigmoid(-negative_B)).mean()

    return SASRecBCE
