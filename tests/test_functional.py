"""The blocks with gradients written out against the same made of single operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmark.speed import batched
from diger import functional
from diger.dropout import keep_mask
from diger.functional import quantisation_loss, straight_through

B, T, M, D, H, HEAD, WIDE = 3, 5, 7, 6, 2, 4, 9
INNER = H * HEAD


def numbers(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def mask(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return keep_mask(torch.zeros(shape, dtype=dtype), 0.3)


def padding(columns: int) -> Tensor:
    """[B, 1, 1, columns]: the lowest finite value where a row is shorter."""
    lengths = torch.tensor([columns, 2, 1])
    hidden = torch.arange(columns) >= lengths[:, None]
    return (hidden.double() * torch.finfo(torch.float64).min)[:, None, None]


def self_attention(kept: bool) -> tuple[str, list[object], list[Tensor]]:
    x, norm, qkv, o = numbers(B, T, D), numbers(D), numbers(3 * INNER, D), numbers(D, INNER)
    position = numbers(1, H, T, T)
    bias = position.detach() + padding(T)
    masks = [mask(B, H, T, T), mask(B, T, D)] if kept else [None, None]
    return "self_attention", [x, norm, qkv, o, bias, position, *masks, H], [
        x, norm, qkv, o, position
    ]  # fmt: skip


def cross_attention(kept: bool) -> tuple[str, list[object], list[Tensor]]:
    x, memory, norm = numbers(B, T, D), numbers(B, M, D), numbers(D)
    weights = [numbers(INNER, D) for _ in "qkv"] + [numbers(D, INNER)]
    masks = [mask(B, H, T, M), mask(B, T, D)] if kept else [None, None]
    return "cross_attention", [x, memory, norm, *weights, padding(M), *masks, H], [
        x, memory, norm, *weights
    ]  # fmt: skip


def feed_forward(kept: bool) -> tuple[str, list[object], list[Tensor]]:
    x, norm, wide, narrow = numbers(B, T, D), numbers(D), numbers(WIDE, D), numbers(D, WIDE)
    masks = [mask(B * T, WIDE), mask(B, T, D)] if kept else [None, None]
    return "feed_forward", [x, norm, wide, narrow, *masks], [x, norm, wide, narrow]


def rms_norm(kept: bool) -> tuple[str, list[object], list[Tensor]]:
    x, weight = numbers(B, T, D), numbers(D)
    return "rms_norm", [x, weight], [x, weight]


@pytest.mark.parametrize("kept", [True, False], ids=["dropout", "no dropout"])
@pytest.mark.parametrize("make", [rms_norm, self_attention, cross_attention, feed_forward])
def test_a_block_is_what_its_operations_make(
    make: Callable[[bool], tuple[str, list[object], list[Tensor]]], kept: bool
) -> None:
    torch.manual_seed(0)
    name, arguments, leaves = make(kept)
    weights = torch.randn(B, T, D, dtype=torch.float64)
    found = []
    for module in (functional, batched):
        out = getattr(module, name)(*arguments)
        grads = torch.autograd.grad((out * weights).sum(), leaves)
        found.append([out, *grads])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("make", [self_attention, cross_attention, feed_forward])
def test_a_block_takes_a_stream_in_pieces(
    make: Callable[[bool], tuple[str, list[object], list[Tensor]]],
) -> None:
    """Rows that do not lie side by side, as a slice of a batch does not."""
    torch.manual_seed(0)
    name, arguments, leaves = make(True)
    whole = torch.randn(B, 2 * T, D, dtype=torch.float64)
    whole[:, ::2] = leaves[0].detach()
    apart = whole[:, ::2].requires_grad_()
    assert not apart.is_contiguous()
    results = []
    for x in (leaves[0], apart):
        out = getattr(functional, name)(x, *arguments[1:])
        (grad,) = torch.autograd.grad(out.square().sum(), x)
        results.append((out, grad))
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("make", [self_attention, cross_attention, feed_forward])
def test_bfloat16_products_beside_a_float32_stream(
    make: Callable[[bool], tuple[str, list[object], list[Tensor]]],
) -> None:
    """The stream and its gradient stay float32, weights get gradients of their own type."""
    torch.manual_seed(0)
    name, arguments, leaves = make(True)
    stream = [leaves[0], *(a for a in arguments if isinstance(a, Tensor) and a.ndim == 4)]
    cast: list[object] = []
    for a in arguments:
        if not isinstance(a, Tensor):
            cast.append(a)
            continue
        kept = any(a is s for s in stream) or a.ndim == 1 or a.shape == (B, T, D)
        value = a.detach().clamp_min(torch.finfo(torch.float32).min)
        cast.append(value.to(torch.float32 if kept else torch.bfloat16).requires_grad_())
    inputs = [a for a in cast if isinstance(a, Tensor)]
    out = getattr(functional, name)(*cast)
    assert out.dtype == torch.float32
    grads = torch.autograd.grad(out.sum(), inputs, allow_unused=True)
    exact = getattr(functional, name)(*arguments)
    torch.testing.assert_close(out, exact.float(), atol=0.3, rtol=0.1)
    for tensor, grad in zip(inputs, grads, strict=True):
        assert grad is None or (grad.dtype == tensor.dtype and bool(grad.isfinite().all()))
    assert grads[0] is not None


def test_straight_through_is_hard_forward_and_soft_backward() -> None:
    soft = torch.rand(4, 3, dtype=torch.float64).requires_grad_()
    out = straight_through(soft, torch.tensor([2, 0, 0, 1]))
    assert out.tolist() == [[0, 0, 1], [1, 0, 0], [1, 0, 0], [0, 1, 0]]
    weights = torch.randn(4, 3, dtype=torch.float64)
    (grad,) = torch.autograd.grad((out * weights).sum(), soft)
    assert grad.equal(weights)


@pytest.mark.parametrize("weighted", [True, False])
def test_quantisation_loss_is_codebook_plus_commitment(weighted: bool) -> None:
    torch.manual_seed(0)
    e, r = numbers(4, 3), numbers(4, 3)
    weight = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64) if weighted else None
    share = torch.full((4,), 0.25, dtype=torch.float64) if weight is None else weight

    def mean(x: Tensor) -> Tensor:
        return (x.square().sum(1) * share).sum()

    want = mean(e - r.detach()) + 0.25 * mean(r - e.detach())
    got = quantisation_loss(e, r, 0.25, weight)
    torch.testing.assert_close(got, want)
    for ours, plain in zip(
        torch.autograd.grad(3 * got, (e, r)), torch.autograd.grad(3 * want, (e, r)), strict=True
    ):
        torch.testing.assert_close(ours, plain)
