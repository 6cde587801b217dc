"""The kernels for a GPU against torch's operations, by Triton's interpreter on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from diger import functional, keep
from diger.keep import cut, draw_keys, mask
from diger.seq2seq import ModelConfig, Seq2Seq

B, T, M, D, H, HEAD, WIDE = 3, 5, 7, 16, 2, 16, 9
INNER = H * HEAD
SCALE = 1 / (1 - 0.3)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("triton", reason="Triton is not installed")
    assert os.environ["TRITON_INTERPRET"] == "1"  # conftest.py: before anything imports Triton
    from diger import kernels

    # The interpreter has no products of bfloat16; torch's own order of heads is that of a GPU.
    monkeypatch.setattr(kernels, "FUSED_TYPES", (torch.float32,))
    monkeypatch.setattr(functional, "heads_first", lambda weight: False)
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
    if not fused:
        monkeypatch.setattr(kernels, "FUSED_TYPES", ())
    block, arguments = getattr(functional, make.__name__), make(kept)
    leaves = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
    weights = torch.randn(B, T, D)
    found = []
    for on_gpu in (False, True):
        monkeypatch.setattr(keep, "on_gpu", lambda x, on_gpu=on_gpu: on_gpu)
        out = block(*arguments)
        found.append([out, *torch.autograd.grad((out * weights).sum(), leaves)])
    for torchs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs, atol=1e-4, rtol=1e-4)


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
    assert cut(1.0) == 0  # which keeps all and reads no key
    torch.testing.assert_close(kernels.drop(x, None, 1.0, 1.0, torch.float32), x)


@pytest.mark.parametrize("rows", [1, 33, 5000])
def test_a_norm_of_many_rows(rows: int, kernels: ModuleType) -> None:
    """One block, several, and several tiles of a block."""
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


def test_the_whole_model_is_the_same_by_kernels(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights gathered, positions by products, all blocks; without dropout, whose keys differ."""
    torch.manual_seed(0)
    config = ModelConfig(layers=2, d_model=16, d_ff=8, heads=2, d_head=16, dropout=0.0)
    model = Seq2Seq(config).train()
    history, target = torch.randn(3, 6, 16), torch.randn(3, 4, 16)
    there = torch.arange(6) < torch.tensor([6, 3, 1])[:, None]
    found = []
    for on_gpu in (False, True):
        monkeypatch.setattr(keep, "on_gpu", lambda x, on_gpu=on_gpu: on_gpu)
        states = model.decode(target, model.encode(history, there), there)
        grads = torch.autograd.grad(states.square().sum(), list(model.parameters()))
        found.append([states, *grads])
    for torchs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs, atol=2e-4, rtol=1e-3)


def test_dropout_of_a_stack_draws_its_keys_at_once(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "on_gpu", lambda x: True)
    config = ModelConfig(layers=2, d_model=16, d_ff=8, heads=2, d_head=16, dropout=0.2)
    model = Seq2Seq(config).train()
    history, there = torch.randn(3, 6, 16), torch.ones(3, 6, dtype=torch.bool)
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(model.decode(history[:, :4], model.encode(history, there), there))
    assert states[0].equal(states[1])
    assert not states[0].allclose(states[2])


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from diger import kernels

TYPES = {"key": "*i64", "epsilon": "fp32", "factor": "fp32", "scale": "*fp32", "weight": "*fp32"}
NUMBERS = {"n", "t", "s", "heads", "of_row", "of_head", "of_query", "of_key"}
VALUES = {"CUT": 429496730, "SIZE": 2048, "D": 128, "ROWS": 16, "WIDTH": 128, "TILES": 2,
          "HEAD": 64, "BLOCK": 32}
for name in ("_drop", "_drop_add", "_relu_drop", "_norm", "_norm_back", "_softmax",
             "_softmax_back", "_attend", "_attend_back", "_ask", "_ask_back"):
    kernel = getattr(kernels, name)
    types, values = {}, {}
    for argument in kernel.arg_names:
        if argument in VALUES:
            types[argument], values[argument] = "constexpr", VALUES[argument]
        else:
            types[argument] = TYPES.get(argument, "i32" if argument in NUMBERS else "*bf16")
    source = ASTSource(kernel, signature=types, constexprs=values)
    print(name, len(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]) > 0)
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
    assert done.stdout.count("True") == 11
