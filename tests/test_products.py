"""Products of small matrices, by vectors of every width."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from diger.loops import power_of_e
from diger.products import multiply, multiply_add, multiply_add_while, multiply_while

ROOT = Path(__file__).parents[1]
#: Rows, summands, columns: around the sizes of tiles, and with nothing to sum.
SIZES = (
    *itertools.product((1, 3, 4, 5, 8, 9, 13), (0, 1, 7), (1, 4, 15, 16, 17, 33, 49, 64, 65)),
    (40, 32, 40), (120, 64, 192),
)  # fmt: skip


def check_all() -> None:
    """Every size, of factors that lie in larger arrays, turned or not; nothing else is written."""
    numbers = np.random.default_rng(0)
    ahead = numbers.random(1000, dtype=np.float32)
    for (m, k, n), turned in itertools.product(SIZES, (False, True)):
        wide = numbers.random((k, m + 2) if turned else (m, k + 2), dtype=np.float32) - 0.5
        a = wide[:, 1 : 1 + m].T if turned else wide[:, 1 : 1 + k]
        b = (numbers.random((k, n + 3), dtype=np.float32) - 0.5)[:, 2 : 2 + n]
        exact = a.astype(np.float64) @ b.astype(np.float64)
        for times in (multiply, multiply_while, multiply_add, multiply_add_while):
            more = (ahead,) if times in (multiply_while, multiply_add_while) else ()
            held = np.full((m + 2, n + 40), 7, np.float32)
            c = held[1 : 1 + m, 20 : 20 + n]
            times(a, b, c, *more)
            wanted = np.full_like(held, 7)
            added = 7 if times in (multiply_add, multiply_add_while) else 0
            wanted[1 : 1 + m, 20 : 20 + n] = exact + added
            np.testing.assert_allclose(held, wanted, rtol=0, atol=2e-6 * (1 + k / 8))


def test_products_are_those_of_numpy() -> None:
    check_all()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names features of x86-64")
@pytest.mark.parametrize(("features", "lanes"), [("+avx,+avx2,+fma", 8), ("+avx,+fma", 4), ("", 4)])
def test_other_processors_have_other_vectors(features: str, lanes: int, tmp_path: Path) -> None:
    """What is compiled for them runs here, too; without fused additions nothing is compiled."""
    program = f"""
from diger import passes, products
import torch
assert products.LANES == {lanes}, products.LANES
if products.available():
    from tests.test_products import check_all
    check_all()
    print("the same")
else:
    assert passes.compiled_for(torch.zeros(1), torch.float32) is None
    assert passes.passes_of(torch.zeros(1)) == "numba"
    print("none")
"""
    own = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": features}
    own |= {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program], cwd=ROOT, check=False,
        env=os.environ | own, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.strip() == ("the same" if features else "none"), done.stderr


@numba.njit(fastmath={"reassoc", "contract"})  # as loops.summing, but not kept: it would be stale
def powers(x: np.ndarray, out: np.ndarray) -> None:
    for i in range(x.size):
        out[i] = power_of_e(x[i])


def test_powers_of_e_are_exact_to_two_units() -> None:
    x = -np.concatenate([np.linspace(0, 87, 200_001), [0, 87.1, 1e4, np.inf]]).astype(np.float32)
    out = np.empty_like(x)
    powers(x, out)
    exact = np.exp(x.astype(np.float64))
    near = x >= -87
    unit = np.spacing(exact[near].astype(np.float32)).astype(np.float64)
    assert (np.abs(out[near] - exact[near]) <= 2 * unit).all()
    assert (out[~near] == 0).all()
    powers(x[:1] * np.float32(np.nan), out[:1])
    assert np.isnan(out[0])
