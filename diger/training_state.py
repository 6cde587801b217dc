"""What a fit carries from one epoch to the next, and how it is kept on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from diger.checks import SettingError
from diger.optimizer import Schedule
from diger.tokenizer import LOAD_ERRORS

FILE = "checkpoint.pt"


@dataclass
class Best:
    """The epoch that validation selects: its weights, codebooks and semantic IDs together."""

    value: float = -1.0
    epoch: int = -1
    weights: dict[str, Any] = field(default_factory=dict)
    sids: NDArray[np.int32] | None = None


def snapshot(modules: nn.ModuleDict) -> dict[str, Any]:
    """A copy of all weights and buffers."""
    return {name: value.detach().clone() for name, value in modules.state_dict().items()}


def save(
    folder: Path,
    modules: nn.ModuleDict,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    sids: NDArray[np.int32],
    best: Best,
    progress: dict[str, Any],
    identity: str,
) -> None:
    """Write the checkpoint atomically. It holds tensors and plain values only, so that reading it
    never runs code. Random states need no place in it: every epoch seeds its own."""
    path = folder / FILE
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    state = {
        "identity": identity,
        "modules": modules.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.done,
        "sids": torch.as_tensor(sids),
        "best": {
            "value": best.value,
            "epoch": best.epoch,
            "weights": best.weights,
            "sids": None if best.sids is None else torch.as_tensor(best.sids),
        },
        "progress": progress,
    }
    torch.save(state, temporary)
    temporary.replace(path)


def load(
    folder: Path,
    modules: nn.ModuleDict,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    device: str,
    identity: str,
) -> tuple[NDArray[np.int32], Best, dict[str, Any]] | None:
    """Restore modules, optimizer and schedule in place.

    None where there is no checkpoint of a fit with this identity (same data, settings and seed).

    Raises:
        SettingError: the checkpoint cannot be read, or an earlier version wrote it.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True, map_location=device)
    except LOAD_ERRORS:
        raise SettingError(f"{path} is damaged; delete it to train this cell afresh") from None
    if state["identity"] != identity:
        return None
    if [len(group["params"]) for group in state["optimizer"]["param_groups"]] != [
        len(group["params"]) for group in optimizer.param_groups
    ]:
        raise SettingError(
            f"{path} is an earlier version's, which kept the state of the optimiser otherwise; "
            "delete it to train this cell afresh"
        )
    modules.load_state_dict(state["modules"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.go_to(state["schedule"])
    kept = state["best"]
    sids = None if kept["sids"] is None else kept["sids"].cpu().numpy()
    best = Best(kept["value"], kept["epoch"], kept["weights"], sids)
    return state["sids"].cpu().numpy(), best, state["progress"]
