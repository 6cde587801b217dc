"""T5-style encoder-decoder over semantic-ID tokens.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", JMLR 2020: pre-norm with RMSNorm, no biases, unscaled attention, relative position
buckets shared by the layers of a stack. Shapes: B rows, T tokens, d width, H heads, h head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diger import functional
from diger.checks import above, at_least, below, whole
from diger.dropout import dropout
from diger.gpu import kernels_for
from diger.keep import draw_keep, keys_ahead
from diger.passes import compiled_for
from diger.positions import BUCKETS, Bias, ScoreGradient, ScoreGradients, buckets_on, chosen_on
from diger.residual import UNLINKED, Link, Links

LONGEST_CHOICE = 256  # tokens, whose square of one-hot rows takes 8 MB


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

    @property
    def matrices(self) -> list[list[Tensor]]:
        """The weights of its products; those in one list have the same factor."""
        own, ff = self.self_attention, self.ff
        found = [[own.q.weight, own.k.weight, own.v.weight], [own.o.weight]]
        if self.decoder:
            found += [[getattr(self.cross_attention, name).weight] for name in "qkvo"]
        return [*found, [ff.wi.weight], [ff.wo.weight]]

    @property
    def parts(self) -> list[Tensor]:
        """All of its weights, norms among them, in the order in which x meets them."""
        own, ff = self.self_attention, self.ff
        found = [self.norm_self.weight, own.q.weight, own.k.weight, own.v.weight, own.o.weight]
        if self.decoder:
            cross = self.cross_attention
            found += [self.norm_cross.weight, cross.q.weight, cross.k.weight, cross.v.weight]
            found += [cross.o.weight]
        return [*found, self.norm_ff.weight, ff.wi.weight, ff.wo.weight]

    def forward(
        self,
        x: Tensor,
        bias: Bias,
        memory: Tensor | None = None,
        memory_bias: Tensor | None = None,
        weights: Sequence[Tensor] = (),
        keys: Iterator[Tensor] | None = None,
        links: Links | None = None,
    ) -> Tensor:
        """[B, T, d], with all of its dropout.

        Args:
            weights: ``matrices``, each list one below the other, in the type of the products.
            keys: of its dropout, where they are drawn; ``masks`` of them.
            links: with the blocks around it, where blocks are linked.
        """
        together, o, *cross, wide, narrow = weights
        heads, (b, t, _) = self.self_attention.heads, x.shape
        scale = 1 / (1 - self.dropout) if self.drops else 1.0

        def keep(like: Tensor, *shape: int) -> Tensor | None:
            if not self.drops:
                return None
            return draw_keep(like, shape, self.dropout) if keys is None else next(keys)

        own = iter(self._links(wide.dtype, links))
        x = functional.self_attention(
            x, self.norm_self.weight, together, o, bias.total, bias.position,
            keep(x, b, heads, t, t), keep(x, *x.shape), scale, heads, next(own), bias.part,
            bias.mask,
        )  # fmt: skip
        if self.decoder:
            assert memory is not None and memory_bias is not None
            of_weights = keep(x, b, heads, t, memory.shape[1])
            x = functional.cross_attention(
                x, memory, self.norm_cross.weight, *cross, memory_bias,
                of_weights, keep(x, *x.shape), scale, heads, next(own),
            )  # fmt: skip
        return functional.feed_forward(
            x, self.norm_ff.weight, wide, narrow,
            keep(narrow, b * t, len(wide)), keep(x, *x.shape), scale, next(own),
        )  # fmt: skip

    def _links(self, dtype: torch.dtype, around: Links | None) -> list[Links]:
        """Of each of its parts."""
        norms = [self.norm_cross, self.norm_ff] if self.decoder else [self.norm_ff]
        if around is None:
            return [UNLINKED] * (len(norms) + 1)
        inner = [Link(norm.weight, dtype) for norm in norms]
        both = zip([around.before, *inner], [*inner, around.after], strict=True)
        return [Links(before, after) for before, after in both]

    @property
    def masks(self) -> int:
        """How many times it drops something."""
        return 6 if self.decoder else 4

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
        table = self.position.weight
        if queries == keys <= LONGEST_CHOICE and kernels_for(table) is not None:
            # A product's way back is one more; that of a look-up sorts what it looked up. Row by
            # row, or it would be one long sum that few threads can share.
            chosen = chosen_on(table.device, keys, not self.decoder)
            return torch.bmm(chosen, table.expand(keys, -1, -1)).permute(2, 0, 1)[None]
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
        # Without a way back, a layer's arrays need not outlive it.
        compiled = compiled_for(x, dtype) if torch.is_grad_enabled() else None
        if compiled is not None and compiled.takes(x, mask_bias, memory_bias):
            out: Tensor = compiled.run(self, x, mask_bias, memory, memory_bias)
            return out
        x = dropout(x, self.dropout, self.training)
        weights = self.weights(x, dtype)
        bias = self._bias(x, mask_bias, weights[0][0])
        keys = keys_ahead(x, sum(block.masks for block in self._blocks)) if self.drops else None
        links, parts = self._links(x, dtype), self._parts(x)
        for block, own, around, part in zip(self._blocks, weights, links, parts, strict=True):
            of_layer = bias._replace(part=part)
            x = block(x, of_layer, memory, memory_bias, own, keys, around)
        return dropout(self.norm(x), self.dropout, self.training)

    def _bias(self, x: Tensor, mask_bias: Tensor, qkv: Tensor) -> Bias:
        """For scores of the first layer's, and all layers', products ``qkv``."""
        position = self.position_bias(x.shape[1], x.shape[1])
        by_key = mask_bias.ndim == 4 and mask_bias.shape[1:3] == (1, 1)
        if by_key and functional.attends(x, qkv, self._blocks[0].self_attention.heads):
            return Bias(position, position.detach().contiguous(), mask=mask_bias)
        return Bias(position, position.detach() + mask_bias)

    @property
    def drops(self) -> bool:
        return self.training and self.dropout > 0

    @property
    def _blocks(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]

    def _links(self, like: Tensor, dtype: torch.dtype) -> Sequence[Links | None]:
        """Of each block, where there are kernels that make use of them."""
        blocks = self._blocks
        if kernels_for(like) is None:
            return [None] * len(blocks)
        between = [Link(block.norm_self.weight, dtype) for block in blocks[1:]]
        both = zip([None, *between], [*between, None], strict=True)
        return [Links(before, after) for before, after in both]

    def _parts(self, like: Tensor) -> Sequence[ScoreGradient | None]:
        """Of each block in the gradient of the position bias."""
        if kernels_for(like) is None:
            return [None] * len(self.blocks)
        gradients = ScoreGradients(len(self.blocks))
        return [ScoreGradient(gradients, layer) for layer in range(len(self.blocks))]

    def weights(self, like: Tensor, dtype: torch.dtype) -> list[Sequence[Tensor]]:
        """The weights of the blocks' products, see ``Block.forward``: of all blocks at once where
        it is launches that cost."""
        groups = [block.matrices for block in self._blocks]
        if kernels_for(like) is None:
            return [
                [(torch.cat(some) if len(some) > 1 else some[0]).to(dtype) for some in own]
                for own in groups
            ]
        flat = iter(functional.gathered(dtype, [some for own in groups for some in own]))
        return [[next(flat) for _ in own] for own in groups]


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
            tokens_BxLxd, ahead.to(dtype) * torch.finfo(dtype).min, memory.to(products),
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
