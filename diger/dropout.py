"""Dropout that is cheap."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from diger.keep import by_key, draw_keep
from diger.passes import kept


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each element with probability p and scale the rest by 1 / (1 - p).

    On a CPU, torch draws one random number per element, which costs a quarter of a training step
    of the small models; here a key is drawn. Where there can be none this is torch's own dropout.
    Uses the global random state either way.
    """
    if not training or p == 0:
        return x
    if not by_key(x):
        return F.dropout(x, p)
    return _Dropout.apply(x, draw_keep(x, x.shape, p), 1 / (1 - p))  # type: ignore[no-untyped-call]


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return kept(x, keep, scale, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return kept(grad, ctx.saved_tensors[0], ctx.scale, ctx.scale), None, None
