"""Passes over the numbers of a training step on a CPU, one loop each where torch takes several.

Most of a small model's step is memory: what one operation wrote has left the near caches when the
next one reads it. These loops read and write it once, and draw dropout on the way, so that masks
never lie in memory. Arrays are contiguous, float32 unless said otherwise.

Dropout: element i is kept where ``draw(i, key) >= cut``; cut / 2^32 is the probability that it is
not. The way back draws the same again. ``first``: i of the first element of what is a part.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from diger.keep import FIRST, LOW, SECOND, THIRD

Floats = NDArray[np.float32]

# A division by zero is infinite or no number, as in numpy: to look at each divisor would keep loops
# from being of vectors.
loop = numba.njit(cache=True, error_model="numpy")
# Sums may be taken in any order and products added without rounding between them: it takes that
# to make vectors of a sum. Nothing else is loosened, NaN stays NaN.
summing = numba.njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract"})

u4 = np.uint32

LOG2_E = np.float32(1.4426950408889634)
#: ln 2, its first ten bits and what is left of it: a whole number times the first is exact.
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440054690583e-4)
LOWEST = np.float32(-87.0)  # below it exp is smaller than any float32 that is normal, and 0 here


@numba.njit(inline="always")
def draw(i: Any, low: Any, high: Any) -> Any:
    """uint32; see ``diger.keep.draws``."""
    x = u4(u4(i) ^ u4(low))
    x = u4(u4(x ^ u4(x >> u4(17))) * u4(FIRST))
    x = u4(u4(x ^ u4(x >> u4(11)) ^ u4(high)) * u4(SECOND))
    x = u4(u4(x ^ u4(x >> u4(15))) * u4(THIRD))
    return u4(x ^ u4(x >> u4(14)))


@numba.njit(inline="always")
def power_of_e(given: Any) -> Any:
    """exp of a number up to 0, to two units in the last place.

    x = n ln 2 + r with a whole n and |r| <= ln 2 / 2; exp(r) is its Taylor series to r^7, and 2^n
    the exponent of a float32 (Cody and Waite, "Software Manual for the Elementary Functions",
    Prentice-Hall 1980).
    """
    y = LOWEST if given < LOWEST else given
    n = np.floor(y * LOG2_E + np.float32(0.5))
    r = (y - n * LN2_HIGH) - n * LN2_LOW
    p = np.float32(1 / 5040)
    p = p * r + np.float32(1 / 720)
    p = p * r + np.float32(1 / 120)
    p = p * r + np.float32(1 / 24)
    p = p * r + np.float32(1 / 6)
    p = p * r + np.float32(0.5)
    p = p * r + np.float32(1)
    p = p * r + np.float32(1)
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(0) if given < LOWEST else p * power


@loop
def drop(x: Floats, out: Floats, first: int, key: int, cut: int, factor: float) -> None:
    """out = x times factor where it is kept, else 0. Any shape, the same for both."""
    low, high, least, f = u4(key & LOW), u4(key >> 32), u4(cut), np.float32(factor)
    read, write, start = x.reshape(-1), out.reshape(-1), u4(first)
    for i in range(read.size):
        write[i] = read[i] * f if draw(start + u4(i), low, high) >= least else np.float32(0)


@loop
def drop_add(
    x: Floats, y: Floats, out: Floats, first: int, key: int, cut: int, factor: float
) -> None:
    """out = x + y times factor where that is kept. Any shape, the same for all."""
    low, high, least, f = u4(key & LOW), u4(key >> 32), u4(cut), np.float32(factor)
    base, read, write, start = x.reshape(-1), y.reshape(-1), out.reshape(-1), u4(first)
    for i in range(read.size):
        kept = draw(start + u4(i), low, high) >= least
        write[i] = base[i] + (read[i] * f if kept else np.float32(0))


@loop
def relu_drop(bits: NDArray[Any], sign: int, infinity: int, first: int, key: int, cut: int) -> None:
    """In place: 0 where the number is below 0 or dropped. Numbers of one sign are ordered as their
    bits are, which makes it one loop for every format.

    Args:
        bits: unsigned. sign, infinity: the bits of -0 and what those of -infinity add to it.
    """
    low, high, least = u4(key & LOW), u4(key >> 32), u4(cut)
    flat, start = bits.reshape(-1), u4(first)
    for i in range(flat.size):
        negative = u4(u4(flat[i]) - u4(sign)) <= u4(infinity)
        if negative or draw(start + u4(i), low, high) < least:
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
def norm_back(inner_Nxd: Floats, normed_Nxd: Floats, scale_N: Floats, residual_Nxd: Floats) -> None:
    """To the residual, scale (inner - normed mean(inner normed)) is added, row by row."""
    n, d = inner_Nxd.shape
    for r in range(n):
        along = np.float32(0)
        for j in range(d):
            along += inner_Nxd[r, j] * normed_Nxd[r, j]
        along /= np.float32(d)
        for j in range(d):
            residual_Nxd[r, j] += scale_N[r] * (inner_Nxd[r, j] - normed_Nxd[r, j] * along)


@summing
def norm_times(
    x_Nxd: Floats, weight_d: Floats, scale_N: Floats, out_Nxd: Floats, epsilon: float
) -> None:
    """``norm`` times the weight."""
    norm(x_Nxd, out_Nxd, scale_N, epsilon)
    n, d = x_Nxd.shape
    for r in range(n):
        for j in range(d):
            out_Nxd[r, j] *= weight_d[j]


@summing
def norm_times_back(
    grad_Nxd: Floats, weight_d: Floats, x_Nxd: Floats, scale_N: Floats, d_x_Nxd: Floats,
    d_weight_d: Floats,
) -> None:  # fmt: skip
    """Gradients at x and the weight, given that at the normed rows times the weight."""
    n, d = grad_Nxd.shape
    d_weight_d[:] = np.float32(0)
    for r in range(n):
        along, scale = np.float32(0), scale_N[r]
        for j in range(d):
            by_weight = grad_Nxd[r, j] * x_Nxd[r, j] * scale
            d_weight_d[j] += by_weight
            along += by_weight * weight_d[j]
        along = along / np.float32(d) * scale
        for j in range(d):
            d_x_Nxd[r, j] = scale * (grad_Nxd[r, j] * weight_d[j] - x_Nxd[r, j] * along)


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


@numba.njit(inline="always")
def _place(value: Any, j: Any) -> Any:
    """int64: the order of these is that of the values, and of equal ones the smaller j is larger.

    The bits of numbers of one sign are ordered as they are; those of negative ones the other way.
    """
    bits = np.float32(value + np.float32(0)).view(np.int32)  # -0 is 0
    ordered = bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))
    return (np.int64(ordered) << np.int64(32)) | (np.int64(LOW) - np.int64(j))


@loop
def _largest(x_K: Floats) -> int:
    best = _place(x_K[0], 0)
    for j in range(len(x_K)):
        best = max(best, _place(x_K[j], j))
    return LOW - (best & LOW)


@loop
def largest(x_NxK: Floats, out_N: NDArray[np.int64]) -> None:
    """Where the largest number of each row is, the first one."""
    for r in range(len(x_NxK)):
        out_N[r] = _largest(x_NxK[r])


@summing
def relax(
    logits_NxK: Floats, noise_MxK: Floats, scale_K: Floats, tau: float, soft_NxK: Floats,
    hard_NxK: Floats,
) -> None:  # fmt: skip
    """``diger.codes.Relaxed``, with noise that is given for the first M rows."""
    (n, k), by = logits_NxK.shape, np.float32(1 / tau)
    noisy = np.empty(k, np.float32)
    for r in range(n):
        for j in range(k):
            noisy[j] = logits_NxK[r, j]
        if r < len(noise_MxK):
            for j in range(k):
                noisy[j] += scale_K[j] * noise_MxK[r, j]
        found = _largest(noisy)
        top, total = noisy[found], np.float32(0)
        for j in range(k):
            power = power_of_e((noisy[j] - top) * by)
            soft_NxK[r, j] = power
            total += power
        total = np.float32(1) / total
        for j in range(k):
            soft_NxK[r, j] *= total
            hard_NxK[r, j] = np.float32(0)
        hard_NxK[r, found] = np.float32(1)


@summing
def relax_back(grad_NxK: Floats, soft_NxK: Floats, tau: float, out_NxK: Floats) -> None:
    """The gradient at the logits, given that at the codes."""
    (n, k), by = grad_NxK.shape, np.float32(1 / tau)
    for r in range(n):
        along = np.float32(0)
        for j in range(k):
            along += grad_NxK[r, j] * soft_NxK[r, j]
        for j in range(k):
            out_NxK[r, j] = (grad_NxK[r, j] - along) * soft_NxK[r, j] * by


@summing
def squares(e_NxD: Floats, r_NxD: Floats, weight_N: Floats, apart_NxD: Floats) -> Any:
    """float32: the weighted sum of each row's squared distance; and e - r."""
    n, d = e_NxD.shape
    total = np.float32(0)
    for r in range(n):
        row = np.float32(0)
        for j in range(d):
            apart = e_NxD[r, j] - r_NxD[r, j]
            apart_NxD[r, j] = apart
            row += apart * apart
        total += row * weight_N[r]
    return total


