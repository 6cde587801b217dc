"""Dropout by key: how often, where, and the same by every way to it."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from diger import passes
from diger.dropout import dropout
from diger.keep import cut, draw_keep, draws, mask
from diger.passes import add_kept, kept, loops_for, relu_kept_

N = 200_000


def key_of(seed: int) -> Tensor:
    torch.manual_seed(seed)
    return draw_keep(torch.zeros(()), (N,), 0.1)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
def test_as_many_are_dropped_as_should_be(p: float) -> None:
    scale = 1 / (1 - p)
    assert cut(scale) == round(p * 2**32)
    for seed in range(10):
        dropped = N - int(mask(torch.ones(N), key_of(seed), scale).sum())
        # Five standard deviations of a binomial count.
        assert abs(dropped - p * N) < 5 * math.sqrt(p * (1 - p) * N)


def test_draws_of_neighbours_and_of_keys_know_nothing_of_each_other() -> None:
    """Correlation of what is dropped with what is dropped elsewhere: 0, within chance."""
    first, second = (draws(N, int(key_of(seed))) < cut(1 / 0.9) for seed in (0, 1))
    bound = 5 / math.sqrt(N)
    for shift in (1, 2, 3, 8, 32, 64, 128, 1024):
        assert abs(np.corrcoef(first[shift:], first[:-shift])[0, 1]) < bound
    assert abs(np.corrcoef(first, second)[0, 1]) < bound
    close = int(key_of(0)) ^ 1  # keys that differ in one bit
    assert abs(np.corrcoef(first, draws(N, close) < cut(1 / 0.9))[0, 1]) < bound
    far = int(key_of(0)) ^ (1 << 40)
    assert abs(np.corrcoef(first, draws(N, far) < cut(1 / 0.9))[0, 1]) < bound


def test_every_value_is_as_likely() -> None:
    counts = np.bincount(draws(1 << 20, int(key_of(3))) >> 24, minlength=256)
    expected = (1 << 20) / 256
    assert ((counts - expected) ** 2 / expected).sum() < 256 + 5 * math.sqrt(2 * 256)


def test_the_global_random_state_decides() -> None:
    x = torch.ones(1000)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(dropout(x, 0.3, True))
    assert found[0].equal(found[1])
    assert not found[0].equal(found[2])


def test_the_gradient_passes_where_the_value_did() -> None:
    x = torch.randn(50, 7, requires_grad=True)
    torch.manual_seed(0)
    out = dropout(x, 0.3, True)
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(out, x * grad)
    assert set(grad.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}


def test_none_without_training_or_probability() -> None:
    x = torch.randn(5)
    assert dropout(x, 0.3, False) is x
    assert dropout(x, 0.0, True) is x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loops_and_masks_keep_the_same(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    key, scale = key_of(0), 1 / 0.7
    # A slice of a wider batch is not contiguous.
    x, y = torch.randn(31, 2, 9)[:, 0], torch.randn(31, 9).to(dtype)
    hidden = torch.randn(31, 9).to(dtype)
    hidden[0, :3] = torch.tensor([0.0, -0.0, -math.inf])
    assert loops_for(x, key) is not None
    found = []
    for _ in range(2):
        found.append([
            kept(x, key, scale), kept(x, key, scale, 1.5), add_kept(x, y, key, scale, 1.5),
            relu_kept_(hidden.clone(), key, scale),
        ])  # fmt: skip
        monkeypatch.setattr(passes, "loops_for", lambda *_: None)
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)
        assert ours.eq(0).equal(plain.eq(0))


def test_without_numba_there_are_no_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    passes._loops.cache_clear()
    monkeypatch.setitem(sys.modules, "diger.loops", None)
    monkeypatch.delattr("diger.loops", raising=False)
    try:
        with pytest.warns(UserWarning, match="slower without numba"):
            assert loops_for(torch.zeros(3)) is None
        assert passes.passes_of(torch.zeros(3)) == "torch"
    finally:
        passes._loops.cache_clear()


def test_loops_are_for_what_they_can_read() -> None:
    assert loops_for(torch.zeros(3)) is not None
    assert passes.passes_of(torch.zeros(3)) == "blocks"
    assert loops_for(torch.zeros(3, dtype=torch.float64)) is None
    assert loops_for(torch.zeros(3, device="meta")) is None
    assert loops_for(torch.zeros(3), torch.ones(3)) is None  # a mask, not a key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_no_number_stays_none(dtype: torch.dtype, sign: int) -> None:
    """Or a run that has diverged would go on."""
    x = torch.full((N,), math.nan).copysign(torch.tensor(float(sign))).to(dtype)
    found = relu_kept_(x, key_of(0), 1 / 0.7)
    assert int(found.isnan().sum()) == int(mask(x, key_of(0), 1 / 0.7).bool().sum())
