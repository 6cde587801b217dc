"""What stands in front of a block's products and behind them: a norm, and dropout onto the stream.

Shapes: B rows, T tokens, N = B T, d width, O outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diger.gpu import kernels_for
from diger.passes import EPSILON, add_kept, add_normed_backward, kept, normed_rows


class Link:
    """Between a block and the one behind it, where a GPU's kernel can do at once what the one ends
    with and the other begins with: dropout and norm forwards, backwards the norm's gradient and
    what of it dropout lets into the block in front.

    Args:
        norm: [d], the weight of the norm that the block behind begins with.
        dtype: of both blocks' products.
    """

    def __init__(self, norm: Tensor, dtype: torch.dtype) -> None:
        self.norm, self.dtype = norm, dtype
        self._kept: tuple[Tensor | None, float] | None = None  # once it has been used
        # For the block behind: the normed stream and its scale; for the one in front: the gradient
        # of the stream, and what it makes of it. Each is taken once.
        self._ahead: tuple[Tensor, Tensor] | None = None
        self._back: tuple[Tensor, Tensor] | None = None

    def add(self, x: Tensor, y: Tensor, keep: Tensor | None, scale: float) -> Tensor | None:
        """``added``, and the norm behind it; None where there is no such kernel."""
        if (kernels := kernels_for(x, keep)) is None:
            return None
        self._kept = keep, scale
        out: Tensor
        out, normed, by = kernels.drop_add_norm(
            x, y, keep, scale, scale * scale, self.norm, EPSILON, self.dtype
        )
        self._ahead = normed, by
        return out

    def take_ahead(self) -> tuple[Tensor, Tensor] | None:
        """The normed stream [N, d] and its scale [N, 1], if they were made."""
        ahead, self._ahead = self._ahead, None
        return ahead

    @property
    def drops(self) -> tuple[Tensor | None, float, float, torch.dtype] | None:
        """How a gradient goes on into the block in front, as ``diger.kernels.norm_back`` takes it;
        None if that is its own affair."""
        if self._kept is None:
            return None
        keep, scale = self._kept
        return keep, scale, scale * scale, self.dtype

    def give_back(self, grad: Tensor, onwards: Tensor) -> None:
        """The gradient of the stream, and what of it reaches the block in front, both [N, d]."""
        self._back = grad, onwards

    def take_back(self, grad: Tensor) -> Tensor | None:
        """What of the stream's gradient reaches the block in front, if it was made, and of this
        gradient: where something else had read the stream, too, it would be another."""
        back, self._back = self._back, None
        if back is None or back[0].data_ptr() != grad.data_ptr():
            return None
        return back[1]


class Links(NamedTuple):
    """Of a block, with those in front of it and behind it."""

    before: Link | None = None
    after: Link | None = None


UNLINKED = Links()


class Met(NamedTuple):
    """A normed residual stream and the weight that it meets, as the way back needs them.

    weight: [O, d], and normed: [N, d], whose product it is, in its type; the norm's own weight is
    folded into the first, or on a GPU, where the norm is one kernel, multiplied into the second.
    exact: what the norm's way back reads, [N, d] in the type of x: x normed, on a GPU x itself.
    scale: [N, 1].
    """

    weight: Tensor
    normed: Tensor
    exact: Tensor
    scale: Tensor


def meet(x: Tensor, norm: Tensor, weight: Tensor, before: Link | None) -> Met:
    rows = x.flatten(0, -2)
    if before is not None and (ahead := before.take_ahead()) is not None:
        return Met(weight, ahead[0], rows, ahead[1])
    if (kernels := kernels_for(x)) is not None:
        rows = rows.contiguous()
        normed, scale = kernels.norm(rows, norm, EPSILON, weight.dtype)
        return Met(weight, normed, rows, scale)
    exact, scale = normed_rows(rows)
    return Met(weight * norm.to(weight.dtype), exact.to(weight.dtype), exact, scale)


def project(
    x: Tensor, norm: Tensor, weight: Tensor, before: Link | None = None
) -> tuple[Tensor, Met]:
    """The normed stream times the weight, [N, O], and what that came from."""
    met = meet(x, norm, weight, before)
    return met.normed @ met.weight.T, met


def project_backward(
    grad_out: Tensor, residual: Tensor, saved: tuple[Tensor, Tensor, Tensor, Tensor],
    norm: Tensor, weight: Tensor, before: Link | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients at x (with that of the residual stream around the block), norm and weight."""
    met, normed, exact, scale = saved
    by_met = grad_out.T @ normed
    inner, around = grad_out @ met, residual.flatten(0, -2)
    if (kernels := kernels_for(residual)) is not None:
        drops = None if before is None else before.drops
        d_x, d_norm, onwards = kernels.norm_back(
            around.contiguous(), inner, exact, norm, scale, drops
        )
        if before is not None and onwards is not None:
            before.give_back(d_x, onwards)
        return d_x.view_as(residual), d_norm, by_met
    d_x = add_normed_backward(around, inner.to(exact.dtype), exact, scale)
    d_norm = (by_met * weight).sum(0).to(norm.dtype)
    return d_x.view_as(residual), d_norm, by_met * norm.to(weight.dtype)


def added(
    x: Tensor, y_Nxd: Tensor, keep: Tensor | None, scale: float, after: Link | None = None
) -> Tensor:
    """A block's stream with what the block adds to it, behind the second of two masks."""
    y = y_Nxd.view_as(x)
    if after is not None and (out := after.add(x, y, keep, scale)) is not None:
        return out
    return add_kept(x, y, keep, scale, scale * scale)


def dropped(
    grad: Tensor, keep: Tensor | None, scale: float, dtype: torch.dtype, after: Link | None = None
) -> Tensor:
    """What of the gradient reaches a block behind its dropout, times the scales of both of its
    masks, as rows."""
    if after is not None and (rows := after.take_back(grad)) is not None:
        return rows
    return kept(grad, keep, scale, scale * scale, dtype).flatten(0, -2)
