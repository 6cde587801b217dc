"""Decays that follow a timetable, whatever the loss or the use of the codes does.

They are the controls of the uncertainty decays: if a fixed timetable does as well, what the noise
is tied to does not matter. The constant timetable is ``diger.estimators.Gumbel`` itself.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from diger.checks import above, at_least
from diger.estimators import Estimator, Gumbel


class Timetable(Estimator):
    """Keeps the share of the planned steps that are done, so that a resumed fit goes on."""

    done: Tensor  # scalar in [0, 1)

    def __init__(self, levels: int, codebook_size: int, **shared: Any) -> None:
        super().__init__(levels, codebook_size, **shared)
        self.register_buffer("done", torch.zeros(()))

    def advance(self, share: float) -> None:
        self.done.fill_(share)


class CosineNoiseDecay(Timetable, Gumbel):
    """Sampled codes, the noise scale s_l = (1 + cos(pi t)) / 2 at share t of the training: from 1
    to 0. Half a cosine, as Loshchilov and Hutter (ICLR 2017) anneal learning rates."""

    def noise_scale(self, level: int) -> Tensor:
        return (1 + torch.cos(math.pi * self.done)) / 2


class ExponentialTemperatureDecay(Timetable, Gumbel):
    """Sampled codes, the temperature falls as tau (tau_end / tau)^t at share t of the training, as
    Jang et al. (ICLR 2017) anneal theirs. The noise keeps its scale: colder soft codes sharpen the
    gradient, and do not change which code is drawn.

    Args:
        tau_end: the temperature at the end, > 0 and at most tau. shared: see ``Estimator``.
    """

    def __init__(
        self, levels: int, codebook_size: int, tau_end: float = 0.5, **shared: Any
    ) -> None:
        super().__init__(levels, codebook_size, **shared)
        above("estimator.tau_end", tau_end, 0)
        at_least("estimator.tau (at which the temperature starts)", self.tau, tau_end)
        self.tau_end = tau_end

    def temperature(self) -> Tensor:
        return self.tau * (self.tau_end / self.tau) ** self.done

    def state(self) -> dict[str, Any]:
        return {**super().state(), "tau": float(self.temperature())}
