"""Compiled stacks against the same made of torch's operations."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diger import passes, seq2seq
from diger.seq2seq import ModelConfig, Seq2Seq

MODELS = {
    "two heads": ModelConfig(2, 12, 20, 2, 8, 0.3, 0.3),
    "wide": ModelConfig(1, 70, 33, 3, 17, 0.1, 0.1),
    "narrow": ModelConfig(3, 5, 3, 1, 1, 0.5, 0.5),
}
#: Rows, tokens of memory, tokens. More than go together, and one alone.
SIZES = [(3, 7, 4), (50, 9, 5), (2, 150, 3), (1, 1, 1)]


def outcome(model: Seq2Seq, sizes: tuple[int, int, int], dtype: torch.dtype) -> list[Tensor]:
    """States and gradients at all inputs and weights, of rows of several lengths, in float64."""
    b, m, t = sizes
    torch.manual_seed(1)
    model = copy.deepcopy(model).to(dtype).train()
    model.dtype = dtype
    history, tokens, along = (torch.randn(b, n, model.config.d_model) for n in (m, t, t))
    there = torch.arange(m) < torch.randint(1, m + 1, (b, 1))
    inputs = [x.to(dtype).requires_grad_() for x in (history, tokens)]
    memory = model.encode(inputs[0], there)
    states = model.decode(inputs[1], memory, there)
    leaves = [*inputs, *model.parameters()]
    grads = torch.autograd.grad((states * along.to(dtype)).sum(), leaves)
    return [x.detach().double() for x in (memory, states, *grads)]


@pytest.mark.parametrize("drops", [True, False], ids=["dropout", "no dropout"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_stack_is_what_its_operations_make(
    name: str, sizes: tuple[int, int, int], drops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = MODELS[name]
    model = Seq2Seq(config if drops else replace(config, dropout=0.0))
    assert passes.compiled_for(torch.zeros(1), torch.float32) is not None
    compiled = outcome(model, sizes, torch.float32)
    monkeypatch.setattr(seq2seq, "compiled_for", lambda *_: None)
    plain = outcome(model, sizes, torch.float32)
    exact = outcome(model, sizes, torch.float64)
    names = ["memory", "states", "history", "tokens", *dict(model.named_parameters())]
    for part, ours, theirs, true in zip(names, compiled, plain, exact, strict=True):
        rounding = float((theirs - true).abs().max()) + 2e-6 * float(true.abs().max())
        assert float((ours - true).abs().max()) <= 4 * rounding, part


def test_the_same_bits_again_and_with_two_threads() -> None:
    torch.manual_seed(0)
    model, threads = Seq2Seq(MODELS["two heads"]), torch.get_num_threads()
    found = []
    try:
        for count in (1, 1, passes.MOST_THREADS):
            torch.set_num_threads(count)
            found.append(outcome(model, SIZES[0], torch.float32))
    finally:
        torch.set_num_threads(threads)
    for first, *others in zip(*found, strict=True):
        assert all(torch.equal(first, other) for other in others)


def test_who_computes_a_step_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    x, threads = torch.zeros(1), torch.get_num_threads()
    assert passes.passes_of(x) == "blocks"
    assert passes.passes_of(x, torch.bfloat16) == "numba"
    try:
        torch.set_num_threads(passes.MOST_THREADS + 1)
        assert passes.passes_of(x) == "numba"
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(passes, "loops_for", lambda *_: None)
    assert passes.passes_of(x) == "torch"


def test_a_compiler_that_fails_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diger.compiled", None)
    monkeypatch.delattr("diger.compiled", raising=False)
    passes._compiled.cache_clear()
    try:
        with pytest.warns(UserWarning, match="slower without compiled blocks"):
            assert passes.compiled_for(torch.zeros(1), torch.float32) is None
        assert passes.passes_of(torch.zeros(1)) == "numba"
    finally:
        passes._compiled.cache_clear()


def test_a_stack_may_be_gone_through_twice() -> None:
    """As measurements of gradients do, with ``retain_graph``."""
    torch.manual_seed(0)
    model = Seq2Seq(MODELS["narrow"]).train()
    history = torch.randn(3, 4, 5).requires_grad_()
    states = model.encode(history, torch.ones(3, 4, dtype=torch.bool))
    first = torch.autograd.grad(states.sum(), history, retain_graph=True)
    second = torch.autograd.grad(states.sum(), history)
    assert torch.equal(first[0], second[0])


def test_without_a_way_back_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation of many users would hold what all layers made."""
    monkeypatch.setattr(seq2seq, "compiled_for", lambda *_: pytest.fail("compiled"))
    model = Seq2Seq(MODELS["narrow"]).eval()
    with torch.no_grad():
        states = model.encode(torch.randn(2, 3, 5), torch.ones(2, 3, dtype=torch.bool))
    assert bool(states.isfinite().all())
