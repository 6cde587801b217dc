"""What dropout keeps.

It is given by ``keep``: a mask of 0 and 1, or a key, int64 [1], of which the mask is a function
(``draws``). The loops of ``diger.loops`` and the kernels of ``diger.kernels`` draw it as they go;
where there is none, on a CPU the mask is made and multiplied with, to the same result, and a GPU
without Triton has masks. ``scale`` is 1 / (1 - p), p the probability of dropping an element.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diger.gpu import kernels_for

# What is compiled of diger.loops and diger.blocks has these in it and is kept until those change:
# change all.
LOW = 0xFFFFFFFF
FIRST, SECOND, THIRD = 0xED5AD4BB, 0xAC4C1B51, 0x31848BAB


def draw_keep(like: Tensor, shape: tuple[int, ...], p: float) -> Tensor:
    """What keeps each element of this shape with probability 1 - p, from the global random state:
    a key, or a mask in the type and on the device of ``like``."""
    if by_key(like):
        return draw_keys(like, 1)
    return like.new_empty(shape).bernoulli_(1 - p)


def draw_keys(like: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """int64 [n], on the device of ``like``; without a generator from the global random state."""
    return torch.empty(n, dtype=torch.int64, device=like.device).random_(generator=generator)


def keys_ahead(like: Tensor, n: int) -> Iterator[Tensor] | None:
    """n keys, drawn at once where it is launches that cost; None where each is drawn by itself."""
    if kernels_for(like) is None:
        return None
    return iter(draw_keys(like, n).split(1))


def by_key(like: Tensor) -> bool:
    """On a CPU, or a GPU with Triton; but not in a step that torch compiles: it could not look into
    a key."""
    if kernels_for(like) is not None:
        return True
    return like.device.type == "cpu" and not torch.compiler.is_compiling()


def mask(like: Tensor, keep: Tensor, scale: float) -> Tensor:
    """The mask, in the shape and type of ``like``."""
    if keep.dtype != torch.int64:
        return keep.reshape(like.shape)
    found = draws(like.numel(), int(keep)) >= cut(scale)
    return torch.from_numpy(found).view(like.shape).to(like.dtype)


def draws(n: int, key: int) -> NDArray[np.uint32]:
    """uint32 [n], every value as likely: hashes of 0 to n - 1 with the two halves of the key.

    The hash is Wellons' triple32 (hash-prospector, in the public domain), which takes one half of
    the key in before its first round and the other before its second.
    """
    x = np.arange(n, dtype=np.uint32) ^ np.uint32(key & LOW)
    x ^= x >> 17
    x *= np.uint32(FIRST)
    x ^= (x >> 11) ^ np.uint32(key >> 32)
    x *= np.uint32(SECOND)
    x ^= x >> 15
    x *= np.uint32(THIRD)
    x ^= x >> 14
    return x


def cut(scale: float) -> int:
    """The draw from which on an element is kept: p 2^32."""
    return round((1 - 1 / scale) * 2**32)
