"""Estimators: what each one samples, decays and learns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from diger.cached import FrequencyDecayCached, StandardDeviationDecayCached
from diger.checks import SettingError
from diger.estimators import (
    GUMBEL_STD,
    CombinedDecay,
    FrequencyDecay,
    Gumbel,
    SoftCodes,
    StandardDeviationDecay,
    sample_gumbel,
)
from diger.schedules import CosineNoiseDecay, ExponentialTemperatureDecay
from tests.estimators import (
    CACHED,
    DETACHED,
    ESTIMATORS,
    LEVELS,
    SAMPLED,
    TRAINING,
    K,
    soft_codes,
    world,
)

STALE = [*CACHED, *DETACHED]


@pytest.mark.parametrize("name", TRAINING)
def test_forward_is_exactly_one_hot(name: str) -> None:
    y = soft_codes(ESTIMATORS[name](LEVELS, K), world()).y
    assert torch.equal(y.sum(-1), torch.ones_like(y[..., 0]))
    assert torch.equal(y.max(-1).values, torch.ones_like(y[..., 0]))


@pytest.mark.parametrize("name", STALE)
def test_forward_reads_the_codes_of_the_last_refresh(name: str) -> None:
    made = world()
    for noise in (None, 0, 1):
        soft = soft_codes(ESTIMATORS[name](LEVELS, K), made, noise)
        assert torch.equal(soft.codes, made.batch.sids[:, :-1])
    assert not torch.equal(soft.codes, soft.nearest)


@pytest.mark.parametrize("name", STALE)
def test_no_refreshed_codes_no_guess(name: str) -> None:
    made, estimator = world(), ESTIMATORS[name](LEVELS, K)
    latent = made.tokenizer.encoder(made.content[:12])
    with pytest.raises(ValueError, match="needs the codes of the last refresh"):
        estimator.tokenize(latent, made.tokenizer.codebooks, 0.25, None)


@pytest.mark.parametrize("name", SAMPLED)
def test_without_noise_the_nearest_code_twice_the_same(name: str) -> None:
    made, estimator = world(), ESTIMATORS[name](LEVELS, K)
    first, second = (soft_codes(estimator, made, noise=None) for _ in range(2))
    assert torch.equal(first.y, second.y)
    assert torch.equal(first.codes, first.nearest)
    assigned = torch.as_tensor(made.tokenizer.assign(made.content[:12]), dtype=torch.int64)
    assert torch.equal(first.codes, assigned)


@pytest.mark.parametrize("name", TRAINING)
def test_without_noise_twice_the_same_bits(name: str) -> None:
    made, estimator = world(), ESTIMATORS[name](LEVELS, K)
    first, second = (soft_codes(estimator, made, noise=None) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    gradients = []
    for soft in (first, second):
        loss = soft.vq + soft.reconstruction + made.generator.loss(made.batch, soft.y)
        gradients.append(torch.autograd.grad(loss, made.tokenizer.codebooks)[0])
    assert torch.equal(*gradients)


@pytest.mark.parametrize("name", ["gumbel", "diger_sdud", "gumbel_cosine", "gumbel_tau"])
def test_noise_changes_codes_and_its_seed_repeats_them(name: str) -> None:
    made, estimator = world(), ESTIMATORS[name](LEVELS, K)
    a, b, c = (soft_codes(estimator, made, noise).codes for noise in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_zero_noise_equals_ste() -> None:
    made = world()
    sdud = StandardDeviationDecay(LEVELS, K)
    with torch.no_grad():
        sdud.sigma.zero_()
    ste = soft_codes(ESTIMATORS["ste"](LEVELS, K), made)
    assert torch.equal(soft_codes(sdud, made).y, ste.y)
    cold = FrequencyDecay(LEVELS, K, r=1.5)  # at the start every code has an even share
    both = CombinedDecay(LEVELS, K, r=0.5)  # every code is hot, and sigma is zero
    with torch.no_grad():
        both.sigma.zero_()
    assert both.hot(0).all()
    book = made.tokenizer.codebooks

    def reading(soft: SoftCodes) -> torch.Tensor:
        loss = made.generator.loss(made.batch, soft.y) + soft.vq + soft.reconstruction
        return torch.autograd.grad(loss, book, retain_graph=True)[0]

    for quiet in (sdud, cold, both):
        soft = soft_codes(quiet, made)
        assert torch.equal(soft.y, ste.y)
        assert torch.equal(reading(soft), reading(ste))


def soft_gradient(kind: Any, noise: int, **settings: Any) -> torch.Tensor:
    """Gradient on the codebooks of a fixed reading of y, which sees p_l and nothing else."""
    made, estimator = world(), kind(LEVELS, K, **settings)
    if isinstance(estimator, StandardDeviationDecayCached) and settings.get("sigma_start") == 1e-9:
        with torch.no_grad():
            estimator.sigma.zero_()
    y = soft_codes(estimator, made, noise).y
    weights = torch.arange(float(y.numel())).view_as(y).sin()
    return torch.autograd.grad((weights * y).sum(), made.tokenizer.codebooks)[0]


def test_noise_of_cached_codes_is_in_the_gradient_alone() -> None:
    loud = [soft_gradient(StandardDeviationDecayCached, noise) for noise in (1, 1, 2)]
    assert torch.equal(loud[0], loud[1])
    assert not torch.equal(loud[0], loud[2])
    quiet = [soft_gradient(StandardDeviationDecayCached, n, sigma_start=1e-9) for n in (1, 2)]
    assert torch.equal(quiet[0], quiet[1])
    cold = soft_gradient(FrequencyDecayCached, 1)  # no code is hot at the start
    assert torch.equal(cold, quiet[0])


def test_cosine_decay_goes_from_full_noise_to_none() -> None:
    estimator = CosineNoiseDecay(LEVELS, K)
    scales = []
    for share in (0.0, 0.25, 0.5, 1.0):
        estimator.advance(share)
        scales.append(float(estimator.noise_scale(0)))
    # (1 + cos(pi t)) / 2
    assert scales == pytest.approx([1.0, (1 + 0.5**0.5) / 2, 0.5, 0.0], abs=1e-6)
    made = world()
    silent = soft_codes(estimator, made).y  # at the end it is STE
    assert torch.equal(silent, soft_codes(ESTIMATORS["ste"](LEVELS, K), made).y)


def test_temperature_decays_exponentially_and_leaves_the_draws_alone() -> None:
    made = world()
    estimator = ExponentialTemperatureDecay(LEVELS, K, tau=8.0, tau_end=0.5)
    found = []
    for share in (0.0, 0.25, 0.5, 1.0):
        estimator.advance(share)
        found.append(float(estimator.temperature()))
    assert found == pytest.approx([8.0, 4.0, 2.0, 0.5])  # a factor of 16 in all: 16^(1/4) = 2
    assert estimator.state()["tau"] == pytest.approx(0.5)
    cold, constant = soft_codes(estimator, made), soft_codes(Gumbel(LEVELS, K, tau=8.0), made)
    assert torch.equal(cold.codes, constant.codes)
    book = made.tokenizer.codebooks
    grads = [torch.autograd.grad(s.y[0, :, 0].sum(), book, retain_graph=True)[0]
             for s in (cold, constant)]  # fmt: skip
    assert not torch.allclose(grads[0], grads[1])


def test_timetables_travel_with_the_checkpoint() -> None:
    estimator = CosineNoiseDecay(LEVELS, K)
    estimator.advance(0.75)
    other = CosineNoiseDecay(LEVELS, K)
    other.load_state_dict(estimator.state_dict())
    assert float(other.noise_scale(0)) == float(estimator.noise_scale(0)) < 0.2


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
def test_sigma_converges_to_the_root_of_the_loss_less_lambda(lambda_: float) -> None:
    estimator = StandardDeviationDecay(LEVELS, K, sigma_start=2.0, lambda_=lambda_)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.02)
    for _ in range(2000):
        optimizer.zero_grad()
        estimator.objective(torch.tensor(4.0)).backward()
        optimizer.step()
    assert estimator.sigma.mean().item() == pytest.approx(math.sqrt(4.0) - lambda_, abs=1e-3)


def test_frequency_mask_follows_the_moving_average() -> None:
    estimator = FrequencyDecay(1, 4, r=1.5, momentum=0.5)
    assert not estimator.hot(0).any()  # an even share of 1/4 is not above 1.5/4
    estimator.observe(torch.tensor([[0], [0], [0], [1]]))
    # (1/4 + 3/4)/2 = 1/2, (1/4 + 1/4)/2 = 1/4, (1/4 + 0)/2 = 1/8 twice
    torch.testing.assert_close(estimator.usage, torch.tensor([[1 / 2, 1 / 4, 1 / 8, 1 / 8]]))
    assert estimator.hot(0).tolist() == [True, False, False, False]
    assert estimator.noise_scale(0).tolist() == [1, 0, 0, 0]
    assert estimator.state()["hot_share"] == [0.25]


def test_combined_noise_is_sigma_on_hot_codes() -> None:
    estimator = CombinedDecay(1, 4, sigma_start=0.7, r=1.5, momentum=0.0)
    estimator.observe(torch.tensor([[2]]))
    torch.testing.assert_close(estimator.noise_scale(0), torch.tensor([0.0, 0.0, 0.7, 0.0]))


def test_gumbel_noise_has_its_mean_and_spread() -> None:
    noise = sample_gumbel(torch.empty(200_000), torch.Generator().manual_seed(0))
    assert float(noise.mean()) == pytest.approx(0.57722, abs=0.01)  # Euler's constant
    assert float(noise.std()) == pytest.approx(GUMBEL_STD, abs=0.01)
    assert torch.isfinite(noise).all()


def test_gap_scale_sets_the_median_gap_whatever_the_units() -> None:
    made = world()
    for unit, target in ((1.0, 1.0), (1e-3, 1.0), (1.0, 5.0)):
        estimator = Gumbel(LEVELS, K, logit_scale="gap", gap_target=target)
        latent = made.tokenizer.encoder(made.content).detach() * unit
        books = made.tokenizer.codebooks.detach() * unit
        estimator.start(latent, books)
        snr = estimator.signal_to_noise(latent, books)
        assert snr == pytest.approx([target / GUMBEL_STD] * LEVELS, rel=1e-4)


@pytest.mark.parametrize("name", TRAINING)
def test_latent_scale_is_that_of_larger_latents(name: str) -> None:
    """With ``latent`` the losses, their codes and L_rec's gradient are those of latents whose gaps
    are as large as wanted, whatever the units they come in."""
    made = world()
    latent = made.tokenizer.encoder(made.content[:12]).detach()
    found = []
    for scale in (1.0, 1e-2):
        books = (made.tokenizer.codebooks.detach() * scale).requires_grad_()
        estimator = ESTIMATORS[name](LEVELS, K, logit_scale="latent", gap_target=3.0)
        estimator.start(latent * scale, books)
        noise = torch.Generator().manual_seed(0)
        stale = made.batch.sids[:, :-1]
        soft = estimator.tokenize(latent * scale, books, 0.25, noise, stale)
        rec = made.generator.loss(made.batch, soft.y)
        total = rec + soft.vq + soft.reconstruction
        (grad,) = torch.autograd.grad(total, books)
        found.append((soft.vq, soft.reconstruction, rec, grad * scale))
    for large, small in zip(*found, strict=True):
        torch.testing.assert_close(large, small, rtol=1e-3, atol=1e-4)


def test_no_gap_to_scale_by_is_said() -> None:
    made = world()
    latent = made.tokenizer.encoder(made.content[:12]).detach()
    books = made.tokenizer.codebooks.detach().clone()
    books[1] = books[1, 0]  # all codes of the second level are one
    with pytest.raises(SettingError, match=r"level 2.*no gap to scale by.*logit_scale=none"):
        Gumbel(LEVELS, K, logit_scale="latent").start(latent, books)
    Gumbel(LEVELS, K).start(latent, books)


def test_gap_scale_leaves_the_quantisation_losses_alone() -> None:
    made = world()
    latent = made.tokenizer.encoder(made.content[:12]).detach()
    books = made.tokenizer.codebooks.detach()
    losses = {}
    for scale in ("none", "gap", "latent"):
        estimator = Gumbel(LEVELS, K, logit_scale=scale, gap_target=3.0)
        estimator.start(latent, books)
        soft = estimator.tokenize(latent, books, 0.25, None)
        losses[scale] = (float(soft.vq), float(soft.reconstruction))
    assert losses["gap"] == losses["none"]
    last = float(estimator.unit[-1])
    assert losses["latent"][1] == pytest.approx(losses["none"][1] / last, rel=1e-5)
    assert losses["latent"][0] != pytest.approx(losses["none"][0], rel=0.01)


def test_signal_to_noise_is_none_without_noise() -> None:
    made = world()
    latent = made.tokenizer.encoder(made.content).detach()
    estimator = ESTIMATORS["ste"](LEVELS, K)
    assert estimator.signal_to_noise(latent, made.tokenizer.codebooks) == [None] * LEVELS


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gumbel", {"tau": 0}, "tau must be greater than 0"),
        ("gumbel", {"gap_target": 0}, "gap_target must be greater than 0"),
        ("gumbel", {"logit_scale": "median"}, "logit_scale must be one of"),
        ("diger_sdud", {"lambda_": -0.1}, "lambda_ must be at least 0"),
        ("diger_sdud", {"sigma_start": 0.0}, "sigma_start must be greater than 0"),
        ("diger_frqud", {"r": 0}, "r must be greater than 0"),
        ("gumbel_tau", {"tau_end": 0}, "tau_end must be greater than 0"),
        ("gumbel_tau", {"tau": 1.0, "tau_end": 2.0}, "tau .at which.* must be at least 2.0"),
        ("diger_frqud_cached", {"r": 0}, "r must be greater than 0"),
        ("diger_frqud", {"momentum": 1.0}, "momentum must be in"),
    ],
)
def test_impossible_settings(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ESTIMATORS[name](LEVELS, K, **settings)
