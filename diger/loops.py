"""Passes over the numbers of a training step on a CPU, one loop each where torch takes several.

Most of a small model's step is memory: what one operation wrote has left the near caches when the
next one reads it. These loops read and write it once, and draw dropout on the way, so that masks
never lie in memory. Arrays are contiguous, float32 unless said otherwise.

Dropout: element i is kept where ``draw(i, key) >= cut``; cut / 2^32 is the probability that it is
not. The way back draws the same again.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from diger.keep import FIRST, LOW, SECOND, THIRD

Floats = NDArray[np.float32]

loop = numba.njit(cache=True)
# Sums may be taken in any order and products added without rounding between them: it takes that
# to make vectors of a sum. Nothing else is loosened, NaN stays NaN.
summing = numba.njit(cache=True, fastmath={"reassoc", "contract"})

u4 = np.uint32


@numba.njit(inline="always")
def draw(i: Any, low: Any, high: Any) -> Any:
    """uint32; see ``diger.keep.draws``."""
    x = u4(u4(i) ^ u4(low))
    x = u4(u4(x ^ u4(x >> u4(17))) * u4(FIRST))
    x = u4(u4(x ^ u4(x >> u4(11)) ^ u4(high)) * u4(SECOND))
    x = u4(u4(x ^ u4(x >> u4(15))) * u4(THIRD))
    return u4(x ^ u4(x >> u4(14)))


@loop
def drop(x: Floats, out: Floats, key: int, cut: int, factor: float) -> None:
    """out = x times factor where it is kept, else 0. Any shape, the same for both."""
    low, high, least, f = u4(key & LOW), u4(key >> 32), u4(cut), np.float32(factor)
    read, write = x.reshape(-1), out.reshape(-1)
    for i in range(read.size):
        write[i] = read[i] * f if draw(i, low, high) >= least else np.float32(0)


@loop
def drop_add(x: Floats, y: Floats, out: Floats, key: int, cut: int, factor: float) -> None:
    """out = x + y times factor where that is kept. Any shape, the same for all."""
    low, high, least, f = u4(key & LOW), u4(key >> 32), u4(cut), np.float32(factor)
    base, read, write = x.reshape(-1), y.reshape(-1), out.reshape(-1)
    for i in range(read.size):
        write[i] = base[i] + (read[i] * f if draw(i, low, high) >= least else np.float32(0))


@loop
def relu_drop(bits: NDArray[Any], sign: int, infinity: int, key: int, cut: int) -> None:
    """In place: 0 where the number is below 0 or dropped. Numbers of one sign are ordered as their
    bits are, which makes it one loop for every format.

    Args:
        bits: unsigned. sign, infinity: the bits of -0 and what those of -infinity add to it.
    """
    low, high, least = u4(key & LOW), u4(key >> 32), u4(cut)
    flat = bits.reshape(-1)
    for i in range(flat.size):
        negative = u4(u4(flat[i]) - u4(sign)) <= u4(infinity)
        if negative or draw(i, low, high) < least:
            flat[i] = 0


@summing
def norm(x_Nxd: Floats, out_Nxd: Floats, scale_N: Floats, epsilon: float) -> None:
    """Rows over their root mean square, and what they were multiplied with."""
    n, d = x_Nxd.shape
    for r in range(n):
        total = np.float32(0)
        for j in range(d):
            total += x_Nxd[r, j] * x_Nxd[r, j]
        scale = np.float32(1) / np.sqrt(total / np.float32(d) + np.float32(epsilon))
        scale_N[r] = scale
        for j in range(d):
            out_Nxd[r, j] = x_Nxd[r, j] * scale


@summing
def norm_back(
    inner_Nxd: Floats, normed_Nxd: Floats, scale_N: Floats, residual_Nxd: Floats, out_Nxd: Floats
) -> None:
    """residual + scale (inner - normed mean(inner normed)), row by row."""
    n, d = inner_Nxd.shape
    for r in range(n):
        along = np.float32(0)
        for j in range(d):
            along += inner_Nxd[r, j] * normed_Nxd[r, j]
        along /= np.float32(d)
        for j in range(d):
            inside = inner_Nxd[r, j] - normed_Nxd[r, j] * along
            out_Nxd[r, j] = residual_Nxd[r, j] + scale_N[r] * inside


@summing
def softmax_back(grad_RxT: Floats, weights_RxT: Floats, key: int, cut: int) -> None:
    """In place of the gradient at weights that dropout came after, that at the scores."""
    low, high, least = u4(key & LOW), u4(key >> 32), u4(cut)
    rows, t = grad_RxT.shape
    for r in range(rows):
        along = np.float32(0)
        for j in range(t):
            kept = draw(r * t + j, low, high) >= least
            grad = grad_RxT[r, j] * weights_RxT[r, j] if kept else np.float32(0)
            grad_RxT[r, j] = grad
            along += grad
        for j in range(t):
            grad_RxT[r, j] -= along * weights_RxT[r, j]
