"""Steps of fixed shapes: the same training as steps of whatever shape a batch has."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import diger.estimators
import diger.steps
import diger.trainer
from diger.checks import SettingError
from diger.decode import DecodeConfig
from diger.generator import Generator
from diger.graphs import Graphs, start_state
from diger.optimizer import FlatAdamW, Schedule, TrainConfig
from diger.rqvae import RQVAE, RQVAEConfig
from diger.semantic_ids import add_suffix
from diger.seq2seq import ModelConfig
from diger.sequences import Rows, distinct_items, permutation
from diger.steps import Steps
from diger.trainer import Trainer
from tests.conftest import make_split
from tests.estimators import ESTIMATORS, LEVELS, K

N_ITEMS, WIDTH = 30, 8


def make_trainer(name: str, device: str = "cpu", step: str = "eager", **train: object) -> Trainer:
    rng = np.random.default_rng(3)
    torch.manual_seed(0)
    tokenizer = RQVAE(WIDTH, LEVELS, K, RQVAEConfig(hidden=(10,), latent=5))
    torch.nn.init.normal_(tokenizer.codebooks, std=0.5)
    generator = Generator(LEVELS, K, ModelConfig(2, 16, 16, 2, 8, 0.0, init_std=0.3))
    split = make_split(
        [[int(i) for i in rng.permutation(N_ITEMS)[:n]] for n in rng.integers(4, 14, 12)], N_ITEMS
    )
    sids = add_suffix(rng.integers(0, K, (N_ITEMS, LEVELS)).astype(np.int32), K)
    content = torch.as_tensor(rng.normal(size=(N_ITEMS, WIDTH)), dtype=torch.float32, device=device)
    settings = {"batch_size": 16, "warmup_steps": 3, "lr_tokenizer": 1e-2, "epochs": 2, **train}
    return Trainer(
        TrainConfig(**settings), DecodeConfig(), generator, tokenizer,  # type: ignore[arg-type]
        ESTIMATORS[name](LEVELS, K), content, sids, split, 0, device, step=step,
    )  # fmt: skip


@pytest.fixture
def noise_by_item(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor], None]:
    """Noise that depends on which item a row is, not on how many rows there are."""
    table = -(
        -torch.rand(LEVELS, N_ITEMS, K, generator=torch.Generator().manual_seed(9)).log()
    ).log()
    rows, level = torch.arange(0), 0

    def use(items: Tensor) -> None:
        nonlocal rows, level
        rows, level = items, 0

    def sample(like: Tensor, generator: torch.Generator) -> Tensor:
        nonlocal level
        level += 1
        return table[level - 1][rows[: len(like)]]

    monkeypatch.setattr(diger.estimators, "sample_gumbel", sample)
    return use


def test_a_permutation_is_one_and_the_seed_decides_it() -> None:
    order = permutation(1000, 5, "cpu")
    assert order.sort().values.equal(torch.arange(1000))
    assert order.equal(permutation(1000, 5, "cpu"))
    others = [permutation(1000, seed, "cpu") for seed in (6, 5 + 2**32, 2**63 + 1)]
    assert not any(order.equal(other) for other in others)
    # No neighbourhood of the order is left over.
    assert abs(np.corrcoef(order.numpy(), np.arange(1000))[0, 1]) < 0.1
    assert abs(float((order.diff() == 1).float().mean())) < 0.01


def test_a_permutation_sorts_by_splitmix64() -> None:
    """Against the definition on Python's whole numbers: what no device may change."""

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    def key(i: int, seed: int) -> int:
        z = i
        for salt in (seed, seed >> 32):
            z = mix((z + (salt + 1) * 0x9E3779B97F4A7C15) % 2**64)
        return z if z < 2**63 else z - 2**64  # torch sorts signed numbers

    for seed in (0, 12345, 2**32 + 7):
        want = sorted(range(50), key=lambda i: key(i, seed))
        assert permutation(50, seed, "cpu").tolist() == want


@pytest.mark.parametrize("seed", range(5))
def test_distinct_items_in_a_fixed_number_are_the_distinct_ones(seed: int) -> None:
    tokens = torch.randint(0, 40, (25,), generator=torch.Generator().manual_seed(seed))
    want, index = tokens.unique(return_inverse=True)
    for capacity in (len(want), 30, 39):
        ids, found, present = distinct_items(tokens, 40, capacity)
        assert ids.shape == present.shape == (capacity,)
        assert ids[present].equal(want)
        assert found.equal(index)
    ids, found, present = distinct_items(tokens, 40, 40)
    assert ids.equal(torch.arange(40))
    assert found.equal(tokens)
    assert present.nonzero().flatten().equal(want)


