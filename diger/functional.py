"""The encoder-decoder's blocks as autograd functions with their gradients written out.

What they compute is plain T5; what they save is passes over memory and launches of small kernels.
Autograd on single operations keeps every intermediate, walks each of them again on the way back and
copies heads apart three times a layer, which on a CPU costs more than the products do and on a GPU
is most of the launches. A norm's weight is folded into the product that follows it.

Every block maps a residual stream x [B, T, d] to one of the same shape and type. Products run in
the type of the weights that they are given, norms and softmax in that of x. What dropout keeps is
None or as in ``diger.keep``, with one ``scale`` for a block's masks, which it multiplies with once,
on its way out. Shapes: B rows, T tokens, M tokens of memory, d width, H heads, h head width,
I = H h, F hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diger.gpu import kernels_for
from diger.heads import Order
from diger.passes import (
    EPSILON,
    norm_backward,
    normed_rows,
    relu_kept_,
    softmax_backward,
    softmax_kept,
)
from diger.positions import ScoreGradient
from diger.residual import UNLINKED, Links, added, dropped, project, project_backward


class RMSNorm(torch.autograd.Function):
    """weight x / sqrt(mean(x^2) + eps), as T5 normalises: no mean is taken off, nothing added."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        if (kernels := kernels_for(x)) is not None:
            rows = x.flatten(0, -2).contiguous()
            out, scale = kernels.norm(rows, weight, EPSILON, x.dtype)
            ctx.save_for_backward(rows, scale, weight)
            weighted: Tensor = out.view_as(x)
            return weighted
        normed, scale = normed_rows(x)
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        normed, scale, weight = ctx.saved_tensors
        if (kernels := kernels_for(grad)) is not None:  # then it is x itself, as rows
            inner = grad.flatten(0, -2).contiguous()
            d_x, d_weight, _ = kernels.norm_back(None, inner, normed, weight, scale)
            return d_x.view_as(grad), d_weight
        by_weight = (grad * normed).flatten(0, -2).sum(0)
        return norm_backward(grad * weight, normed, scale).mul_(scale), by_weight


