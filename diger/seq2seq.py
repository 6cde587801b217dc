"""T5-style encoder-decoder over semantic-ID tokens.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", JMLR 2020: pre-norm with RMSNorm, no biases, unscaled attention, relative position
buckets shared by the layers of a stack. Shapes: B rows, T tokens, d width, H heads, h head width.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diger import functional
from diger.checks import above, at_least, below, whole
from diger.dropout import dropout
from diger.keep import draw_keep

BUCKETS, MAX_DISTANCE = 32, 128


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the recommender; ``layers`` counts each of encoder and decoder.

    ``init_std`` is the standard deviation of all matrices and tables before training. 0.02 is the
    released one: DIGER's model.py draws every linear layer and embedding anew from it, those of
    transformers' T5, which starts from larger ones, among them.
    """

    layers: int = 6
    d_model: int = 128
    d_ff: int = 512
    heads: int = 4
    d_head: int = 64
    dropout: float = 0.1
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for name in ("layers", "d_model", "d_ff", "heads", "d_head"):
            whole(f"model.{name}", getattr(self, name), 1)
        at_least("model.dropout", self.dropout, 0)
        below("model.dropout", self.dropout, 1)
        above("model.init_std", self.init_std, 0)


class RMSNorm(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight)


@functools.cache
def buckets_on(device: torch.device, length: int, bidirectional: bool) -> Tensor:
    """``relative_buckets`` of a square, made once: a recorded step may copy nothing to the GPU."""
    return relative_buckets(length, length, bidirectional).to(device)


