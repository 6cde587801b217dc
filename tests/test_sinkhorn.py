"""Balanced assignment against a hand case, its own definition and an independent implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import ot
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.prepare import prepare
from diger.quantizer import Sinkhorn, residual_kmeans, squared_distances
from tests.conftest import dataset_config

LEVELS = 3


@pytest.fixture(scope="module", params=["ml-100k", "beauty"])
def distances(request: pytest.FixtureRequest, data_cache: Path) -> list[Tensor]:
    """[N, K] of each level: real embeddings and the residuals that Sinkhorn's own codes leave."""
    if request.param == "ml-100k":
        content, k = request.getfixturevalue("ml100k_with_text").data.embeddings, 64
    else:
        request.getfixturevalue("mirror")
        made = prepare(dataset_config("beauty/keyphrases"), 50, None, data_cache)
        content, k = made.data.embeddings, 256
    latent = torch.as_tensor(content)
    levels = []
    for codebook in residual_kmeans(latent[: 8 * k], LEVELS, k, 0):
        levels.append(squared_distances(latent, codebook))
        latent = latent - codebook[Sinkhorn()(levels[-1])]
    return levels


def cost(distances_NxK: Tensor, epsilon: float) -> NDArray[np.float64]:
    """The exponent of the released recipe: centred distances over epsilon, [N, K]."""
    d = distances_NxK.double().numpy()
    middle, half = (d.max() + d.min()) / 2, (d.max() - d.min()) / 2
    return np.asarray((d - middle) / half / epsilon)


def reference(distances_NxK: Tensor, epsilon: float, iterations: int) -> NDArray[np.float64]:
    """log of the transport plan by POT in float64, [N, K].

    POT scales its second marginal first, and ours are the rows: it gets the matrix transposed.
    """
    n, k = distances_NxK.shape
    exponent = cost(distances_NxK, epsilon).T
    _, log = ot.bregman.sinkhorn(
        np.full(k, 1 / k), np.full(n, 1 / n), exponent, reg=1.0, method="sinkhorn_log",
        numItermax=iterations, stopThr=0, warn=False, log=True,
    )  # fmt: skip
    return np.asarray(log["log_u"][:, None] + log["log_v"] - exponent).T


def test_hand_case() -> None:
    # Two rows, two codes, each row at its own code: exp(+1) there and exp(-1) elsewhere, by
    # symmetry scaled by one number so that everything sums to 1.
    plan = Sinkhorn(epsilon=1.0).transport(torch.tensor([[0.0, 3.0], [3.0, 0.0]])).exp()
    near, far = np.e / (2 * (np.e + 1 / np.e)), 1 / np.e / (2 * (np.e + 1 / np.e))
    np.testing.assert_allclose(plan.numpy(), [[near, far], [far, near]], rtol=1e-12)


def test_columns_carry_an_equal_share_of_the_items(distances: list[Tensor]) -> None:
    """Column sums are N/K within 1%. 50 iterations end with the columns and leave the rows uneven;
    even so, the codes that are read off are evener than the nearest ones."""
    for level in distances:
        n, k = level.shape
        plan = Sinkhorn().transport(level).exp().numpy()
        np.testing.assert_allclose(n * plan.sum(axis=0), np.full(k, n / k), rtol=0.01)
        even, nearest = (
            np.abs(np.bincount(codes.numpy(), minlength=k) - n / k).sum()
            for codes in (Sinkhorn()(level), level.argmin(1))
        )
        assert even < 0.7 * nearest


def test_converged_plans_load_the_codes_alike(distances: list[Tensor]) -> None:
    """Once the rows have converged, too, a code carries N/K items within 1%, each of weight 1."""
    for level in (whole[:3000] for whole in distances):
        n, k = level.shape
        plan = Sinkhorn(epsilon=0.05, iterations=300).transport(level).exp()
        items = plan / plan.sum(1, keepdim=True)
        np.testing.assert_allclose(items.sum(0).numpy(), np.full(k, n / k), rtol=0.01)


def test_same_plan_and_codes_as_pot(distances: list[Tensor]) -> None:
    """The released recipe: epsilon 0.003, 50 iterations, whether they converge or not."""
    for level in (whole[:3000] for whole in distances):
        want = reference(level, 0.003, 50)
        got = Sinkhorn().transport(level)
        np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-9)  # of logarithms
        assert np.array_equal(Sinkhorn()(level).numpy(), want.argmax(axis=1))


def test_same_fixed_point_as_pot(distances: list[Tensor]) -> None:
    """Where both converge they agree, whatever the order of the steps and the algorithm."""
    level = distances[0][:500]
    n, k = level.shape
    want = ot.bregman.sinkhorn(
        np.full(n, 1 / n), np.full(k, 1 / k), cost(level, 0.1), reg=1.0,
        method="sinkhorn_stabilized", numItermax=20_000, stopThr=1e-13, warn=True,
    )  # fmt: skip
    got = Sinkhorn(epsilon=0.1, iterations=2_000).transport(level).exp().numpy()
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-14)
    np.testing.assert_allclose(got.sum(axis=1), np.full(n, 1 / n), rtol=1e-9)
    assert np.array_equal(got.argmax(axis=1), np.asarray(want).argmax(axis=1))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # POT's own, of what it prints
def test_an_epsilon_too_small_for_the_kernel_goes_by_logarithms(distances: list[Tensor]) -> None:
    level = distances[0][:500]
    epsilon = 0.0005  # exp(-2 / epsilon) is 0 in float64
    assert np.exp(-2 / epsilon) == 0
    got = Sinkhorn(epsilon).transport(level).numpy()
    # Not the codes: so small an epsilon gives two codes the same item, to the last bits.
    np.testing.assert_allclose(got, reference(level, epsilon, 50), rtol=0, atol=1e-8)


def test_products_and_logarithms_give_the_same_codes(
    distances: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    distances = [level[:3000] for level in distances]
    fast = [Sinkhorn()(level) for level in distances]
    monkeypatch.setattr("diger.quantizer.SAFE_EXPONENT", 0.0)
    assert all(
        torch.equal(Sinkhorn()(level), codes) for level, codes in zip(distances, fast, strict=True)
    )