@loop
def squares_back(
    apart_NxD: Floats, weight_N: Floats, factor: float, beta: float, d_e_NxD: Floats,
    d_r_NxD: Floats,
) -> None:  # fmt: skip
    """d_e = factor weight apart, and -beta of it."""
    n, d = apart_NxD.shape
    for r in range(n):
        by, back = np.float32(factor) * weight_N[r], np.float32(-beta)
        for j in range(d):
            grad = apart_NxD[r, j] * by
            d_e_NxD[r, j] = grad
            d_r_NxD[r, j] = grad * back


@summing
def adamw(
    weight: Floats, grad: Floats, first: Floats, second: Floats, step: float, rate: float,
    beta1: float, beta2: float, decay: float, epsilon: float,
) -> None:  # fmt: skip
    """A step of AdamW, in place, ``step`` counted from 1; see ``diger.kernels.adamw_``. All [n]."""
    keep, by = np.float32(1 - rate * decay), np.float32(rate / (1 - beta1**step))
    root, small = np.float32(np.sqrt(1 - beta2**step)), np.float32(epsilon)
    new1, old2, new2 = np.float32(1 - beta1), np.float32(beta2), np.float32(1 - beta2)
    for i in range(weight.size):
        g = grad[i]
        m = first[i] + (g - first[i]) * new1
        v = second[i] * old2 + g * g * new2
        first[i], second[i] = m, v
        weight[i] = weight[i] * keep - by * m / (np.sqrt(v) / root + small)
