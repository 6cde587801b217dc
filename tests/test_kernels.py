"""The kernels for a GPU against torch's operations, by Triton's interpreter on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.speed import kernels as check
from diger import codes, estimators, functional, gpu, keep, positions, rqvae, seq2seq
from diger.cached import FrequencyDecayCached
from diger.estimators import Estimator, Gumbel, StandardDeviationDecay
from diger.keep import cut, draw_keys, mask
from diger.optimizer import FlatAdamW
from diger.positions import ScoreGradients
from diger.quantizer import Sinkhorn, make_assignment, quantize, squared_distances
from diger.residual import Link, Links
from diger.rqvae import RQVAE, RQVAEConfig
from diger.seq2seq import ModelConfig, Seq2Seq

B, T, M, D, H, HEAD, WIDE = 3, 5, 7, 16, 2, 16, 9
INNER = H * HEAD
SCALE = 1 / (1 - 0.3)
#: A loss of normed states: their squares' sum is as good as the same whatever the model does.
ALONG = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("triton", reason="Triton is not installed")
    assert os.environ["TRITON_INTERPRET"] == "1"  # conftest.py: before anything imports Triton
    from diger import kernels

    # The interpreter has no products of bfloat16.
    monkeypatch.setattr(kernels.attention, "FUSED_TYPES", (torch.float32,))
    return kernels


def numbers(*shape: int) -> Tensor:
    return (torch.randn(*shape) * 0.5).requires_grad_()


def padding(columns: int) -> Tensor:
    hidden = torch.arange(columns) >= torch.tensor([columns, 2, 1])[:, None]
    return (hidden.float() * torch.finfo(torch.float32).min)[:, None, None]


def key(kept: bool) -> Tensor | None:
    return draw_keys(torch.zeros(()), 1) if kept else None


def self_attention(kept: bool) -> list[object]:
    position = numbers(1, H, T, T)
    return [
        numbers(B, T, D), numbers(D), numbers(3 * INNER, D), numbers(D, INNER),
        position.detach() + padding(T), position, key(kept), key(kept),
        SCALE if kept else 1.0, H,
    ]  # fmt: skip


def cross_attention(kept: bool) -> list[object]:
    weights = [numbers(INNER, D) for _ in "qkv"] + [numbers(D, INNER)]
    return [
        numbers(B, T, D), numbers(B, M, D), numbers(D), *weights, padding(M), key(kept), key(kept),
        SCALE if kept else 1.0, H,
    ]  # fmt: skip


def feed_forward(kept: bool) -> list[object]:
    return [
        numbers(B, T, D), numbers(D), numbers(WIDE, D), numbers(D, WIDE), key(kept), key(kept),
        SCALE if kept else 1.0,
    ]  # fmt: skip


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "apart"])
@pytest.mark.parametrize("kept", [True, False], ids=["dropout", "no dropout"])
@pytest.mark.parametrize("make", [self_attention, cross_attention, feed_forward])
def test_a_block_is_the_same_by_kernels(
    make: Callable[[bool], list[object]], kept: bool, fused: bool, kernels: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    monkeypatch.setattr(kernels.draws, "TILE", 64)  # several blocks of a few rows each
    if not fused:
        monkeypatch.setattr(kernels.attention, "FUSED_TYPES", ())
    block, arguments = getattr(functional, make.__name__), make(kept)
    leaves = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
    weights = torch.randn(B, T, D)
    found = []
    for on_gpu in (False, True):
        monkeypatch.setattr(gpu, "on_gpu", lambda x, on_gpu=on_gpu: on_gpu)
        out = block(*arguments)
        found.append([out, *torch.autograd.grad((out * weights).sum(), leaves)])
    for torchs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("of_codes", [True, False], ids=["a scale each", "one scale"])
def test_relaxed_codes(
    of_codes: bool, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draws are those of ``draws``; beyond that, what torch's operations make of them."""
    monkeypatch.setattr(gpu, "on_gpu", lambda x: True)
    monkeypatch.setattr(kernels.draws, "TILE", 64)
    torch.manual_seed(0)
    n, k, tau = 37, 20, 1.7
    logits, key = torch.randn(n, k).requires_grad_(), draw_keys(torch.zeros(()), 1)
    scale = torch.rand(k) * (torch.rand(k) > 0.5) if of_codes else torch.tensor(0.8)
    hard = codes.relaxed(logits, scale, key, tau)
    grad = torch.randn(n, k)
    (found,) = torch.autograd.grad((hard * grad).sum(), logits)
    uniform = torch.from_numpy((keep.draws(n * k, int(key)) + 0.5) / 2**32).view(n, k)
    noisy = logits + scale * -(-uniform.log()).log().float()
    wanted = torch.nn.functional.one_hot(noisy.argmax(-1), k).float()
    torch.testing.assert_close(hard, wanted, atol=0, rtol=0)
    soft = (noisy / tau).softmax(-1)
    (back,) = torch.autograd.grad((soft * grad).sum(), logits)
    torch.testing.assert_close(found, back, atol=1e-5, rtol=1e-4)