class SelfAttention(torch.autograd.Function):
    """x + scale^2 keep_out (softmax(q k^T + bias) keep_weights v) W_o^T, with q, k, v of the normed
    x.

    Args of forward:
        x: [B, T, d]. norm: [d]. qkv: [3 I, d], the weights one below the other. o: [d, I].
        bias: [B or 1, H, T, T], added to the scores, as a constant. position: [1, H, T, T], the
        part of it that is learned: it only receives the gradient. keep_weights: of [B, H, T, T].
        keep_out: of [B, T, d]. heads: H. links: with the blocks around it. part: of this layer in
        the gradient of ``position``, where it is not returned by itself. mask: [B, 1, 1, T], added
        to the scores, too; only where ``attends`` has kernels for it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm: Tensor, qkv: Tensor, o: Tensor, bias: Tensor, position: Tensor,
        keep_weights: Tensor | None, keep_out: Tensor | None, scale: float, heads: int,
        links: Links = UNLINKED, part: ScoreGradient | None = None, mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        kernels = kernels_for(x)
        ctx.scale, ctx.heads, ctx.links, ctx.part = scale, heads, links, part
        ctx.fused = attends(x, qkv, heads)
        if kernels is not None and ctx.fused:
            out, met = project(x, norm, qkv, links.before)
            read = kernels.attend(out, bias, keep_weights, scale, heads, mask)
            ctx.save_for_backward(norm, qkv, o, out, bias, mask, read, keep_weights, keep_out, *met)
            return added(x, read @ o.T, keep_out, scale, links.after)
        assert mask is None
        order = Order(len(x), heads)
        out, met = project(x, norm, qkv, links.before)
        apart = order.apart(out, 3)
        q, k, v = apart
        scores = torch.bmm(q, k.transpose(1, 2)).unflatten(0, (len(x), heads))
        weights, read_by = softmax_kept(scores, bias, keep_weights, scale)
        read_by = read_by.flatten(0, 1)
        read = order.together(torch.bmm(read_by, v)[None])
        ctx.save_for_backward(
            norm, qkv, o, apart, weights, read_by, read, keep_weights, keep_out, *met
        )
        ctx.order = order
        return added(x, read @ o.T, keep_out, scale, links.after)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.fused:
            (norm, qkv, o, out, bias, mask, read, keep_weights, keep_out,
             *saved) = ctx.saved_tensors  # fmt: skip
            rows = dropped(grad, keep_out, ctx.scale, out.dtype, ctx.links.after)
            kernels = kernels_for(grad)
            assert kernels is not None
            shape = (len(grad), ctx.heads, *bias.shape[2:])
            place = None if ctx.part is None else ctx.part.place(rows, shape)
            moved, by_score = kernels.attend_back(
                rows @ o, out, bias, keep_weights, ctx.scale, ctx.heads, place, mask
            )
            d_x, d_norm, d_qkv = project_backward(
                moved, grad, tuple(saved), norm, qkv, ctx.links.before
            )
            if place is None:
                d_position = by_score.sum(0, keepdim=True, dtype=bias.dtype)
            else:
                d_position = ctx.part.total(bias.dtype)
            d_o = rows.T @ read
            return d_x, d_norm, d_qkv, d_o, None, d_position, *[None] * 7
        (norm, qkv, o, apart, weights, read_by, read, keep_weights, keep_out,
         *saved) = ctx.saved_tensors  # fmt: skip
        q, k, v = apart
        rows = dropped(grad, keep_out, ctx.scale, q.dtype, ctx.links.after)
        (d_read,) = ctx.order.apart(rows @ o, 1)
        moved = torch.empty_like(apart)
        torch.bmm(read_by.transpose(1, 2), d_read, out=moved[2])
        d_kept = torch.bmm(d_read, v.transpose(1, 2))
        d_scores = softmax_backward(d_kept, weights, keep_weights, ctx.scale)
        flat = d_scores.flatten(0, 1).to(q.dtype)
        torch.bmm(flat, k, out=moved[0])
        torch.bmm(flat.transpose(1, 2), q, out=moved[1])
        together = ctx.order.together(moved)
        d_x, d_norm, d_qkv = project_backward(
            together, grad, tuple(saved), norm, qkv, ctx.links.before
        )
        d_position = d_scores.sum(0, keepdim=True, dtype=weights.dtype)
        return d_x, d_norm, d_qkv, rows.T @ read, None, d_position, *[None] * 7


class CrossAttention(torch.autograd.Function):
    """x + scale^2 keep_out (softmax(q k^T + bias) keep_weights v) W_o^T, with q of the normed x and
    k, v of a memory.

    Scores are (q W_k) memory^T in place of q (memory W_k^T)^T, and values likewise: the same sums
    in another order, in which the memory meets no weights. With few queries that is the cheaper
    order, and no keys and values have to be kept for the way back.

    Args of forward:
        x: [B, T, d]. memory: [B, M, d], in the type of the weights. norm: [d]. q, k, v: [I, d].
        o: [d, I]. bias: [B, 1, 1, M], a constant. keep_weights: of [B, H, T, M].
        keep_out: of [B, T, d]. heads: H. links: with the blocks around it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, memory: Tensor, norm: Tensor, q: Tensor, k: Tensor, v: Tensor,
        o: Tensor, bias: Tensor, keep_weights: Tensor | None, keep_out: Tensor | None, scale: float,
        heads: int, links: Links = UNLINKED,
    ) -> Tensor:  # fmt: skip
        b, t, d = x.shape
        out, met = project(x, norm, q, links.before)
        query = out.view(b * t, heads, -1).transpose(0, 1)  # [H, B T, h]
        by_key, by_value = (w.view(heads, -1, d) for w in (k, v))  # [H, h, d]
        asked = torch.bmm(query, by_key)  # [H, B T, d]
        ctx.scale, ctx.links, kernels = scale, links, kernels_for(x)
        ctx.fused = kernels is not None and kernels.asks(memory, heads, t)
        scored: tuple[Tensor, ...]  # what the way back needs to know of the weights
        if kernels is not None and ctx.fused:
            seen, scored = kernels.ask(asked, memory, bias, keep_weights, scale), (bias,)
        else:
            asked = _by_row(asked, b)  # [B, H T, d]
            scores = torch.bmm(asked, memory.transpose(1, 2)).view(b, heads, t, -1)
            scored = softmax_kept(scores, bias, keep_weights, scale)
            seen = _by_head(torch.bmm(scored[1].flatten(1, 2), memory), heads)  # [H, B T, d]
        read = _beside(seen, by_value.transpose(1, 2))
        ctx.save_for_backward(
            memory, norm, q, k, v, o, query, asked, seen, read, keep_weights, keep_out, *met,
            *scored,
        )  # fmt: skip
        return added(x, read @ o.T, keep_out, scale, links.after)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (memory, norm, q, k, v, o, query, asked, seen, read, keep_weights, keep_out,
         *rest) = ctx.saved_tensors  # fmt: skip
        saved, scored = tuple(rest[:4]), rest[4:]
        (heads, n, _), (b, _, d) = query.shape, memory.shape
        rows = dropped(grad, keep_out, ctx.scale, memory.dtype, ctx.links.after)
        d_read = (rows @ o).view(n, heads, -1).transpose(0, 1)  # [H, B T, h]
        d_value = torch.bmm(d_read.transpose(1, 2), seen)  # [H, h, d]
        d_seen = torch.bmm(d_read, v.view(heads, -1, d))  # [H, B T, d]
        if ctx.fused:
            kernels = kernels_for(grad)
            assert kernels is not None
            d_asked, d_memory = kernels.ask_back(
                d_seen, asked, memory, *scored, keep_weights, ctx.scale
            )
        else:
            weights, read_by = scored
            d_seen = _by_row(d_seen, b)  # [B, H T, d]
            d_kept = torch.bmm(d_seen, memory.transpose(1, 2))
            d_scores = softmax_backward(d_kept, weights, keep_weights, ctx.scale)
            flat = d_scores.flatten(1, 2).to(memory.dtype)
            d_memory = torch.bmm(read_by.flatten(1, 2).transpose(1, 2), d_seen)
            d_memory = torch.baddbmm(d_memory, flat.transpose(1, 2), asked)
            d_asked = _by_head(torch.bmm(flat, memory), heads)  # [H, B T, d]
        d_key = torch.bmm(query.transpose(1, 2), d_asked)  # [H, h, d]
        d_query = _beside(d_asked, k.view(heads, -1, d).transpose(1, 2))
        d_x, d_norm, d_q = project_backward(d_query, grad, saved, norm, q, ctx.links.before)
        return (
            d_x, d_memory, d_norm, d_q, d_key.flatten(0, 1), d_value.flatten(0, 1),
            rows.T @ read, None, None, None, None, None, None,
        )  # fmt: skip


