"""Where attention's heads lie in memory.

Shapes: B rows, T tokens, N = B T, H heads, h head width, I = H h.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Order(NamedTuple):
    """Heads beside each other in a token's numbers, or apart, each a matrix of its own."""

    b: int
    heads: int

    def apart(self, x: Tensor, parts: int) -> Tensor:
        """[B T, parts I] -> [parts, B H, T, h]"""
        apart = x.view(self.b, len(x) // self.b, parts, self.heads, -1)
        return apart.permute(2, 0, 3, 1, 4).reshape(parts, self.b * self.heads, apart.shape[1], -1)

    def together(self, y: Tensor) -> Tensor:
        """[parts, B H, T, h] -> [B T, parts I]"""
        parts, _, t, h = y.shape
        apart = y.view(parts, self.b, self.heads, t, h)
        return apart.permute(1, 3, 0, 2, 4).reshape(self.b * t, -1)
