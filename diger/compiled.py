"""A stack of the encoder-decoder, each way in one autograd function, around ``diger.blocks``.

It computes what ``diger.seq2seq.Stack`` does with ``diger.functional``, dropout included, on a CPU
in float32. Shapes: B rows, T tokens, M tokens of memory, N = B T, d width, H heads, h head width,
I = H h, F hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from diger import blocks as compiled_blocks
from diger import loops
from diger.keep import cut, draw_keys
from diger.passes import EPSILON

if TYPE_CHECKING:
    from diger.seq2seq import Stack

Array = NDArray[np.float32]
blocks: Any = compiled_blocks  # called with what is one behind the other in lists
Shape = tuple[int, ...]

#: How many weights a block has, by what it does.
WEIGHTS = {"self": 5, "cross": 5, "forward": 3}
#: Float32 of a cache line, where arrays begin, and what is left free between them: at the same
#: place of a page, they would share the few lines that the nearest cache has for it.
LINE, GAP = 16, 80


class Call(NamedTuple):
    """What a stack is run with, beside tensors that take gradients.

    bias: [T, H T], added to the scores, those of a key's queries head by head, as a constant.
    mask: [B, T], and memory_mask: [B, M], added to those of a key. keys: of the dropouts, in their
    order. cut, scale: see ``diger.keep``.
    """

    decoder: bool
    layers: int
    heads: int
    bias: Array
    mask: Array
    memory_mask: Array
    keys: Sequence[int]
    cut: int
    scale: float


class Block(NamedTuple):
    """One step of a stack: what it does, its weights, keys and so on as ``diger.blocks`` takes
    them, what it makes, and the residual stream in front of it and behind it, [N, d]."""

    does: str
    weights: list[Array]
    drops: tuple[int, int, int, float]
    made: list[Array]
    stream: Array
    out: Array


def takes(x: Tensor, mask_bias: Tensor, memory_bias: Tensor | None) -> bool:
    """Whether masks are such that ``run`` takes them: one for each row by key, or, of the scores of
    self-attention, one for all rows."""
    b, t, _ = x.shape
    by_key = mask_bias.shape == (b, 1, 1, t)
    of_memory = memory_bias is None or memory_bias.shape == (b, 1, 1, memory_bias.shape[-1])
    return of_memory and (by_key or mask_bias.shape == (t, t))


def run(
    stack: Stack, x: Tensor, mask_bias: Tensor, memory: Tensor | None, memory_bias: Tensor | None
) -> Tensor:
    """See ``Stack.forward``; ``takes`` says of which masks."""
    (b, t, _), layers = x.shape, list(stack.blocks)
    heads: int = layers[0].self_attention.heads  # type: ignore[union-attr, assignment]
    position = stack.position_bias(t, t)
    by_key = mask_bias.ndim == 4
    bias = position.detach()[0] if by_key else position.detach()[0] + mask_bias
    dropouts = 2 + sum(layer.masks for layer in layers)  # type: ignore[misc]
    scale = 1 / (1 - stack.dropout) if stack.drops else 1.0
    call = Call(
        stack.decoder, len(layers), heads,
        _array(bias.permute(2, 0, 1).reshape(t, heads * t)),
        _array(mask_bias[:, 0, 0]) if by_key else np.zeros((b, t), np.float32),
        np.zeros((b, 0), np.float32) if memory_bias is None else _array(memory_bias[:, 0, 0]),
        draw_keys(x, dropouts).tolist() if stack.drops else [0] * dropouts, cut(scale), scale,
    )  # fmt: skip
    weights = [weight for layer in layers for weight in layer.parts]  # type: ignore[union-attr]
    return Run.apply(call, x, position, memory, *weights, stack.norm.weight)  # type: ignore[no-untyped-call, no-any-return]


class Run(torch.autograd.Function):
    """Dropout, the blocks, a norm and dropout.

    Args of forward:
        x: [B, T, d]. position: [1, H, T, T], the part of the bias that is learned: it only receives
        the gradient. memory: [B, M, d], or None. weights: ``parts`` of each ``diger.seq2seq.Block``
        and the norm's.
    """

    @staticmethod
    def forward(
        ctx: Any, call: Call, x: Tensor, position: Tensor, memory: Tensor | None, *weights: Tensor
    ) -> Tensor:
        arrays, shapes = [_array(weight) for weight in weights], _shapes(call, x, weights)
        pieces, out, behind = [x.new_empty(_room(some)) for some in shapes], *_like(x, x)
        (stream, scale), *made = (_cut(*both) for both in zip(pieces, shapes, strict=True))
        loops.drop(_rows(x), stream, 0, call.keys[0], call.cut, call.scale)
        for block in _blocks(call, arrays, stream, made):
            own = block.stream, *block.weights
            to = *block.drops, *block.made, block.out
            if block.does == "self":
                blocks.self_attention(*own, call.mask, call.heads, call.bias, *to)
            elif block.does == "cross":
                assert memory is not None
                blocks.cross_attention(*own, call.memory_mask, call.heads, _rows(memory), *to)
            else:
                blocks.feed_forward(*own, *to)
            stream = block.out
        loops.norm_times(stream, arrays[-1], scale, _rows(behind), EPSILON)
        loops.drop(_rows(behind), _rows(out), 0, call.keys[-1], call.cut, call.scale)
        ctx.call = call
        ctx.save_for_backward(x, memory, *weights, *pieces)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        x, memory, *saved = ctx.saved_tensors
        weights, pieces = saved[: _weights(call)], saved[_weights(call) :]
        arrays, shapes = [_array(weight) for weight in weights], _shapes(call, x, weights)
        (stream, scale), *made = (_cut(*both) for both in zip(pieces, shapes, strict=True))
        order = list(_blocks(call, arrays, stream, made))
        sizes = [weight.numel() for weight in weights]
        pieces = x.new_empty(sum(sizes)).split(sizes)
        found = [piece.view_as(weight) for piece, weight in zip(pieces, weights, strict=True)]
        to_fill = [_array(gradient) for gradient in found]

        behind, grad, d_x = _like(x, x, x)
        now = _rows(grad)
        loops.drop(_rows(grad_out), _rows(behind), 0, call.keys[-1], call.cut, call.scale)
        loops.norm_times_back(_rows(behind), arrays[-1], order[-1].out, scale, now, to_fill.pop())
        t = x.shape[1]
        d_bias = np.zeros((t, call.heads * t), np.float32)
        d_memory = None if memory is None else _like(memory)[0].zero_()
        for block in reversed(order):
            own, gradients = (block.stream, *block.weights), to_fill[-len(block.weights) :]
            del to_fill[-len(block.weights) :]
            to = *block.drops, *block.made, now, *gradients
            if block.does == "self":
                blocks.self_attention_back(*own, call.mask, call.heads, *to, d_bias)
            elif block.does == "cross":
                assert memory is not None and d_memory is not None
                blocks.cross_attention_back(
                    *own, call.memory_mask, call.heads, _rows(memory), *to, _rows(d_memory)
                )
            else:
                blocks.feed_forward_back(*own, *to)
        loops.drop(now, _rows(d_x), 0, call.keys[0], call.cut, call.scale)
        d_position = torch.from_numpy(d_bias).view(t, call.heads, t).permute(1, 2, 0)[None]
        return None, d_x, d_position, d_memory, *found


def _blocks(
    call: Call, weights: Sequence[Array], stream: Array, made: Sequence[list[Array]]
) -> Iterator[Block]:
    own, keys = iter(weights), iter(call.keys[1:])
    for does, (*left, out) in zip(_does(call) * call.layers, made, strict=True):
        drops = next(keys), next(keys), call.cut, call.scale * call.scale
        yield Block(does, list(islice(own, WEIGHTS[does])), drops, left, stream, out)
        stream = out


def _does(call: Call) -> tuple[str, ...]:
    return ("self", "cross", "forward") if call.decoder else ("self", "forward")


def _weights(call: Call) -> int:
    """How many there are, the last norm's among them."""
    return call.layers * sum(WEIGHTS[does] for does in _does(call)) + 1


