"""How far the training of a tokenizer is, and how it is kept on disk until it is over."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diger.tokenizer import LOAD_ERRORS, save_tensors


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and buffers that are stored."""
    return copy.deepcopy(model.state_dict())


class StopRule(Protocol):
    """What is read of ``RQVAEConfig``: when to check, and when to stop."""

    @property
    def epochs(self) -> int: ...
    @property
    def min_epochs(self) -> int: ...
    @property
    def check_every(self) -> int: ...
    @property
    def patience(self) -> int: ...


@dataclass
class Reached:
    """Where a training is.

    Attributes:
        best_state: the state with the fewest collisions so far; before the first check, the start.
        epoch: the last one that is over, from 1.
        best: its collision rate. best_epoch: where it was.
        stale: checks since then.
        seconds: of training so far, those before an interruption included.
        checks: (epoch, collision rate) of each check.
    """

    best_state: dict[str, Tensor]
    epoch: int = 0
    best: float = math.inf
    best_epoch: int = 0
    stale: int = 0
    seconds: float = 0.0
    checks: list[tuple[int, float]] = field(default_factory=list)

    def check(self, collision_rate: float, model: nn.Module) -> None:
        """Note a check of the model as it is now; of equally good states the later one is kept."""
        self.checks.append((self.epoch, collision_rate))
        self.stale = 0 if collision_rate < self.best else self.stale + 1
        if collision_rate <= self.best:
            self.best, self.best_epoch = collision_rate, self.epoch
            self.best_state = snapshot(model)

    def stopped(self, rule: StopRule) -> str:
        """Why it is over: ``patience`` or ``epochs``; empty while it is not."""
        if self.stale >= rule.patience:
            return "patience"
        return "epochs" if self.epoch >= rule.epochs else ""

    def last_epoch(self, rule: StopRule) -> int:
        """Where it will end if no check finds fewer collisions than now; the first one counts as
        found, so that this only ever grows."""
        if self.stopped(rule):
            return self.epoch
        due = max(self.epoch + 1, rule.min_epochs)
        next_check = -(-due // rule.check_every) * rule.check_every
        missing = rule.patience - self.stale - (0 if math.isinf(self.best) else 1)
        return min(rule.epochs, next_check + missing * rule.check_every)

    def facts(self, rule: StopRule) -> dict[str, Any]:
        """What is said of a training that is over, as JSON."""
        return {
            "epochs": self.epoch,
            "best_epoch": self.best_epoch,
            "stopped": self.stopped(rule),
            "seconds": self.seconds,
            "collisions": [list(check) for check in self.checks],
        }


class TokenizerTraining:
    """What a training carries from one epoch to the next.

    All randomness of a model's training must come from ``shuffle`` or from its epoch's number, or
    what is taken up would not end as if it had never stopped.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, shuffle: torch.Generator
    ) -> None:
        self.model, self.optimizer, self.shuffle = model, optimizer, shuffle

    def keep(self, path: Path, reached: Reached) -> None:
        """Write everything to ``path``, atomically; tensors and plain values only."""
        progress = {name: value for name, value in vars(reached).items() if name != "best_state"}
        state = {
            "reached": progress,
            "best": reached.best_state,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "shuffle": self.shuffle.get_state(),
        }
        save_tensors(path, state)

    def take_up(self, path: Path) -> Reached | None:
        """Restore in place what ``keep`` has written.

        None, with nothing changed, where there is no such file or it is damaged or of another
        model: what is lost is time.
        """
        if not path.exists():
            return None
        before = snapshot(self.model), copy.deepcopy(self.optimizer.state_dict())
        try:
            kept = torch.load(path, weights_only=True, map_location="cpu")
            reached = Reached(kept["best"], **kept["reached"])
            self.model.load_state_dict(reached.best_state)  # does it fit, too?
            self.model.load_state_dict(kept["model"])
            self.optimizer.load_state_dict(kept["optimizer"])
            self.shuffle.set_state(kept["shuffle"])
        except (*LOAD_ERRORS, TypeError, AttributeError):
            self.model.load_state_dict(before[0])
            self.optimizer.load_state_dict(before[1])
            return None
        return reached
