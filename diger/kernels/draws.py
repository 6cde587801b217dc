"""Dropout in a kernel, and the tiles that kernels work on.

Element i is kept where ``draw(i, key) >= CUT``; CUT / 2^32 is the probability that it is not, and a
CUT of 0 keeps all and reads no key. See ``diger.keep``.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from diger import keep as rule

FIRST, SECOND, THIRD = (tl.constexpr(c) for c in (rule.FIRST, rule.SECOND, rule.THIRD))
TILE = 2048  # numbers that a block of threads works on


@triton.jit
def draw(i, key):
    """uint32; see ``diger.keep.draws``."""
    x = i.to(tl.uint32) ^ key.to(tl.uint32)
    x = x ^ (x >> 17)
    x = x * tl.full((), FIRST, tl.uint32)
    x = x ^ (x >> 11) ^ (key >> 32).to(tl.uint32)
    x = x * tl.full((), SECOND, tl.uint32)
    x = x ^ (x >> 15)
    x = x * tl.full((), THIRD, tl.uint32)
    return x ^ (x >> 14)


@triton.jit
def where_kept(x, i, key, CUT: tl.constexpr):
    if CUT > 0:
        x = tl.where(draw(i, tl.load(key)) >= tl.full((), CUT, tl.uint32), x, 0.0)
    return x


def key_of(keep: Tensor | None, scale: float, like: Tensor) -> tuple[Tensor, int]:
    """The key and the cut; where all is kept, any tensor and 0."""
    return (like, 0) if keep is None else (keep, rule.cut(scale))


def tile_of(width: int) -> tuple[int, int]:
    """Rows of a tile, and its columns: a power of 2 that has room for ``width``."""
    columns = max(16, triton.next_power_of_2(width))
    return max(1, TILE // columns), columns