def _shapes(call: Call, x: Tensor, weights: Sequence[Tensor]) -> list[list[Shape]]:
    """Of the stream in front of all blocks and the last norm's scale; and of what each block makes,
    with the stream behind it."""
    (b, m), (_, t, d), heads = call.memory_mask.shape, x.shape, call.heads
    n, inner, hidden = b * t, len(weights[1]), len(weights[-3])
    made: dict[str, list[Shape]] = {
        "self": [(n,), (n, 3 * inner), (n * heads * t,), (n, inner), (n, d)],
        "cross": [
            (n,), (n, inner), (heads * n, d), (n * heads * m,), (heads * n, d), (n, inner), (n, d),
        ],
        "forward": [(n,), (n, hidden), (n, d)],
    }  # fmt: skip
    return [[(n, d), (n,)], *[made[does] for does in _does(call)] * call.layers]


def _room(shapes: Sequence[Shape]) -> int:
    return sum(_step(shape) for shape in shapes)


def _step(shape: Shape) -> int:
    """From where an array of this shape begins to where the next one does."""
    return -(-math.prod(shape) // LINE) * LINE + GAP


def _cut(flat: Tensor, shapes: Sequence[Shape]) -> list[Array]:
    whole, found, at = flat.numpy(), [], 0
    for shape in shapes:
        found.append(whole[at : at + math.prod(shape)].reshape(shape))
        at += _step(shape)
    return found


def _array(x: Tensor) -> Array:
    found: Array = x.detach().contiguous().numpy()
    return found


def _rows(x: Tensor) -> Array:
    """[N, d] of [B, T, d]."""
    return _array(x).reshape(-1, x.shape[-1])


def _like(*tensors: Tensor) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors]