@pytest.mark.parametrize(
    ("capacity", "unit"),
    [(24, 1), (29, 1), (N_ITEMS, 1), (None, 64)],
    ids=["padded", "nearly all", "catalogue", "multiple"],
)
@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_filling_up_changes_neither_loss_nor_gradient(
    name: str,
    capacity: int | None,
    unit: int,
    noise_by_item: Callable[[Tensor], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The batch's distinct items, padded, or the whole catalogue: the same gradients."""
    found, counts = [], []
    for size, multiple in ((None, 1), (capacity, unit)):
        monkeypatch.setattr(diger.trainer, "DISTINCT_UNIT", multiple)
        trainer = make_trainer(name)
        trainer.modules.eval()
        positions = trainer.data.train_positions[:6]
        width = int(trainer.rows.lengths(trainer.rows.on_device(positions)).max())
        batch, distinct = trainer.read(positions, width + (size is not None), size)
        noise_by_item(distinct)
        counts.append(len(distinct))
        parts, soft = trainer.losses(batch, distinct)
        parts["total"].backward()
        if soft is not None:
            trainer.estimator.observe(soft.nearest, batch.weight)
        grads = {n: p.grad for n, p in trainer.modules.named_parameters() if p.grad is not None}
        buffers = dict(trainer.modules.named_buffers())
        found.append((parts, grads, buffers))
    if trainer.estimator.trains_tokenizer:
        assert counts[0] < counts[1] == (capacity or unit)
    (parts, grads, buffers), (padded_parts, padded_grads, padded_buffers) = found
    for key, value in parts.items():
        torch.testing.assert_close(padded_parts[key], value, atol=1e-5, rtol=1e-5)
    assert grads.keys() == padded_grads.keys()
    for key, value in grads.items():
        torch.testing.assert_close(padded_grads[key], value, atol=1e-6, rtol=1e-4, msg=key)
    for key, value in buffers.items():
        torch.testing.assert_close(padded_buffers[key], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["tiger", "ste", "diger_frqud_cached"])
def test_an_epoch_of_fixed_steps_ends_where_an_epoch_of_free_ones_does(name: str) -> None:
    """For estimators whose forward pass no noise changes: weights, losses and counters."""
    weights, losses = [], []
    for fixed in (False, True):
        trainer = make_trainer(name)
        trainer.steps = Steps(trainer, "eager", fixed)
        if fixed:
            assert trainer.steps.counts_items == trainer.estimator.trains_tokenizer
        trainer.noise.manual_seed(0)
        trainer.modules.train()
        trainer.steps.start_epoch()
        silent(trainer)
        for rows in trainer.rows.epoch(16, 1, 2, trainer.steps.counts_items):
            trainer.steps.run(rows)
        weights.append(trainer.modules.state_dict())
        losses.append(trainer.steps.mean_losses())
        assert trainer.schedule.done == trainer.steps_per_epoch
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, atol=2e-4, rtol=1e-3, msg=key)


def silent(trainer: Trainer) -> None:
    """Take the noise away: its rows are drawn for as many items as a step holds."""
    trainer.noise = None  # type: ignore[assignment]


def test_capacity_grows_in_units_and_never_beyond_the_catalogue() -> None:
    trainer = make_trainer("gumbel")
    steps = Steps(trainer, "eager", fixed=True)
    for rows in trainer.rows.epoch(16, 1, 1, count=True):
        _, capacity = steps._shape(rows)
        items = torch.cat([trainer.rows.items[trainer.data.history_starts(np.array([p]))[0] : p + 1]
                           for p in rows.positions.tolist()])  # fmt: skip
        assert rows.distinct == len(items.unique()) <= capacity <= N_ITEMS


def one_step(trainer: Trainer, rows: Rows) -> None:
    trainer.steps._add(trainer.update(*trainer.read(rows.positions)))


def test_warm_ups_leave_nothing_behind() -> None:
    """What a recording's warm-up changes is put back: training goes on as if it had not been."""
    trainers = [make_trainer("diger_sdud_frqud") for _ in range(2)]
    for trainer in trainers:
        torch.manual_seed(1)
        trainer.noise = torch.default_generator
        start_state(trainer.optimizer)
        trainer.modules.train()
        trainer.steps.start_epoch()
        trainer.steps._prepare_sums()
    rows = list(trainers[0].rows.epoch(16, 1))[:3]
    for i, trainer in enumerate(trainers):
        steps = trainer.steps
        graphs = Graphs(steps._state)
        for row in rows:
            if i == 1:
                graphs.warm_up(partial(one_step, trainer, row))
            steps.run(row)
    (a, b) = (trainer.steps._state() for trainer in trainers)
    assert len(a) == len(b) > 50
    for left, right in zip(a, b, strict=True):
        assert left.equal(right)


def test_starting_the_optimiser_changes_nothing() -> None:
    trainers = [make_trainer("diger_sdud") for _ in range(2)]
    start_state(trainers[1].optimizer)
    for trainer in trainers:
        trainer.noise.manual_seed(2)
        for rows in list(trainer.rows.epoch(16, 1))[:2]:
            trainer.steps.run(rows)
    for left, right in zip(*(t.modules.state_dict().values() for t in trainers), strict=True):
        assert left.equal(right)


def test_a_device_that_counts_its_steps_has_the_rates_of_one_that_does_not() -> None:
    """And keeps the last one past the planned end."""
    rates = []
    for device in ("cpu", "cpu:0"):  # the second is any device but the host
        weight = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.AdamW([{"params": [weight], "lr": 0.1}])
        schedule = Schedule(optimizer, 2, 6, device)
        schedule.go_to(1)
        found = []
        for _ in range(8):
            schedule.apply()
            schedule.next()
            found.append(float(optimizer.param_groups[0]["lr"]))
        rates.append(found)
        assert optimizer.param_groups[0]["capturable"] == (device != "cpu")
    assert rates[0][:5] == pytest.approx(rates[1][:5], rel=1e-6)
    assert rates[1][5:] == [rates[1][4]] * 3


class _Run:
    """A recording that runs what was recorded."""

    def __init__(self, step: Callable[[], None]) -> None:
        self.replay = step


@pytest.mark.parametrize("name", ["tiger", "diger_sdud_frqud"])
def test_an_epochs_steps_are_recorded_ahead_the_widest_first(name: str) -> None:
    trainer, alike = make_trainer(name), make_trainer(name)
    recorded: list[int] = []
    drawn = []
    for each in (trainer, alike):
        each.steps = Steps(each, "eager", fixed=True)
        each.noise.manual_seed(0)
        each.modules.train()
        torch.manual_seed(1)
        start_state(each.optimizer)
        drawn.append(list(each.rows.epoch(16, 1, 2, each.steps.counts_items)))
    graphs = Graphs(trainer.steps._state)

    def record(step: Callable[[], None]) -> _Run:
        # What is recorded keeps its memory: no warm-up is to need as much beside it.
        assert done == ["warm-up"] * len(widths)
        recorded.append(len(trainer.steps.sums))
        with graphs.put_back():
            step()
        return _Run(step)

    done: list[str] = []

    def warm(step: Callable[[], None]) -> None:
        done.append("warm-up")
        graphs.warm_up(step)

    graphs._record = record  # type: ignore[method-assign, assignment]
    graphs._warm = warm  # type: ignore[method-assign]
    trainer.steps.graphs = graphs
    widths = {trainer.steps._shape(rows)[0] for rows in drawn[0] if len(rows.positions) == 16}
    assert len(widths) > 2
    trainer.steps.start_epoch(drawn[0])
    trainer.noise = alike.noise = torch.default_generator
    for each, rows in zip((trainer, alike), drawn, strict=True):
        torch.manual_seed(2)
        for some in rows:
            each.steps.run(some)
            if each is trainer:
                assert len(graphs) == len(recorded) == len(widths)  # all at the first step
    kept: list[tuple[int, int]] = list(graphs._graphs)  # type: ignore[arg-type]
    assert kept == sorted(kept, reverse=True)
    assert {width for width, _ in kept} == widths
    for left, right in zip(trainer.steps._state(), alike.steps._state(), strict=True):
        assert left.equal(right)
    trainer.steps.start_epoch(drawn[0])
    trainer.steps.run(drawn[0][0])
    assert len(recorded) == len(widths)  # and never again


def test_garbage_is_collected_before_each_recording_and_all_of_it_once() -> None:
    graphs = Graphs(lambda: [])
    frozen = gc.get_freeze_count()
    with graphs.collected():
        assert gc.get_freeze_count() > frozen
        cycle: list[object] = [torch.zeros(1)]
        cycle.append(cycle)
        gone = weakref.ref(cycle[0])
        del cycle
        with graphs.collected():
            assert gone() is None
        assert gc.get_freeze_count() > frozen
    assert gc.get_freeze_count() == 0


def test_memory_that_runs_out_is_not_taken_for_a_device_that_cannot_record() -> None:
    def step() -> None:
        raise torch.OutOfMemoryError("full")

    graphs = Graphs(lambda: [])
    graphs._warm = lambda step: step()  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        graphs.run("a", step)
    assert not graphs.failure


def test_an_interruption_is_not_taken_for_a_device_that_cannot_record() -> None:
    """A recording that it breaks off has an error of its own to tell."""

    def step() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("the capture was invalidated")  # as torch.cuda.graph does at its end

    graphs = Graphs(lambda: [])
    graphs._warm = lambda step: step()  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        graphs.run("a", step)
    assert not graphs.failure


def test_a_device_that_records_nothing_trains_all_the_same() -> None:
    calls = []
    graphs = Graphs(lambda: [])
    if torch.cuda.is_available():
        pytest.skip("this machine can record")
    with pytest.warns(UserWarning, match="one kernel at a time"):
        graphs.run("a", lambda: calls.append(1))
    graphs.run("b", lambda: calls.append(2))
    assert calls == [1, 2]
    assert graphs.failure


def test_recording_needs_a_gpu() -> None:
    with pytest.raises(SettingError, match="needs a GPU"):
        make_trainer("tiger", step="graph")


class _NothingFromTheHost(TorchDispatchMode):
    """Raises where a tensor of the host takes part, if only to be copied to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and value.device.type == "cpu":
                raise AssertionError(f"{func} reads a tensor of the host")
        return func(*args, **kwargs)


def nothing_from_the_host() -> AbstractContextManager[Any]:
    return _NothingFromTheHost()  # type: ignore[no-untyped-call]


def test_a_copy_from_the_host_would_be_noticed() -> None:
    with nothing_from_the_host(), pytest.raises(AssertionError, match="of the host"):
        torch.zeros(3).to("meta")


@pytest.fixture
def blind_device(monkeypatch: pytest.MonkeyPatch) -> str:
    """A device that knows shapes only: whatever asks it for a value, or mixes it with tensors of
    the host, raises."""
    for module in ("diger.steps", "diger.trainer"):
        monkeypatch.setattr(f"{module}.default_noise", lambda device: torch.Generator())
    monkeypatch.setattr(  # it has no generator to draw with, and no fused optimiser
        diger.estimators, "sample_gumbel", lambda like, generator: torch.randn_like(like)
    )
    monkeypatch.setattr(FlatAdamW, "step", lambda self: None)
    return "meta"


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@pytest.mark.parametrize("frozen", [True, False], ids=["codebooks", "encoder too"])
def test_a_step_on_a_device_waits_for_nothing(name: str, frozen: bool, blind_device: str) -> None:
    """No value is read back and no shape depends on one, from the rows to the update."""
    trainer = make_trainer(name, blind_device, freeze_encoder=frozen)
    trainer.modules.train()
    steps = Steps(trainer, "eager", fixed=True)
    trainer.estimator.advance(0.5)
    for width, capacity in ((4, 24), (8, N_ITEMS)):
        steps._fixed_step(width, capacity)  # what is made once is made here
        with nothing_from_the_host():
            steps._fixed_step(width, capacity)
    assert all(total.is_meta for total in steps.sums.values())
    with pytest.raises(RuntimeError):  # so it would be noticed
        float(steps.sums["total"])


def test_compiled_steps_are_compiled_and_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each shape of a step once; by a compiler that changes nothing, which takes no time."""
    calls: list[dict[str, Any]] = []

    def compiler(losses: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def compiled(*given: Any) -> Any:
            calls.append(options)
            return losses(*given)

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    found = []
    for step in ("eager", "compile"):
        trainer = make_trainer("diger_frqud", step=step)
        trainer.steps = Steps(trainer, step, fixed=True)
        torch.manual_seed(0)
        trainer.noise.manual_seed(0)
        drawn = list(trainer.rows.epoch(trainer.config.batch_size, 0, count=True))
        trainer.steps.start_epoch(drawn)
        for rows in drawn:
            trainer.steps.run(rows)
        assert len(calls) == (len(drawn) if step == "compile" else 0)
        found.append(trainer.steps.mean_losses())
    assert all(options == {"dynamic": False} for options in calls)
    assert found[0] == found[1]
