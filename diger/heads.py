"""Where attention's heads lie in memory, and products with them.

Shapes: B rows, T tokens, N = B T, d width, H heads, h head width, I = H h.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def heads_first(weight: Tensor) -> bool:
    """On a CPU in float32, to copy numbers into another order costs more than it does to multiply
    head by head; in bfloat16, which multiplies faster, and on a GPU it is the other way round."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32


class Order(NamedTuple):
    """How heads lie in memory: [B, H, T, h], or [H, B, T, h] if they come first, where each head is
    a product of its own and nothing is copied between rows and heads."""

    b: int
    heads: int
    first: bool

    def apart(self, x: Tensor, weight: Tensor, parts: int) -> Tensor:
        """x W^T by heads, [parts, B H, T, h], for x [B T, d] and W [parts I, d]."""
        if self.first:
            by_head = weight.reshape(parts * self.heads, -1, x.shape[-1])
            out = torch.bmm(x.expand(len(by_head), -1, -1), by_head.transpose(1, 2))
            return out.view(parts, self.heads * self.b, len(x) // self.b, -1)
        out = (x @ weight.T).view(self.b, -1, parts, self.heads, len(weight) // parts // self.heads)
        return out.permute(2, 0, 3, 1, 4).reshape(parts, self.b * self.heads, out.shape[1], -1)

    def together(self, y: Tensor) -> Tensor:
        """[parts, B H, T, h] -> [B T, parts I], or [parts H, B T, h] if heads come first; see
        ``times`` and ``gram``."""
        parts, _, t, h = y.shape
        if self.first:
            return y.view(parts * self.heads, self.b * t, h)
        return (
            y.view(parts, self.b, self.heads, t, h).permute(1, 3, 0, 2, 4).reshape(self.b * t, -1)
        )

    def unflatten(self, scores: Tensor) -> Tensor:
        """[B H, T, T] -> [B, H, T, T] or [H, B, T, T]"""
        both = (self.heads, self.b) if self.first else (self.b, self.heads)
        return scores.unflatten(0, both)

    def swapped(self, x: Tensor) -> Tensor:
        """[B or 1, H, T, T] in this order, or back again: rows and heads change places if heads
        come first."""
        return x.transpose(0, 1) if self.first else x

    def of_keep(self, keep: Tensor | None) -> Tensor | None:
        """The same of a mask. A key is a key in any order."""
        return keep if keep is None or keep.ndim == 1 else self.swapped(keep)


def times(y: Tensor, weight: Tensor) -> Tensor:
    """y W [N, d], for W [O, d] and y [N, O], or by heads [O / h, N, h]."""
    if y.ndim == 2:
        return y @ weight
    by_head = weight.reshape(len(y), -1, weight.shape[-1])
    out = y[0] @ by_head[0]
    for one, of_one in zip(y[1:], by_head[1:], strict=True):
        out.addmm_(one, of_one)
    return out


def gram(y: Tensor, x: Tensor) -> Tensor:
    """y^T x [O, d], for x [N, d] and y as in ``times``."""
    if y.ndim == 2:
        return y.T @ x
    return torch.bmm(y.transpose(1, 2), x.expand(len(y), -1, -1)).flatten(0, 1)
