"""Weights and rows as the products of compiled blocks take them, in float32.

Shapes: N rows, R rows of any matrix and C columns, O outputs, d width, I = heads times their width.
"""

from __future__ import annotations

import numba
import numpy as np

from diger.loops import Floats

f4 = np.float32
# As loops.summing, but not kept: what is kept of diger.blocks has these in it.
inner = numba.njit(error_model="numpy", fastmath={"reassoc", "contract"})


@inner
def flat(x_RxC: Floats) -> Floats:
    """[R C]"""
    return x_RxC.reshape(-1)


@inner
def turn_into(x_RxC: Floats, out_CxR: Floats) -> None:
    """Rows become columns."""
    rows, columns = x_RxC.shape
    for j in range(columns):
        for i in range(rows):
            out_CxR[j, i] = x_RxC[i, j]


@inner
def turned(x_RxC: Floats) -> Floats:
    """[C, R]; see ``turn_into``."""
    out = np.empty((x_RxC.shape[1], x_RxC.shape[0]), f4)
    turn_into(x_RxC, out)
    return out


@inner
def fold_into(weight_Oxd: Floats, norm_d: Floats, out_Oxd: Floats) -> None:
    """The norm's weight folded into the product behind it."""
    rows, d = weight_Oxd.shape
    for i in range(rows):
        for j in range(d):
            out_Oxd[i, j] = weight_Oxd[i, j] * norm_d[j]


@inner
def folded(weight_Oxd: Floats, norm_d: Floats) -> Floats:
    """[O, d]; see ``fold_into``."""
    out = np.empty_like(weight_Oxd)
    fold_into(weight_Oxd, norm_d, out)
    return out


@inner
def folded_three(q_Ixd: Floats, k_Ixd: Floats, v_Ixd: Floats, norm_d: Floats) -> Floats:
    """[3 I, d]: all three, one below the other."""
    width, d = q_Ixd.shape
    out = np.empty((3 * width, d), f4)
    fold_into(q_Ixd, norm_d, out[:width])
    fold_into(k_Ixd, norm_d, out[width : 2 * width])
    fold_into(v_Ixd, norm_d, out[2 * width :])
    return out


@inner
def unfold(by_met_Oxd: Floats, norm_d: Floats, weight_Oxd: Floats, d_norm_d: Floats) -> None:
    """In place of the gradient at the weight with the norm's folded in, that at the weight; that at
    the norm's is added to."""
    rows, d = by_met_Oxd.shape
    for i in range(rows):
        for j in range(d):
            d_norm_d[j] += by_met_Oxd[i, j] * weight_Oxd[i, j]
            by_met_Oxd[i, j] *= norm_d[j]


@inner
def norm_again(x_Nxd: Floats, scale_N: Floats, out_Nxd: Floats) -> None:
    """Rows over their root mean square, which is known."""
    n, d = x_Nxd.shape
    for r in range(n):
        for j in range(d):
            out_Nxd[r, j] = x_Nxd[r, j] * scale_N[r]
