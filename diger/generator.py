"""The recommender: token tables on top of the encoder-decoder, and its loss.

An item is m + 1 tokens, one per level, each level with its own table [K, d]. The same table reads
tokens in and, transposed, scores them on the way out. Inputs may be hard codes or soft codes y,
whose value is one-hot and whose gradient leads to the tokenizer; this module does not know which
estimator made them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diger.seq2seq import ModelConfig, Seq2Seq

ROADS = ("history", "input", "target")  # by which L_rec can reach the tokenizer


class Batch(NamedTuple):
    """B training rows over n distinct items.

    history: int64 [B, T], indices into the distinct items, 0 where ``mask`` is False.
    mask: bool [B, T]. target: int64 [B], into the distinct items.
    sids: int64 [n, m + 1], the distinct items' current semantic IDs.
    present: bool [n], which of the items are there and do not only fill a fixed number; None: all.
    there: how many they are, where they come first and the host knows it; None: it does not.
    """

    history: Tensor
    mask: Tensor
    target: Tensor
    sids: Tensor
    present: Tensor | None = None
    there: int | None = None

    @property
    def weight(self) -> Tensor | None:
        """[n], what each item counts in a mean over those that are there; None: all the same."""
        if self.present is None:
            return None
        there = self.present.to(torch.float32)
        return there / there.sum()


class Generator(nn.Module):
    """Generates the next item's semantic ID from the history's."""

    def __init__(self, levels: int, codebook_size: int, config: ModelConfig) -> None:
        super().__init__()
        self.length = levels + 1  # tokens an item: m codes and the suffix
        self.tables = nn.Parameter(torch.empty(self.length, codebook_size, config.d_model))
        self.start = nn.Parameter(torch.empty(config.d_model))
        nn.init.normal_(self.tables, std=config.init_std)
        nn.init.normal_(self.start, std=config.init_std)
        self.seq2seq = Seq2Seq(config)

    def embed_hard(self, sids: Tensor) -> Tensor:
        """[..., L, d] from int64 [..., L], L = m + 1."""
        levels, size, _ = self.tables.shape
        first = torch.arange(0, levels * size, size, device=sids.device)
        return take(self.tables.flatten(0, 1), sids + first)

    def embed_soft(self, y_mxnxK: Tensor, suffix_n: Tensor) -> Tensor:
        """[n, L, d]: soft codes on the m levels, the suffix as a hard index."""
        codes = torch.bmm(y_mxnxK, self.tables[:-1]).transpose(0, 1)
        return torch.cat([codes, take(self.tables[-1], suffix_n)[:, None]], 1)

    def encode(
        self, items_nxLxd: Tensor, history_BxT: Tensor, mask_BxT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encoder states [B, T L, d] and their mask [B, T L] of histories of embedded items."""
        return self._encode(take(items_nxLxd, history_BxT), mask_BxT)

    def encode_sids(self, sids_BxTxL: Tensor, mask_BxT: Tensor) -> tuple[Tensor, Tensor]:
        """The same of histories given by their semantic IDs, int64."""
        return self._encode(self.embed_hard(sids_BxTxL), mask_BxT)

    def _encode(self, tokens_BxTxLxd: Tensor, mask_BxT: Tensor) -> tuple[Tensor, Tensor]:
        mask = mask_BxT.repeat_interleave(self.length, 1)
        return self.seq2seq.encode(tokens_BxTxLxd.flatten(1, 2), mask), mask

    def logits(self, batch: Batch, history_items: Tensor, input_items: Tensor) -> Tensor:
        """[B, L, K], given the embedded distinct items [n, L, d] of each road."""
        memory, mask = self.encode(history_items, batch.history, batch.mask)
        start = self.start.expand(len(batch.target), 1, -1)
        inputs = torch.cat([start, take(input_items[:, :-1], batch.target)], 1)
        states = self.seq2seq.decode(inputs, memory, mask)
        return torch.einsum("bld,lkd->blk", states, self.tables)

    def loss(
        self, batch: Batch, y_mxnxK: Tensor | None = None, roads: tuple[str, ...] = ROADS
    ) -> Tensor:
        """Mean cross-entropy over rows and levels, a scalar.

        Args:
            y_mxnxK: soft codes of the distinct items; None: their hard IDs (two-stage).
            roads: which of history, decoder input and target carry gradient to ``y``; the
                value of the loss does not depend on it.
        """
        if y_mxnxK is None:
            items = self.embed_hard(batch.sids)
            log_q = self.logits(batch, items, items).log_softmax(-1)
            return F.nll_loss(log_q.flatten(0, 1), batch.sids[batch.target].flatten())
        y = {road: y_mxnxK if road in roads else y_mxnxK.detach() for road in ROADS}
        suffix = batch.sids[:, -1]
        history = self.embed_soft(y["history"], suffix)
        same = ("history" in roads) == ("input" in roads)
        inputs = history if same else self.embed_soft(y["input"], suffix)
        log_q = self.logits(batch, history, inputs).log_softmax(-1)
        wanted = y["target"].index_select(1, batch.target).transpose(0, 1)  # [B, m, K]
        codes = -(wanted * log_q[:, :-1]).sum(-1)
        last = F.nll_loss(log_q[:, -1], suffix[batch.target], reduction="none")
        return torch.cat([codes, last[:, None]], 1).mean()


def take(rows: Tensor, index: Tensor) -> Tensor:
    """rows[index]. The way back of this form is the fastest on a CPU, and on a GPU it neither
    sorts nor waits."""
    found = rows.index_select(0, index.flatten())
    return found.view(*index.shape, *rows.shape[1:])
