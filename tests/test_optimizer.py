"""AdamW over one tensor a group against torch's own over the parameters apart."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diger import training_state
from diger.checks import SettingError
from diger.optimizer import FlatAdamW
from diger.training_state import Best
from tests.test_steps import make_trainer

CLIP = 0.5


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(*shape)) for shape in ((3, 4), (5,), (2, 2, 3))]


def losses(params: list[nn.Parameter], step: int) -> Tensor:
    """Gradients long enough to be clipped in the first steps, and not in the last ones."""
    return sum((p.square().sum() for p in params), torch.zeros(())) * (3.0 / (1 + step) ** 2)


def test_steps_are_those_of_torch() -> None:
    flat, apart = parameters(), parameters()
    ours = FlatAdamW(
        [{"params": flat[:2], "lr": 0.1, "clip": CLIP}, {"params": flat[2:], "lr": 0.01}],
        weight_decay=0.05,
    )
    theirs = torch.optim.AdamW(
        [{"params": apart[:2], "lr": 0.1}, {"params": apart[2:], "lr": 0.01}], weight_decay=0.05
    )
    lengths = []
    for step in range(12):
        ours.zero_grad()
        losses(flat, step).backward()
        ours.gather()
        ours.step()
        theirs.zero_grad()
        losses(apart, step).backward()
        lengths.append(float(nn.utils.clip_grad_norm_(apart[:2], CLIP)))
        theirs.step()
        for mine, own in zip(flat, apart, strict=True):
            torch.testing.assert_close(mine, own)
    assert max(lengths) > CLIP > min(lengths)


def test_a_parameter_without_a_gradient_has_a_gradient_of_zero() -> None:
    flat, apart = parameters(), parameters()
    ours = FlatAdamW([{"params": flat, "lr": 0.1}], weight_decay=0.5)
    theirs = torch.optim.AdamW(apart, lr=0.1, weight_decay=0.5)
    losses(flat[:2], 0).backward()
    ours.gather()
    ours.step()
    losses(apart[:2], 0).backward()
    apart[2].grad = torch.zeros_like(apart[2])
    theirs.step()
    for mine, own in zip(flat, apart, strict=True):
        torch.testing.assert_close(mine, own)


def test_parameters_keep_their_values_and_who_they_are() -> None:
    module = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    known = [id(p) for p in module.parameters()]
    optimizer = FlatAdamW([{"params": module.parameters(), "lr": 0.1}])
    assert [id(p) for p in module.parameters()] == known
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())
    module.load_state_dict({name: value + 1 for name, value in before.items()})
    (whole,) = optimizer.param_groups[0]["params"]
    assert torch.equal(whole, torch.cat([(before[n] + 1).flatten() for n in ("weight", "bias")]))


def test_a_checkpoint_of_an_earlier_version_is_refused_and_kept(tmp_path: Path) -> None:
    trainer = make_trainer("diger_frqud", "cpu")
    trainer.step(trainer.data.train_positions[: trainer.config.batch_size])
    earlier = torch.optim.AdamW(trainer.generator.parameters(), lr=0.1)
    sids = np.zeros((2, 2), dtype=np.int32)
    place = (tmp_path, trainer.modules)
    training_state.save(*place, earlier, trainer.schedule, sids, Best(), {}, "me")
    weights = copy.deepcopy(trainer.modules.state_dict())
    kept = (tmp_path / training_state.FILE).read_bytes()
    with pytest.raises(SettingError, match=r"earlier version's.*delete it"):
        training_state.load(*place, trainer.optimizer, trainer.schedule, "cpu", "me")
    assert (tmp_path / training_state.FILE).read_bytes() == kept
    now = trainer.modules.state_dict()
    assert all(torch.equal(now[name], value) for name, value in weights.items())