def test_noise_is_that_of_gumbel(kernels: ModuleType) -> None:
    """Codes of equal logits are drawn equally often, and of unequal ones as their softmax says."""
    torch.manual_seed(0)
    n = 20_000
    logits = torch.tensor([0.0, 1.0, -0.5, 0.3]).repeat(n, 1)
    _, hard = kernels.relax(logits, torch.ones(()), draw_keys(logits, 1), 1.0)
    share = logits[0].softmax(-1)
    error = (share * (1 - share) / n).sqrt()
    assert ((hard.mean(0) - share).abs() < 5 * error).all()


@pytest.mark.parametrize("name", ["gumbel", "sdud", "cached"])
def test_only_what_it_is_made_for_is_relaxed_in_one_launch(
    name: str, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "on_gpu", lambda x: True)
    made: dict[str, Estimator] = {
        "gumbel": Gumbel(2, 8),
        "sdud": StandardDeviationDecay(2, 8),
        "cached": FrequencyDecayCached(2, 8),
    }
    called = []

    def relaxed(logits: Tensor, *rest: object) -> Tensor:
        called.append(rest)
        return logits

    monkeypatch.setattr(estimators, "relaxed", relaxed)
    logits = torch.randn(5, 8)
    codes = torch.zeros(5, dtype=torch.int64)
    made[name].relax(logits, 0, torch.Generator().manual_seed(0), codes)
    assert bool(called) == (name == "gumbel")


@pytest.mark.parametrize("rule", ["argmin", "sinkhorn"])
@pytest.mark.parametrize("tile", [8192, 512, 64], ids=["one block", "3 blocks", "18 blocks"])
def test_a_step_of_the_tokenizer_is_the_same_by_kernels(
    tile: int, rule: str, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels.levels, "TILE", tile)
    monkeypatch.setattr(kernels.levels, "SOME", 4)
    monkeypatch.setattr(rqvae, "make_assignment", lambda name, _: make_assignment(name, False))
    torch.manual_seed(0)
    config = RQVAEConfig(hidden=(24,), latent=11, train_assignment=rule, beta=0.3)
    model, content = RQVAE(30, 3, 9, config), torch.randn(70, 30)
    rqvae.start_codebooks(model, content, 0)
    launches: Counter[str] = Counter()
    quantise = kernels.quantise
    monkeypatch.setattr(
        kernels, "quantise", lambda *given: launches.update([rule]) or quantise(*given)
    )
    found = []
    for on_gpu in (False, True):
        monkeypatch.setattr(gpu, "on_gpu", lambda x, on_gpu=on_gpu: on_gpu)
        loss = model.loss(content)
        along = loss.total * 0.7 + (loss.quantized * content[:, :11]).sum()  # as of LETTER's losses
        found.append([*loss, *torch.autograd.grad(along, list(model.parameters()))])
        assert launches[rule] == on_gpu
    assert len(found[0][4].unique()) == 9
    for torchs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs, atol=1e-5, rtol=1e-4)


