"""Dropout that is cheap on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 1 << 16


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each element with probability p and scale the rest by 1 / (1 - p).

    On a CPU, torch draws one random number per element, which costs a quarter of a training step
    of the small models; here one multiplication with ``keep_mask`` takes its place. Elsewhere this
    is torch's own dropout. Uses the global random state either way.
    """
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return x * keep_mask(x, p)


def keep_mask(like: Tensor, p: float) -> Tensor:
    """0 with probability p, else 1 / (1 - p), in the shape and type of ``like``.

    On a CPU, one 64-bit draw serves four elements, with p rounded to 1 / 65536. Comparing them
    would be the plain way to a mask, but torch has vector instructions for clamping 16-bit
    numbers and none for comparing them or for turning truth into floats.
    """
    if like.device.type != "cpu":
        return F.dropout(torch.ones_like(like), p)
    draws = torch.empty((like.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    cut = round(p * LEVELS)
    least = cut - LEVELS // 2  # the smallest draw that keeps its element
    if cut == 0:
        return torch.ones_like(like)
    steps = draws.view(torch.int16)[: like.numel()]
    kept = steps.clamp_(least - 1, least).sub_(least - 1)
    return kept.to(like.dtype).mul_(LEVELS / (LEVELS - cut)).view(like.shape)
