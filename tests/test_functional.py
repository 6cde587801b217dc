"""The blocks with gradients written out against the same made of single operations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from benchmark.speed import batched
from diger import codes, functional, passes
from diger.codes import quantisation_loss, straight_through
from diger.keep import draw_keep
from diger.seq2seq import ModelConfig, Seq2Seq

B, T, M, D, H, HEAD, WIDE = 3, 5, 7, 6, 2, 4, 9
INNER = H * HEAD
SCALE = 1 / (1 - 0.3)


def numbers(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def mask(*shape: int) -> Tensor:
    return draw_keep(torch.zeros(()), shape, 0.3)


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
    return "self_attention", [x, norm, qkv, o, bias, position, *masks, SCALE if kept else 1.0, H], [
        x, norm, qkv, o, position
    ]  # fmt: skip


def cross_attention(kept: bool) -> tuple[str, list[object], list[Tensor]]:
    x, memory, norm = numbers(B, T, D), numbers(B, M, D), numbers(D)
    weights = [numbers(INNER, D) for _ in "qkv"] + [numbers(D, INNER)]
    masks = [mask(B, H, T, M), mask(B, T, D)] if kept else [None, None]
    scale = SCALE if kept else 1.0
    return "cross_attention", [x, memory, norm, *weights, padding(M), *masks, scale, H], [
        x, memory, norm, *weights
    ]  # fmt: skip


def feed_forward(kept: bool) -> tuple[str, list[object], list[Tensor]]:
    x, norm, wide, narrow = numbers(B, T, D), numbers(D), numbers(WIDE, D), numbers(D, WIDE)
    masks = [mask(B * T, WIDE), mask(B, T, D)] if kept else [None, None]
    return (
        "feed_forward",
        [x, norm, wide, narrow, *masks, SCALE if kept else 1.0],
        [x, norm, wide, narrow],
    )


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


def test_a_model_of_composed_blocks_is_the_same() -> None:
    """As ``benchmark.speed`` batches them: what the model hands to its blocks is what they take."""
    torch.manual_seed(0)
    model = Seq2Seq(ModelConfig(2, D, 8, H, HEAD, dropout=0.0, init_std=0.3)).train()
    history, there = torch.randn(B, T, D), torch.ones(B, T, dtype=torch.bool)
    along, found = torch.randn(B, T, D), []
    for blocks in (nullcontext(), batched.composed()):
        with blocks:
            states = model.decode(history, model.encode(history, there), there)
        found.append(torch.autograd.grad((states * along).sum(), list(model.parameters())))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-3)


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
        if not isinstance(a, Tensor) or not a.is_floating_point():
            cast.append(a)
            continue
        kept = any(a is s for s in stream) or a.ndim == 1 or a.shape == (B, T, D)
        value = a.detach().clamp_min(torch.finfo(torch.float32).min)
        if a.ndim == 2 and a.requires_grad:
            value *= 0.3  # or scores are so large that their last bit decides between keys
        cast.append(value.to(torch.float32 if kept else torch.bfloat16).requires_grad_())
    inputs = [a for a in cast if isinstance(a, Tensor) and a.is_floating_point()]
    out = getattr(functional, name)(*cast)
    assert out.dtype == torch.float32
    grads = torch.autograd.grad(out.sum(), inputs, allow_unused=True)
    exact = getattr(functional, name)(
        *(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in cast)
    )
    torch.testing.assert_close(out, exact.float(), atol=0.1, rtol=0.05)
    for tensor, grad in zip(inputs, grads, strict=True):
        assert grad is None or (grad.dtype == tensor.dtype and bool(grad.isfinite().all()))
    assert grads[0] is not None


@pytest.mark.parametrize("kept", [True, False], ids=["dropout", "no dropout"])
@pytest.mark.parametrize("make", [rms_norm, self_attention, cross_attention, feed_forward])
@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_loops_do_what_the_operations_do_that_they_stand_for(
    make: Callable[[bool], tuple[str, list[object], list[Tensor]]],
    kept: bool,
    products: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert passes.loops_for(torch.zeros(1)) is not None
    torch.manual_seed(0)
    name, arguments, _ = make(kept)
    weight_of = {
        "self_attention": (2, 3),
        "cross_attention": (1, 3, 4, 5, 6),
        "feed_forward": (2, 3),
    }
    given: list[object] = []
    for i, a in enumerate(arguments):
        if not isinstance(a, Tensor) or not a.is_floating_point():
            given.append(a)
            continue
        lowest = torch.finfo(torch.float32).min
        product = i in weight_of.get(name, ())
        value = a.detach().clamp_min(lowest).to(products if product else torch.float32)
        given.append(value.requires_grad_(a.requires_grad))
    leaves = [a for a in given if isinstance(a, Tensor) and a.requires_grad]
    found = []
    for loops in (True, False):
        if not loops:
            monkeypatch.setattr(passes, "loops_for", lambda *_: None)
        out = getattr(functional, name)(*given)
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    atol, rtol = (1e-3, 1e-4) if products == torch.float32 else (0.5, 0.05)
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, atol=atol, rtol=rtol)


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


def test_the_quantisation_loss_of_a_loop_is_that_of_operations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    e, r = numbers(9, 5, dtype=torch.float32), numbers(9, 5, dtype=torch.float32)
    weight, found = torch.rand(9).softmax(0), []
    for _ in range(2):
        loss = quantisation_loss(e, r, 0.25, weight)
        found.append([loss, *torch.autograd.grad(3 * loss, (e, r))])
        monkeypatch.setattr(codes, "loops_for", lambda *_: None)
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("shape", [(), (4,)], ids=["a scalar", "a number a code"])
def test_codes_behind_noise_in_a_loop_are_those_of_operations(shape: tuple[int, ...]) -> None:
    """With noise for the first rows alone, and a scale that is learned."""
    torch.manual_seed(0)
    logits = numbers(9, 4, dtype=torch.float32)
    scale, noise = torch.rand(shape).requires_grad_(), torch.randn(7, 4)
    noisy = logits + scale * torch.cat([noise, torch.zeros(2, 4)])
    soft = (noisy / 0.7).softmax(-1)
    plain = straight_through(soft, noisy.argmax(-1))
    ours = codes.relaxed_rows(logits, scale, noise, 0.7)
    assert ours.equal(plain)
    along = torch.randn(9, 4)
    grads = [torch.autograd.grad((y * along).sum(), (logits, scale)) for y in (ours, plain)]
    for own, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(own, wanted)


def test_of_equal_numbers_the_first_is_the_largest() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [-1.0, -5.0, 0.0]])
    assert codes.largest(x).tolist() == x.argmax(-1).tolist() == [1, 0, 2]