def test_room_for_balanced_assignment(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than there may be blocks of go into larger blocks, up to twice as large."""
    assert kernels.quantises(4096, 256, 64)
    assert not kernels.quantises(4097, 256, 64)
    assert kernels.quantises(16, 1024, 64)
    assert not kernels.quantises(16, 1025, 64)
    assert kernels.quantises(1024, 16, 768)
    assert not kernels.quantises(1025, 16, 768)
    monkeypatch.setattr(kernels.levels, "PARTS", 2)
    monkeypatch.setattr(kernels.levels, "TILE", 128)
    monkeypatch.setattr(kernels.levels, "LARGE", 16 * 64)
    torch.manual_seed(0)
    latent, books = torch.randn(70, 8), torch.randn(2, 9, 8)
    found = kernels.quantise(latent, books, (0.003, 50))
    wanted = quantize(latent, books, Sinkhorn(waits=False))
    assert found.codes.equal(wanted.codes)
    torch.testing.assert_close(found.hard.argmax(-1).T, wanted.codes)
    torch.testing.assert_close(found.residuals[:-1].transpose(0, 1), wanted.residuals)


def test_rows_that_leave_float64_get_their_nearest_code(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the larger of a number and none is the number; numpy's is none."""
    from triton.runtime.interpreter import InterpreterBuilder

    monkeypatch.setattr(
        InterpreterBuilder, "create_maxnumf", lambda self, a, b: self.binary_op(a, b, np.fmax)
    )
    latent, books = torch.randn(40, 8), torch.randn(1, 9, 8)
    latent[3] = torch.nan
    plain = Sinkhorn(waits=False)(squared_distances(latent, books[0]))
    assert kernels.quantise(latent, books, (0.003, 50)).codes[:, 0].equal(plain)


def test_balanced_assignment_of_many_items_to_few_codes() -> None:
    """An item far from all codes, among many: factors stay numbers that float64 holds."""
    torch.manual_seed(0)
    distances = torch.rand(20_000, 4)
    distances[7] += 1.5
    rows, columns = Sinkhorn(waits=False)._scale((-distances.double() / 0.003 / 2).exp())
    assert torch.isfinite(rows).all()
    assert torch.isfinite(columns).all()


def test_without_a_compiler_there_are_no_kernels(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton finds out that it cannot compile when a kernel is launched for the first time."""

    def broken(*arguments: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nInstall one.")

    monkeypatch.setattr(kernels, "drop", broken)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: None)
    gpu._kernels.cache_clear()
    try:
        with pytest.warns(UserWarning, match="slower without .* Failed to find C compiler.$"):
            assert gpu._kernels() is None
    finally:
        gpu._kernels.cache_clear()


@pytest.mark.parametrize("apart", [False, True])
def test_queries_in_several_blocks(
    apart: bool, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More keys than a block has queries for; padding in the bias, and apart from it."""
    monkeypatch.setattr(kernels.attention, "WHOLE", 16)
    monkeypatch.setattr(kernels.attention, "PART", 16)
    torch.manual_seed(0)
    t = 37
    qkv, bias = torch.randn(2 * t, 3 * INNER) * 0.5, torch.randn(1, H, t, t)
    hidden = torch.zeros(2, 1, 1, t)
    hidden[1, ..., 20:] = torch.finfo(torch.float32).min
    given, padding = (bias, hidden) if apart else (bias + hidden, None)
    drawn, grad = draw_keys(qkv, 1), torch.randn(2 * t, INNER)
    inputs = [qkv.clone().requires_grad_(), (bias + hidden).requires_grad_()]
    q, k, v = inputs[0].view(2, t, 3, H, HEAD).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) + inputs[1]).softmax(-1)
    weights = weights * mask(weights, drawn, SCALE)
    read = (weights @ v).transpose(1, 2).reshape(2 * t, INNER)
    wanted = torch.autograd.grad((read * grad).sum(), inputs)
    torch.testing.assert_close(kernels.attend(qkv, given, drawn, SCALE, H, padding), read)
    found = kernels.attend_back(grad, qkv, given, drawn, SCALE, H, mask=padding)
    for ours, torchs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, torchs, atol=1e-5, rtol=1e-4)