def _beside(x_HxNxd: Tensor, weight_Hxdxh: Tensor) -> Tensor:
    """x W of each head, one beside the other, [N, H h]."""
    (heads, n, _), h = x_HxNxd.shape, weight_Hxdxh.shape[-1]
    if kernels_for(x_HxNxd) is None:
        return torch.bmm(x_HxNxd, weight_Hxdxh).transpose(0, 1).flatten(1)
    out = x_HxNxd.new_empty(n, heads, h)
    torch.bmm(x_HxNxd, weight_Hxdxh, out=out.transpose(0, 1))  # there, and not copied there
    return out.flatten(1)


def _by_row(x_HxBTxd: Tensor, rows: int) -> Tensor:
    """[H, B T, d] -> [B, H T, d]"""
    heads, _, d = x_HxBTxd.shape
    return x_HxBTxd.view(heads, rows, -1, d).transpose(0, 1).reshape(rows, -1, d)


def _by_head(x_BxHTxd: Tensor, heads: int) -> Tensor:
    """[B, H T, d] -> [H, B T, d]"""
    rows, _, d = x_BxHTxd.shape
    return x_BxHTxd.view(rows, heads, -1, d).transpose(0, 1).reshape(heads, -1, d)


class FeedForward(torch.autograd.Function):
    """x + scale^2 keep_out (relu(normed x W_in^T) keep_hidden) W_out^T.

    Args of forward:
        x: [B, T, d]. norm: [d]. wide: [F, d]. narrow: [d, F]. keep_hidden: of [B T, F].
        keep_out: of [B, T, d]. links: with the blocks around it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm: Tensor, wide: Tensor, narrow: Tensor,
        keep_hidden: Tensor | None, keep_out: Tensor | None, scale: float,
        links: Links = UNLINKED,
    ) -> Tensor:  # fmt: skip
        out, met = project(x, norm, wide, links.before)
        hidden = relu_kept_(out, keep_hidden, scale)
        ctx.save_for_backward(norm, wide, narrow, hidden, keep_out, *met)
        ctx.scale, ctx.links = scale, links
        return added(x, hidden @ narrow.T, keep_out, scale, links.after)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        norm, wide, narrow, hidden, keep_out, *saved = ctx.saved_tensors
        rows = dropped(grad, keep_out, ctx.scale, narrow.dtype, ctx.links.after)
        d_hidden = rows @ narrow
        # What was dropped is zero in hidden, as what relu cut off is, and gets no gradient either.
        torch.ops.aten.threshold_backward.grad_input(d_hidden, hidden, 0, grad_input=d_hidden)
        d_x, d_norm, d_wide = project_backward(
            d_hidden, grad, tuple(saved), norm, wide, ctx.links.before
        )
        return d_x, d_norm, d_wide, rows.T @ hidden, None, None, None, None


class Gathered(torch.autograd.Function):
    """Matrices one below the other, and of this type, all in a few launches.

    Args of forward:
        dtype: of the outputs. numbers: of the matrices that make up each output.
        matrices: [O, d] each, those of one output of the same d.
    """

    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, numbers: Sequence[int], *matrices: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.shapes, ctx.dtype = [m.shape for m in matrices], matrices[0].dtype
        flat = torch.cat([m.flatten() for m in matrices]).to(dtype)
        found, at, first = [], 0, 0
        for number in numbers:
            some = ctx.shapes[first : first + number]
            rows, width = sum(shape[0] for shape in some), some[0][1]
            found.append(flat[at : at + rows * width].view(rows, width))
            at, first = at + rows * width, first + number
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat = torch.cat([grad.flatten() for grad in grads]).to(ctx.dtype)
        parts = flat.split([shape.numel() for shape in ctx.shapes])
        back = (part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True))
        return None, None, *back


def gathered(dtype: torch.dtype, groups: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """The matrices of each group one below the other; see ``Gathered``."""
    matrices = [matrix for group in groups for matrix in group]
    return Gathered.apply(dtype, [len(group) for group in groups], *matrices)  # type: ignore[no-untyped-call, no-any-return]


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """See ``RMSNorm``."""
    return RMSNorm.apply(x, weight)  # type: ignore[no-untyped-call]


def attends(x: Tensor, qkv: Tensor, heads: int) -> bool:
    """Whether a kernel has room for self-attention of x by these weights; see ``SelfAttention``."""
    kernels, head = kernels_for(x), len(qkv) // 3 // heads
    return kernels is not None and bool(kernels.attends(qkv, x.shape[1], head))


def self_attention(*arguments: Any) -> Tensor:
    """See ``SelfAttention.forward``."""
    return SelfAttention.apply(*arguments)  # type: ignore[no-untyped-call]


def cross_attention(*arguments: Any) -> Tensor:
    """See ``CrossAttention.forward``."""
    return CrossAttention.apply(*arguments)  # type: ignore[no-untyped-call]


def feed_forward(*arguments: Any) -> Tensor:
    """See ``FeedForward.forward``."""
    return FeedForward.apply(*arguments)  # type: ignore[no-untyped-call]
