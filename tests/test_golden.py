"""One training step of every estimator, held to recorded values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.estimators import ESTIMATORS
from tests.golden import RECORD, golden_step

WHEN = (
    "A step of {name} is not the recorded one: {key} is {found}, was {wanted}. If you meant to "
    "change what this estimator computes (its formula, its loss, its noise, the model, the "
    "optimiser), check the new step against the method's description, run `python -m tests.golden` "
    "and say in the commit why; every result stored under the old step has to be made again. If "
    "you did not, this is a fault: mend it, and leave the record alone."
)
RECORDED: dict[str, dict[str, Any]] = yaml.safe_load(RECORD.read_text(encoding="utf-8"))


def test_every_estimator_has_a_record_and_no_other() -> None:
    assert set(RECORDED) == set(ESTIMATORS), "run `python -m tests.golden` for a new estimator"


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_step_is_the_recorded_one(name: str) -> None:
    made = golden_step(name)
    assert set(made) == set(RECORDED[name])
    for key, wanted in RECORDED[name].items():
        message = WHEN.format(name=name, key=key, found=made[key], wanted=wanted)
        np.testing.assert_allclose(made[key], wanted, rtol=2e-4, atol=1e-7, err_msg=message)


def test_the_record_tells_the_estimators_apart() -> None:
    """A record in which two estimators take the same step could not show one taken for another."""
    two_stage = [name for name in RECORDED if name in ("tiger", "letter_tiger")]
    others = [name for name in RECORDED if name not in two_stage]
    steps = {name: tuple(map(str, RECORDED[name].values())) for name in others}
    assert len(set(steps.values())) == len(others)


def test_a_step_repeats_bit_for_bit() -> None:
    state = torch.random.get_rng_state()
    first, second = golden_step("diger_sdud_frqud"), golden_step("diger_sdud_frqud")
    assert first == second
    torch.random.set_rng_state(state)