def test_kernels_drop_what_the_mask_says(kernels: ModuleType) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(70, 41), torch.randn(70, 41)
    drawn = draw_keys(x, 1)
    wanted = mask(x, drawn, SCALE)
    assert 0 < wanted.mean() < 1
    kept = kernels.drop(x, drawn, SCALE, 1.5, torch.bfloat16)
    assert kept.dtype == torch.bfloat16
    torch.testing.assert_close(kept, (x * wanted * 1.5).bfloat16())
    torch.testing.assert_close(kernels.drop_add(x, y, drawn, SCALE, 2.0), x + y * wanted * 2)
    torch.testing.assert_close(kernels.relu_drop_(x.clone(), drawn, SCALE), x.relu() * wanted)
    odd = torch.tensor([torch.nan, 1.0, -1.0])
    torch.testing.assert_close(
        kernels.relu_drop_(odd.clone(), None, 1.0), odd.relu(), equal_nan=True
    )
    assert cut(1.0) == 0  # which keeps all and reads no key
    torch.testing.assert_close(kernels.drop(x, None, 1.0, 1.0, torch.float32), x)


def test_the_optimisers_steps_are_torchs(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first, by torch itself, those after it, and those of long after."""
    monkeypatch.setattr(kernels.draws, "TILE", 16)
    monkeypatch.setattr(gpu, "on_gpu", lambda x: True)
    torch.manual_seed(0)
    both: list[tuple[list[nn.Parameter], torch.optim.AdamW]] = []
    start = [torch.randn(*shape) for shape in ((3, 4), (7,), (5, 5))]
    for kind in (FlatAdamW, torch.optim.AdamW):
        weights = [nn.Parameter(value.clone()) for value in start]
        groups = [
            {"params": weights[:2], "lr": torch.tensor(0.1), "weight_decay": 0.05},
            {"params": weights[2:], "lr": torch.tensor(0.01), "weight_decay": 0.0},
        ]
        both.append((weights, kind(groups, fused=True)))
    calls: list[int] = []
    by_kernel = kernels.adamw_

    def counted(*given: Any) -> None:
        calls.append(len(given[0]))
        by_kernel(*given)

    monkeypatch.setattr(kernels, "adamw_", counted)
    for step in range(12):
        grads = [torch.randn_like(value) * 0.1**step for value in start]
        for weights, optimizer in both:
            for weight, grad in zip(weights, grads, strict=True):
                weight.grad = grad.clone()
            if isinstance(optimizer, FlatAdamW):
                optimizer.gather()
            optimizer.step()
            for group in optimizer.param_groups if step == 8 else []:
                for parameter in group["params"]:
                    optimizer.state[parameter]["step"] += 3000
        for ours, torchs in zip(both[0][0], both[1][0], strict=True):
            torch.testing.assert_close(ours, torchs)
    assert calls == [19, 25] * 11


@pytest.mark.parametrize("rows", [1, 33, 5000])
def test_a_norm_of_many_rows(
    rows: int, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One block, several, and several tiles of a block."""
    monkeypatch.setattr(kernels.rows, "PARTS", 16)
    torch.manual_seed(0)
    x, weight = numbers(rows, 24), numbers(24)
    grad, around = torch.randn(rows, 24), torch.randn(rows, 24)
    normed, scale = kernels.norm(x.detach(), weight.detach(), 1e-6, torch.float32)
    wanted = functional.rms_norm(x, weight)
    torch.testing.assert_close(normed, wanted)
    d_x, d_weight = torch.autograd.grad((wanted * grad).sum(), [x, weight])
    found = kernels.norm_back(around, grad, x.detach(), weight.detach(), scale)
    torch.testing.assert_close(found[0], around + d_x)
    torch.testing.assert_close(found[1], d_weight, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(gpu, "on_gpu", lambda x: True)
    alone = functional.rms_norm(x.view(rows, 1, 24), weight)
    torch.testing.assert_close(alone.view(rows, 24), wanted)
    by_kernels = torch.autograd.grad((alone.view(rows, 24) * grad).sum(), [x, weight])
    torch.testing.assert_close(by_kernels[0], d_x)
    torch.testing.assert_close(by_kernels[1], d_weight, rtol=1e-4, atol=1e-4)


def test_the_whole_model_is_the_same_by_kernels(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights gathered, positions by products, all blocks; without dropout, whose keys differ."""
    torch.manual_seed(0)
    config = ModelConfig(2, d_model=16, d_ff=8, heads=2, d_head=16, dropout=0.0, init_std=0.3)
    model = Seq2Seq(config).train()
    history, target = torch.randn(3, 6, 16), torch.randn(3, 4, 16)
    there = torch.arange(6) < torch.tensor([6, 3, 1])[:, None]
    found = []
    for on_gpu in (False, True):
        monkeypatch.setattr(gpu, "on_gpu", lambda x, on_gpu=on_gpu: on_gpu)
        states = model.decode(target, model.encode(history, there), there)
        grads = torch.autograd.grad((states * ALONG).sum(), list(model.parameters()))
        found.append([states, *grads])
    for torchs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs, atol=2e-4, rtol=1e-3)


def test_the_gradient_of_positions_is_summed_once_a_stack(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as layer by layer, which is how it is done where all would not have room; and a way
    back that ends in the middle of a stack leaves nothing behind for the next one."""
    monkeypatch.setattr(gpu, "on_gpu", lambda x: True)
    torch.manual_seed(0)
    config = ModelConfig(3, d_model=16, d_ff=8, heads=2, d_head=16, dropout=0.0, init_std=0.3)
    model = Seq2Seq(config).train()
    history, target = torch.randn(3, 6, 16), torch.randn(3, 4, 16)
    there = torch.arange(6) < torch.tensor([6, 3, 1])[:, None]
    tables = [model.encoder.position.weight, model.decoder.position.weight]
    sums: list[int] = []
    total = ScoreGradients.total

    def counted(self: ScoreGradients, layer: int, dtype: torch.dtype) -> Tensor | None:
        found = total(self, layer, dtype)
        sums.extend([layer] if found is not None else [])
        return found

    monkeypatch.setattr(ScoreGradients, "total", counted)
    found = []
    for room in (1 << 20, 0):
        monkeypatch.setattr(positions, "ROOM", room)
        states = model.decode(target, model.encode(history, there), there)
        loss = (states * ALONG).sum()
        for layer in (2, 1):
            own = dict(model.named_parameters())[f"decoder.blocks.{layer}.norm_ff.weight"]
            torch.autograd.grad(loss, [own], retain_graph=True)
        assert not sums
        found += [torch.autograd.grad(loss, tables, retain_graph=True) for _ in range(2)]
        assert sums == ([0] * 4 if room else [])
        sums.clear()
    for other in found[1:]:
        for together, apart in zip(found[0], other, strict=True):
            assert together.abs().max() > 1e-3
            torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-4)


def test_a_layer_that_was_left_out_is_no_gradient_of_positions() -> None:
    """Its part of the memory would be whatever was there."""
    gradients = ScoreGradients(3)
    for layer in (2, 0):
        assert gradients.place(layer, torch.zeros(()), (1, 2, 4, 4)) is not None
    with pytest.raises(AssertionError):
        gradients.total(0, torch.float32)


def test_dropout_of_a_stack_draws_its_keys_at_once(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "on_gpu", lambda x: True)
    config = ModelConfig(layers=2, d_model=16, d_ff=8, heads=2, d_head=16, dropout=0.2)
    model = Seq2Seq(config).train()
    history, there = torch.randn(3, 6, 16), torch.ones(3, 6, dtype=torch.bool)
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(model.decode(history[:, :4], model.encode(history, there), there))
    assert states[0].equal(states[1])
    assert not states[0].allclose(states[2])


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("layers", [1, 3])
def test_linked_blocks_compute_what_blocks_by_themselves_do(
    p: float, layers: int, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kernel across two blocks in place of two, forwards and backwards, with the same keys."""
    monkeypatch.setattr(gpu, "on_gpu", lambda x: True)
    monkeypatch.setattr(kernels.draws, "TILE", 64)  # several blocks of a few rows each
    torch.manual_seed(0)
    config = ModelConfig(layers, d_model=16, d_ff=8, heads=2, d_head=16, dropout=p)
    model = Seq2Seq(config).train()
    history, target = torch.randn(3, 6, 16, requires_grad=True), torch.randn(3, 4, 16)
    there = torch.arange(6) < torch.tensor([6, 3, 1])[:, None]
    calls: Counter[str] = Counter()

    def counted(name: str, own: Callable[..., object]) -> Callable[..., object]:
        return lambda *given: calls.update([name]) or own(*given)

    for name in ("drop", "norm", "drop_add", "drop_add_norm"):
        monkeypatch.setattr(kernels, name, counted(name, getattr(kernels, name)))
    found, launches = [], []
    for linked in (True, False):
        if not linked:
            monkeypatch.setattr(seq2seq.Stack, "_links", lambda *_: [None] * layers)
        calls.clear()
        torch.manual_seed(1)
        states = model.decode(target, model.encode(history, there), there)
        leaves = [history, *model.parameters()]
        found.append([states, *torch.autograd.grad((states * ALONG).sum(), leaves)])
        launches.append(calls.copy())
    for together, apart in zip(*found, strict=True):
        torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    joins = (2 * layers - 1) + (3 * layers - 1)
    assert launches[0]["drop_add_norm"] == joins
    assert launches[1]["norm"] - launches[0]["norm"] == joins
    assert launches[1]["drop_add_norm"] == 0
    if p:
        assert launches[1]["drop"] - launches[0]["drop"] == joins
        assert launches[1]["drop_add"] - launches[0]["drop_add"] == joins


def test_what_else_reads_the_stream_between_linked_blocks_is_heard(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gradient then is not what the block behind made ready."""
    monkeypatch.setattr(gpu, "on_gpu", lambda x: True)
    torch.manual_seed(0)
    first, second = feed_forward(True), feed_forward(True)
    grads = []
    for linked in (True, False):
        link = Link(second[1], torch.float32)  # type: ignore[arg-type]
        links = [Links(None, link), Links(link, None)] if linked else [Links(), Links()]
        between = functional.feed_forward(*first, links[0])
        out = functional.feed_forward(between, *second[1:], links[1])
        total = out.square().sum() + between.sum()
        grads.append(torch.autograd.grad(total, [first[0], first[2], second[1]]))  # type: ignore[arg-type]
    for together, apart in zip(*grads, strict=True):
        torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def test_the_check_for_a_gpu_finds_what_is_wrong(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small enough for the interpreter; a kernel that is off is named, the others are not."""
    sizes = {"HEADS": 2, "HEAD": 16, "WIDTH": 16, "HIDDEN": 24, "LENGTHS": ((3, 4, 12),)}
    sizes |= {"CATALOGUES": ((128, 32), (40, 9))}
    for name, value in {**sizes, "LIMITS": {torch.float32: 1e-4}}.items():
        monkeypatch.setattr(check, name, value)
    monkeypatch.setattr(gpu, "on_gpu", lambda x: True)
    assert all(worst <= limit for _, worst, limit in check.checks("cpu"))
    exact = functional.self_attention
    turns: list[int] = []

    def off(*arguments: object) -> Tensor:  # of the two devices that are compared, one
        turns.append(1)
        return exact(*arguments) * (1 + 0.01 * (len(turns) % 2))

    monkeypatch.setattr(functional, "self_attention", off)
    found = {what: worst > limit for what, worst, limit in check.checks("cpu")}
    assert [what for what, wrong in found.items() if wrong] == ["self_attention (3, 4, 12) float32"]
    by_kernel = kernels.adamw_
    monkeypatch.setattr(kernels, "adamw_", lambda *given: by_kernel(*given[:-2], 0.01, given[-1]))
    found = {what: worst > limit for what, worst, limit in check.checks_of_steps("cpu")}
    assert found == {"AdamW's steps, decay 0": True, "AdamW's steps, decay 0.05": True}


def test_the_check_for_a_gpu_allows_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, of products in bfloat16."""
    monkeypatch.setattr(check, "LENGTHS", check.LENGTHS[:3])
    torch.manual_seed(0)
    found = list(check.checks_of_blocks("cpu"))
    assert len(found) == 3 * 2 * 4
    assert all(worst <= limit for _, worst, limit in found)
    assert max(worst for what, worst, _ in found if "bfloat16" in what) > 1e-3


def test_the_check_for_a_gpu_knows_what_is_no_number() -> None:
    wrong = torch.tensor([1.0, torch.nan])
    assert check.error(wrong, torch.ones(2)) == check.error(torch.ones(2), wrong) == torch.inf


def test_the_check_for_a_gpu_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        check.main([])
    assert ended.value.code == 2
    assert "there is no GPU here" in capsys.readouterr().err


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from diger.kernels import attention, codes, elements, levels, rows

KERNELS = vars(attention) | vars(codes) | vars(elements) | vars(levels) | vars(rows)
HALF, FULL, DOUBLE = "*bf16", "*fp32", "*fp64"
TYPES = dict(
    key="*i64", epsilon="fp32", factor="fp32", tau="fp32", scale=FULL, weight=FULL, bias=FULL,
    weights=FULL, residual=FULL, by_weight=FULL, matrix=DOUBLE, soft=FULL, hard=FULL, logits=FULL,
    products=FULL, distances=FULL, lengths=FULL, ends=FULL, book=FULL, codes="*i64", mask=FULL,
)
OWN = {
    "_adamw": dict(grad=FULL, first_moment=FULL, second_moment=FULL, steps=FULL, rate=FULL,
                   decay="fp32"),
    "_drop": dict(x=FULL), "_drop_add": dict(x=FULL, out=FULL), "_norm": dict(x=FULL),
    "_norm_back": dict(x=FULL, out=FULL), "_drop_add_norm": dict(x=FULL, out=FULL),
    "_add_rows": dict(x=FULL, out=FULL),
    "_relax_back": dict(grad=FULL, out=FULL),
    "_near": dict(after=FULL),
    "_balance": dict(before=DOUBLE, after=DOUBLE, rows=DOUBLE),
    "_heaviest": dict(before=DOUBLE, after=FULL, rows=DOUBLE),
}
NUMBERS = {"n", "t", "s", "heads", "blocks", "levels", "of_code"}
NUMBERS |= {"of_row", "of_head", "of_query", "of_key", "of_mask"}
SIZES = dict(CUT=429496730, SIZE=2048, D=128, ROWS=16, WIDTH=128, TILES=2, K=128, BLOCKS=4)
SIZES |= dict(AROUND=True, DROPS=True, MASKED=True, BETA1=0.9, BETA2=0.999)
LAST = dict(HEAD=64, QUERIES=64, BLOCK=64)
LONG = dict(HEAD=64, QUERIES=32, BLOCK=256)
WIDE = dict(HEAD=128, QUERIES=32, BLOCK=256, D=128, ROWS=64)

def compiled(name, warps=4, **sizes):
    kernel = KERNELS[name]
    types, values, aligned = {}, {}, {}
    for i, argument in enumerate(kernel.arg_names):
        if argument in SIZES | sizes:
            types[argument], values[argument] = "constexpr", (SIZES | sizes)[argument]
        else:
            known = TYPES | OWN.get(name, {})
            types[argument] = known.get(argument, "i32" if argument in NUMBERS else HALF)
            if types[argument].startswith("*"):  # as torch allocates
                aligned[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature=types, constexprs=values, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=warps))
    print(name, len(made.asm["cubin"]) > 0 and made.metadata.shared <= 232448)

for name in ("_adamw", "_drop", "_drop_add", "_relu_drop", "_norm", "_drop_add_norm", "_norm_back",
             "_softmax", "_softmax_back", "_add_rows", "_relax", "_relax_back"):
    compiled(name)
for name in ("_drop", "_softmax", "_drop_add_norm"):
    compiled(name, CUT=0)
PLAN = dict(K=256, WIDTH=256, D=64, WIDE=64, PARTS=64, SOME=8, EPSILON=0.003)
for warps, rows in ((8, 32), (16, 64)):
    for nearest in (True, False):
        compiled("_near", warps, **PLAN, ROWS=rows, BLOCKS=32, NEAREST=nearest)
    for first in (True, False):
        compiled("_balance", warps, **PLAN, ROWS=rows, BLOCKS=32, FIRST=first)
    compiled("_heaviest", warps, **PLAN, ROWS=rows, BLOCKS=32)
compiled("_norm_back", AROUND=False, DROPS=False, CUT=0)
for name in ("_attend", "_attend_back"):
    for sizes in (LAST, LONG, WIDE):
        compiled(name, 8, **sizes)
compiled("_attend_back_keys", **LAST)
for name in ("_ask", "_ask_back"):
    compiled(name, BLOCK=64)
    compiled(name, 8, **WIDE)
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu() -> None:
    """What the interpreter accepts a compiler may not; it needs no GPU to find out."""
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("True") == 37
