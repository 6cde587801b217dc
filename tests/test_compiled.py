"""Compiled stacks against the same made of torch's operations."""

from __future__ import annotations

import copy
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diger import blocks, folding, keep, loops, passes, products, scores, seq2seq
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
        with pytest.warns(UserWarning, match="slower without compiled blocks") as caught:
            for _ in range(2):
                assert passes.compiled_for(torch.zeros(1), torch.float32) is None
        assert len(caught) == 1
        assert passes.passes_of(torch.zeros(1)) == "numba"
    finally:
        passes._compiled.cache_clear()


def test_a_stack_may_be_gone_through_twice() -> None:
    """As measurements of gradients do, with ``retain_graph``."""
    torch.manual_seed(0)
    model = Seq2Seq(MODELS["narrow"]).train()
    history, tokens = (torch.randn(3, n, 5).requires_grad_() for n in (4, 2))
    there = torch.ones(3, 4, dtype=torch.bool)
    states = model.decode(tokens, model.encode(history, there), there)
    leaves = [history, tokens, *model.parameters()]
    first = torch.autograd.grad(states.sum(), leaves, retain_graph=True)
    second = torch.autograd.grad(states.sum(), leaves)
    for left, right in zip(first, second, strict=True):
        assert torch.equal(left, right)


def test_inputs_in_pieces_and_weights_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not lie row by row, and a gradient that comes so; and weights without gradients."""
    torch.manual_seed(0)
    model = Seq2Seq(replace(MODELS["wide"], dropout=0.0)).train()
    for name, weight in model.decoder.named_parameters():
        weight.requires_grad_("wi" not in name and "norm_cross" not in name)
    tokens, memory = (torch.randn(n, 3, 70).transpose(0, 1).requires_grad_() for n in (4, 6))
    there, along = torch.rand(3, 6) > 0.3, torch.randn(4, 3, 70).transpose(0, 1)
    there[:, 0] = True
    leaves = [tokens, memory, *(p for p in model.decoder.parameters() if p.requires_grad)]
    found = []
    for _ in range(2):
        states = model.decode(tokens, memory, there)
        found.append([states, *torch.autograd.grad(states, leaves, along)])
        monkeypatch.setattr(seq2seq, "compiled_for", lambda *_: None)
    for ours, plain in zip(*found, strict=True):
        size = float(plain.detach().abs().max())
        assert size > 0
        torch.testing.assert_close(ours, plain, atol=1e-5 * size, rtol=1e-4)


def test_masks_of_another_kind_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = Seq2Seq(MODELS["narrow"]).eval(), torch.randn(3, 4, 5)
    hidden = torch.finfo(torch.float32).min * (torch.rand(3, 1, 4, 4) > 0.7)
    for mask in (hidden, hidden[:1, :, :1], hidden[:, :, :1]):
        ours = model.encoder(x, mask)
        with monkeypatch.context() as patch:
            patch.setattr(seq2seq, "compiled_for", lambda *_: None)
            torch.testing.assert_close(ours, model.encoder(x, mask))


def test_blocks_are_compiled_of_what_is_there() -> None:
    """numba would go on with what it made of an older ``loops`` or ``products``."""
    sources = [Path(module.__file__ or "") for module in (keep, loops, products, folding, scores)]
    made_of = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    assert made_of == blocks.MADE_OF, f'set MADE_OF = "{made_of}" in diger/blocks.py'
    assert blocks.EPSILON == passes.EPSILON


def test_without_a_way_back_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation of many users would hold what all layers made."""
    monkeypatch.setattr(seq2seq, "compiled_for", lambda *_: pytest.fail("compiled"))
    model = Seq2Seq(MODELS["narrow"]).eval()
    with torch.no_grad():
        states = model.encode(torch.randn(2, 3, 5), torch.ones(2, 3, dtype=torch.bool))
    assert bool(states.isfinite().all())
