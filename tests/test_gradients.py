"""The gradient contract: does the recommendation loss reach the tokenizer, and by which road?"""

from __future__ import annotations

import pytest
import torch

from diger.generator import ROADS
from tests.estimators import (
    CACHED,
    DETACHED,
    END_TO_END,
    ESTIMATORS,
    FROZEN,
    LEVELS,
    SAMPLED,
    TRAINING,
    K,
    soft_codes,
    world,
)


def codebook_gradient(name: str, roads: tuple[str, ...]) -> list[float]:
    """Norm of dL_rec / dcodebook on each level, through ``roads`` alone."""
    made = world()
    estimator = ESTIMATORS[name](LEVELS, K)
    y = soft_codes(estimator, made).y if estimator.trains_tokenizer else None
    loss = made.generator.loss(made.batch, y, roads)
    wanted = [made.tokenizer.codebooks, *made.tokenizer.encoder.parameters()]
    assert loss.requires_grad  # by the recommender's own weights, whatever y does
    book, *encoder = torch.autograd.grad(loss, wanted, allow_unused=True)
    if book is None:
        assert all(grad is None for grad in encoder)
        return [0.0] * LEVELS
    assert all(grad is not None and float(grad.norm()) > 0 for grad in encoder)
    return [float(value) for value in book.flatten(1).norm(dim=1)]


@pytest.mark.parametrize("road", [*((road,) for road in ROADS), ROADS])
@pytest.mark.parametrize("name", END_TO_END)
def test_reaches_every_level_through_each_road_alone(name: str, road: tuple[str, ...]) -> None:
    assert all(norm > 1e-8 for norm in codebook_gradient(name, road))


@pytest.mark.parametrize("name", TRAINING)
def test_no_road_no_gradient(name: str) -> None:
    assert codebook_gradient(name, ()) == [0.0] * LEVELS


@pytest.mark.parametrize("road", [*((road,) for road in ROADS), ROADS])
@pytest.mark.parametrize("name", [*FROZEN, *DETACHED])
def test_two_stage_and_detached_are_exactly_zero(name: str, road: tuple[str, ...]) -> None:
    assert codebook_gradient(name, road) == [0.0] * LEVELS


@pytest.mark.parametrize("name", TRAINING)
def test_quantisation_losses_move_every_level(name: str) -> None:
    """Of the detached methods too: theirs is a tokenizer that trains, on other grounds."""
    made = world()
    soft = soft_codes(ESTIMATORS[name](LEVELS, K), made)
    for loss in (soft.vq, soft.reconstruction):
        (book,) = torch.autograd.grad(loss, made.tokenizer.codebooks, retain_graph=True)
        assert all(float(norm) > 1e-8 for norm in book.flatten(1).norm(dim=1))


def test_every_method_of_the_table_is_covered() -> None:
    decays = ["diger_frqud", "diger_sdud", "diger_sdud_frqud"]
    assert "tiger" in FROZEN
    assert sorted(CACHED) == sorted(f"{name}_cached" for name in decays)
    assert sorted(DETACHED) == sorted(f"{name}_detached" for name in decays)
    assert {"ste", "gumbel", *decays} <= set(SAMPLED)
    assert set(ESTIMATORS) == {*FROZEN, *SAMPLED, *CACHED, *DETACHED}


@pytest.mark.parametrize("name", TRAINING)
def test_roads_change_the_gradient_and_not_the_loss(name: str) -> None:
    made = world()
    y = soft_codes(ESTIMATORS[name](LEVELS, K), made).y
    values = [made.generator.loss(made.batch, y, roads).item() for roads in (ROADS, (), ROADS[:1])]
    assert values[0] == pytest.approx(values[1], abs=1e-6) == pytest.approx(values[2], abs=1e-6)


def test_soft_loss_of_hard_codes_is_the_two_stage_loss() -> None:
    made = world()
    codes = made.batch.sids[:, :-1].T
    y = torch.nn.functional.one_hot(codes, K).float()
    soft = made.generator.loss(made.batch, y)
    hard = made.generator.loss(made.batch)
    torch.testing.assert_close(soft, hard)
