"""How the joint model is optimised: settings, parameter groups, learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diger.checks import above, at_least, whole
from diger.estimators import Estimator
from diger.generator import Generator
from diger.gpu import kernels_for
from diger.passes import loops_for
from diger.tokenizer import Tokenizer


@dataclass(frozen=True)
class TrainConfig:
    """Joint training. ``lr_tokenizer`` is the paper's lr_id; learning rates follow one cosine
    schedule after ``warmup_steps``; ``patience`` counts validations without a better NDCG@10;
    ``length_window`` batches share their rows out by length of history (1: they do not), which
    saves padding."""

    epochs: int = 120
    patience: int = 15
    valid_every: int = 1
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    lr_tokenizer: float = 1e-5
    lr_sigma: float = 1e-3
    warmup_steps: int = 500
    clip: float = 1.0
    w_reconstruction: float = 1.0
    w_vq: float = 1.0
    freeze_encoder: bool = True
    length_window: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "valid_every", "batch_size", "length_window"):
            whole(f"train.{name}", getattr(self, name), 1)
        whole("train.warmup_steps", self.warmup_steps, 0)
        for name in ("learning_rate", "lr_tokenizer", "lr_sigma", "clip"):
            above(f"train.{name}", getattr(self, name), 0)
        for name in ("weight_decay", "w_reconstruction", "w_vq"):
            at_least(f"train.{name}", getattr(self, name), 0)


class Schedule:
    """Linear warm-up, then a cosine to zero at ``total_steps``, for each group's own rate.

    On a GPU the rates are tensors, set from a table on the device by a counter on the device, so
    that a step neither waits nor has to be told which one it is.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, warmup_steps: int, total_steps: int, device: str
    ) -> None:
        self.optimizer, self.warmup_steps, self.total_steps = optimizer, warmup_steps, total_steps
        self.rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.done = 0  # on the host
        self.step_on_device: Tensor | None = None
        if device != "cpu":
            table = [self.factor(step) for step in range(total_steps)]
            self.table = torch.tensor(table, dtype=torch.float32, device=device)
            self.step_on_device = torch.zeros(1, dtype=torch.int64, device=device)
            for group in optimizer.param_groups:
                group["lr"] = torch.zeros((), device=device)

    def factor(self, step: int) -> float:
        """What the rates are multiplied with in a step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        after = self.total_steps - self.warmup_steps
        share = (step - self.warmup_steps) / max(after, 1)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))

    @property
    def learning_rate(self) -> float:
        """The first group's, in the step to come."""
        return self.rates[0] * self.factor(self.done)

    def apply(self) -> None:
        """Set the rates for the step to come. On a GPU this is part of the step itself, ``next``
        is not."""
        if self.step_on_device is None:
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * self.factor(self.done)
            return
        step = self.step_on_device.clamp_max(len(self.table) - 1)
        factor = self.table.index_select(0, step).squeeze(0)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"].copy_(rate * factor)
        self.step_on_device += 1

    def next(self) -> None:
        """Count a step that has been given to the device."""
        self.done += 1

    def go_to(self, done: int) -> None:
        """Continue after ``done`` steps."""
        self.done = done
        if self.step_on_device is not None:
            self.step_on_device.fill_(done)
        # A checkpoint brings the settings of the device that it was written on.
        on_gpu = self.step_on_device is not None
        for group in self.optimizer.param_groups:
            group["capturable"] = on_gpu
            if self.step_on_device is not None:
                group["lr"] = torch.zeros((), device=self.step_on_device.device)


