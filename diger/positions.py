"""Relative positions in self-attention: T5's buckets, and the bias that a stack's layers share.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", JMLR 2020. Shapes: B rows, T tokens, H heads.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BUCKETS, MAX_DISTANCE = 32, 128
ROOM = 1 << 27  # bytes that the gradients at all layers' scores may take together


@functools.cache
def buckets_on(device: torch.device, length: int, bidirectional: bool) -> Tensor:
    """``relative_buckets`` of a square, made once: a recorded step may copy nothing to the GPU."""
    return relative_buckets(length, length, bidirectional).to(device)


@functools.cache
def chosen_on(device: torch.device, length: int, bidirectional: bool) -> Tensor:
    """float32 [length, length, BUCKETS], one-hot: the buckets of a square."""
    buckets = relative_buckets(length, length, bidirectional)
    return F.one_hot(buckets, BUCKETS).to(device, torch.float32)


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


class Bias(NamedTuple):
    """What is added to the scores of self-attention.

    position: [1, H, T, T], learned. total: that and the mask of padding, [B or 1, H, T, T], a
    constant: the gradient goes to ``position`` apart, or it would be kept once a row. part: of this
    layer in that gradient, where all layers' are summed at once. mask: that of padding,
    [B, 1, 1, T], where a kernel adds it itself: ``total`` is then without it, and once for all rows
    in place of once for each, which is more than all else that attention reads.
    """

    position: Tensor
    total: Tensor
    part: ScoreGradient | None = None
    mask: Tensor | None = None


class ScoreGradients:
    """The gradients at the scores of all layers of a stack, one behind the other, whose sum is that
    of the position bias: one launch, where a sum a layer and their additions are two a layer.

    A way back goes through the last layer first and through layer 0 last, which returns the sum.
    """

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self._held: Tensor | None = None
        self._placed = 0

    def place(self, layer: int, like: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Where this layer's go, [B, H, T, T]; None where those of all would take too much room."""
        if layer == self.layers - 1:
            held = self.layers * math.prod(shape) * like.element_size() <= ROOM
            self._held = like.new_empty(self.layers, *shape) if held else None
            self._placed = 0
        self._placed += 1
        return None if self._held is None else self._held[layer]

    def total(self, layer: int, dtype: torch.dtype) -> Tensor | None:
        """[1, H, T, T], when all layers have been there."""
        if layer or self._held is None:
            return None
        assert self._placed == self.layers  # or it would be of memory that nobody has written
        held, self._held = self._held, None
        return held.flatten(0, 1).sum(0, keepdim=True, dtype=dtype)


class ScoreGradient(NamedTuple):
    """Of one layer, counted from 0."""

    all: ScoreGradients
    layer: int

    def place(self, like: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        return self.all.place(self.layer, like, shape)

    def total(self, dtype: torch.dtype) -> Tensor | None:
        return self.all.total(self.layer, dtype)