def relative_buckets(queries: int, keys: int, bidirectional: bool) -> Tensor:
    """int64 [queries, keys]: T5's bucket of (key position - query position).

    Half of the buckets hold exact small distances, the rest grow logarithmically up to
    MAX_DISTANCE; bidirectional stacks spend half of all buckets on each direction.
    """
    offset = torch.arange(keys)[None, :] - torch.arange(queries)[:, None]
    buckets, base = BUCKETS, torch.zeros_like(offset)
    if bidirectional:
        buckets //= 2
        base = (offset > 0).long() * buckets
        distance = offset.abs()
    else:
        distance = (-offset).clamp_min(0)
    exact = buckets // 2
    ratio = (distance.clamp_min(1).float() / exact).log() / math.log(MAX_DISTANCE / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp_max(buckets - 1)
    return base + torch.where(distance < exact, distance, far)


class Attention(nn.Module):
    """Multi-head attention without scaling or biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner = config.heads * config.d_head
        self.heads, self.d_head = config.heads, config.d_head
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)

    def split(self, x_BxTxI: Tensor) -> Tensor:
        """[B, T, H h] -> [B, H, T, h]"""
        return x_BxTxI.unflatten(-1, (self.heads, self.d_head)).transpose(1, 2)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """[B, H, T, h] each."""
        return self.split(self.k(memory)), self.split(self.v(memory))

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """[B, H, Q, h] queries over [B, H, T, h] keys; bias broadcasts to [B, H, Q, T]."""
        weights = F.softmax(query @ keys.transpose(-1, -2) + bias, dim=-1)
        return self.o((weights @ values).transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(F.relu(self.wi(x)))


class Bias(NamedTuple):
    """What is added to the scores of self-attention.

    position: [1, H, T, T], learned. total: that and the mask of padding, [B or 1, H, T, T], a
    constant: the gradient goes to ``position`` apart, or it would be kept once a row.
    """

    position: Tensor
    total: Tensor


class Block(nn.Module):
    """Self-attention, in decoders cross-attention, feed-forward; each pre-norm and residual."""

    def __init__(self, config: ModelConfig, decoder: bool) -> None:
        super().__init__()
        self.norm_self, self.self_attention = RMSNorm(config.d_model), Attention(config)
        self.decoder = decoder
        if decoder:
            self.norm_cross, self.cross_attention = RMSNorm(config.d_model), Attention(config)
        self.norm_ff, self.ff = RMSNorm(config.d_model), FeedForward(config)
        self.dropout = config.dropout

    def forward(
        self,
        x: Tensor,
        bias: Bias,
        memory: Tensor | None = None,
        memory_bias: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """[B, T, d], with all of its dropout; products in ``dtype``."""
        attention, heads = self.self_attention, self.self_attention.heads
        b, t, _ = x.shape
        scale = 1 / (1 - self.dropout) if self.drops else 1.0
        together = torch.cat([attention.q.weight, attention.k.weight, attention.v.weight])
        x = functional.self_attention(
            x, self.norm_self.weight, together.to(dtype), attention.o.weight.to(dtype),
            bias.total, bias.position, self.keep(x, b, heads, t, t), self.keep(x, *x.shape),
            scale, heads,
        )  # fmt: skip
        if self.decoder:
            assert memory is not None and memory_bias is not None
            cross = self.cross_attention
            weights = [getattr(cross, name).weight.to(dtype) for name in "qkvo"]
            keep = self.keep(x, b, heads, t, memory.shape[1])
            x = functional.cross_attention(
                x, memory, self.norm_cross.weight, *weights, memory_bias,
                keep, self.keep(x, *x.shape), scale, heads,
            )  # fmt: skip
        wide, narrow = self.ff.wi.weight.to(dtype), self.ff.wo.weight.to(dtype)
        return functional.feed_forward(
            x, self.norm_ff.weight, wide, narrow,
            self.keep(narrow, b * t, len(wide)), self.keep(x, *x.shape), scale,
        )  # fmt: skip

    def keep(self, like: Tensor, *shape: int) -> Tensor | None:
        """What dropout keeps of this shape; None where there is none."""
        return draw_keep(like, shape, self.dropout) if self.drops else None

    @property
    def drops(self) -> bool:
        return self.training and self.dropout > 0

    def step(self, x_BWxd: Tensor, bias: Tensor, cache: LayerCache, memory_bias: Tensor) -> Tensor:
        """One token of W beams a row: [B, W, d] -> [B, W, d]; appends to the cache."""
        b, w, _ = x_BWxd.shape
        attention = self.self_attention
        normed = self.norm_self(x_BWxd).reshape(b * w, 1, -1)
        keys, values = attention.keys_values(normed)
        cache.append(keys, values)
        query = attention.split(attention.q(normed))
        x = x_BWxd + attention.attend(query, cache.keys, cache.values, bias).view(b, w, -1)
        # Beams are queries over the one set of keys of their row: nothing is repeated per beam.
        cross = self.cross_attention
        query = cross.split(cross.q(self.norm_cross(x)))
        x = x + cross.attend(query, cache.memory_keys, cache.memory_values, memory_bias)
        return x + self.ff(self.norm_ff(x))


class LayerCache:
    """Keys and values of one decoder layer: self [B W, H, t, h], memory [B, H, T, h]."""

    def __init__(self, memory_keys: Tensor, memory_values: Tensor) -> None:
        self.memory_keys, self.memory_values = memory_keys, memory_values
        self.keys = self.values = memory_keys.new_empty(0)

    def append(self, keys: Tensor, values: Tensor) -> None:
        if self.keys.numel() == 0:
            self.keys, self.values = keys, values
        else:
            self.keys = torch.cat([self.keys, keys], 2)
            self.values = torch.cat([self.values, values], 2)

    def select(self, rows: Tensor) -> None:
        """Keep the beams named by ``rows`` (int64 [B W'] into [B W])."""
        self.keys, self.values = self.keys[rows], self.values[rows]


class Stack(nn.Module):
    """Encoder or decoder: blocks that share one relative position bias, then a final norm."""

    def __init__(self, config: ModelConfig, decoder: bool) -> None:
        super().__init__()
        self.position = nn.Embedding(BUCKETS, config.heads)
        self.blocks = nn.ModuleList(Block(config, decoder) for _ in range(config.layers))
        self.norm = RMSNorm(config.d_model)
        self.dropout = config.dropout
        self.decoder = decoder

    def position_bias(self, queries: int, keys: int) -> Tensor:
        """[1, H, queries, keys]; queries are the last ones of the keys' positions."""
        buckets = buckets_on(self.position.weight.device, keys, not self.decoder)[-queries:]
        return self.position(buckets).permute(2, 0, 1)[None]

    def forward(
        self,
        x: Tensor,
        mask_bias: Tensor,
        memory: Tensor | None = None,
        memory_bias: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """[B, T, d]; ``mask_bias`` broadcasts to [B, H, T, T]."""
        position = self.position_bias(x.shape[1], x.shape[1])
        bias = Bias(position, position.detach() + mask_bias)
        x = dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x, bias, memory, memory_bias, dtype)
        return dropout(self.norm(x), self.dropout, self.training)


class Seq2Seq(nn.Module):
    """The encoder-decoder, from embedded tokens to decoder states; it knows no codes.

    Attributes:
        dtype: of the products in training: float32, or bfloat16 beside a float32 residual stream,
            norms, softmax and weights. Decoding is float32 whatever it says.
    """

    dtype: torch.dtype = torch.float32

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Stack(config, decoder=False)
        self.decoder = Stack(config, decoder=True)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=config.init_std)

    @staticmethod
    def mask_bias(mask_BxT: Tensor, dtype: torch.dtype) -> Tensor:
        """[B, 1, 1, T]: 0 where there is a token, the lowest finite value where padding is."""
        return (~mask_BxT[:, None, None, :]).to(dtype) * torch.finfo(dtype).min

    def encode(self, tokens_BxTxd: Tensor, mask_BxT: Tensor) -> Tensor:
        """[B, T, d]; ``mask`` is True where there is a token."""
        bias = self.mask_bias(mask_BxT, tokens_BxTxd.dtype)
        return self.encoder(tokens_BxTxd, bias, dtype=self._products())

    def decode(self, tokens_BxLxd: Tensor, memory: Tensor, mask_BxT: Tensor) -> Tensor:
        """Teacher-forced decoder states [B, L, d]."""
        length, dtype = tokens_BxLxd.shape[1], tokens_BxLxd.dtype
        ahead = torch.ones(length, length, dtype=torch.bool, device=memory.device).triu(1)
        products = self._products()
        return self.decoder(
            tokens_BxLxd, ahead * torch.finfo(dtype).min, memory.to(products),
            self.mask_bias(mask_BxT, dtype), products,
        )  # fmt: skip

    def start_cache(self, memory: Tensor) -> list[LayerCache]:
        """Cross-attention keys and values, computed once for all steps and beams."""
        return [LayerCache(*block.cross_attention.keys_values(memory)) for block in self._blocks()]

    def step(
        self, token_BxWxd: Tensor, position: int, cache: list[LayerCache], mask_BxT: Tensor
    ) -> Tensor:
        """Decoder states [B, W, d] of the token at ``position`` (from 0) of every beam."""
        bias = self.decoder.position_bias(1, position + 1)
        memory_bias = self.mask_bias(mask_BxT, token_BxWxd.dtype)
        x = token_BxWxd
        for block, layer in zip(self._blocks(), cache, strict=True):
            x = block.step(x, bias, layer, memory_bias)
        return self.decoder.norm(x)

    def _products(self) -> torch.dtype:
        return self.dtype if self.training else torch.float32

    def _blocks(self) -> list[Block]:
        return list(self.decoder.blocks)  # type: ignore[arg-type]