class FlatAdamW(torch.optim.AdamW):
    """AdamW over groups that each lie in one tensor, of which their parameters are views.

    The models are some sixty tensors of a few thousand numbers: to clip and update each apart costs
    a CPU more in calls than in arithmetic. Each number moves as AdamW moves it, but a parameter
    that has no gradient is not left out: it counts as one whose gradient is zero.

    Args:
        groups: as of any optimiser, and for each ``clip``, the Euclidean length that its gradient
            is scaled down to where it is longer; None: not at all. Parameters move into their
            group's tensor: they keep their identity, not their storage.
    """

    def __init__(self, groups: list[dict[str, Any]], **settings: Any) -> None:
        self.parts: list[list[nn.Parameter]] = [list(group["params"]) for group in groups]
        whole = [[_laid_out(parts)] for parts in self.parts]
        named = [
            group | {"params": one, "clip": group.get("clip")}
            for group, one in zip(groups, whole, strict=True)
        ]
        super().__init__(named, **settings)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients; they are None from here to the next backward pass."""
        for group, parts in zip(self.param_groups, self.parts, strict=True):
            for parameter in (*group["params"], *parts):
                parameter.grad = None

    @torch.no_grad()
    def gather(self) -> None:
        """Take the gradients of the parameters over, each group's clipped; ``step`` uses these, and
        the parameters have none any more."""
        for group, parts in zip(self.param_groups, self.parts, strict=True):
            (whole,) = group["params"]
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parts]
            whole.grad = torch.cat([grad.flatten() for grad in grads])
            for parameter in parts:
                parameter.grad = None
            if group["clip"] is not None:
                length = torch.linalg.vector_norm(whole.grad)
                whole.grad.mul_((group["clip"] / (length + 1e-6)).clamp_max(1.0))

    def step(self, closure: Any = None) -> Any:
        """As AdamW's own."""
        if closure is not None or not all(self._at_once(group) for group in self.param_groups):
            return super().step(closure)
        for group in self.param_groups:
            (whole,) = group["params"]
            state = self.state[whole]
            if not state:  # on a CPU, where the first step is like all others
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(whole) for _ in "12")
            state["step"] += 1
            moments = state["exp_avg"], state["exp_avg_sq"]
            if (kernels := kernels_for(whole)) is not None:
                kernels.adamw_(
                    whole.data, whole.grad, moments, state["step"], group["lr"], group["betas"],
                    group["weight_decay"], group["eps"],
                )  # fmt: skip
                continue
            loops = loops_for(whole)
            assert loops is not None and whole.grad is not None
            arrays = (tensor.numpy() for tensor in (whole.detach(), whole.grad, *moments))
            loops.adamw(
                *arrays, float(state["step"]), float(group["lr"]), *group["betas"],
                group["weight_decay"], group["eps"],
            )  # fmt: skip
        return None

    def _at_once(self, group: dict[str, Any]) -> bool:
        """Whether there is a loop for a group, or a kernel, which is for steps after the first."""
        (whole,) = group["params"]
        if whole.grad is None or group["amsgrad"] or group["maximize"]:
            return False
        if kernels_for(whole, types=(torch.float32,)) is None:
            return loops_for(whole) is not None
        return bool(self.state.get(whole)) and isinstance(group["lr"], Tensor)


def _laid_out(parameters: list[nn.Parameter]) -> nn.Parameter:
    """The parameters end to end, [n]; they become views of it."""
    whole = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    first = 0
    for parameter in parameters:
        parameter.data = whole.data[first : first + parameter.numel()].view_as(parameter)
        first += parameter.numel()
    return whole


def make_optimizer(
    config: TrainConfig,
    generator: Generator,
    tokenizer: Tokenizer,
    estimator: Estimator,
    total_steps: int,
    device: str = "cpu",
) -> tuple[FlatAdamW, Schedule]:
    """AdamW with a group each for the generator, for the part of the tokenizer that trains (none
    where the estimator freezes it) and for the estimator's own parameters."""
    groups: list[dict[str, Any]] = [
        {
            "params": list(generator.parameters()), "lr": config.learning_rate,
            "clip": config.clip,
        }
    ]  # fmt: skip
    if estimator.trains_tokenizer:
        moved = [tokenizer.codebooks]
        if not config.freeze_encoder:
            moved += list(tokenizer.encoder.parameters())
        groups.append({"params": moved, "lr": config.lr_tokenizer, "clip": config.clip})
    own = list(estimator.parameters())
    if own:
        # Decay would pull the noise scale to zero whatever the loss says.
        groups.append({"params": own, "lr": config.lr_sigma, "weight_decay": 0.0})
    optimizer = FlatAdamW(
        groups, weight_decay=config.weight_decay, fused=True, capturable=device != "cpu"
    )
    return optimizer, Schedule(optimizer, config.warmup_steps, total_steps, device)
