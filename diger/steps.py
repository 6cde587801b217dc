"""How training steps are run: one kernel after the other, or recorded with fixed shapes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diger.checks import SettingError, one_of
from diger.gpu import kernels_for
from diger.graphs import Graphs, start_state
from diger.passes import passes_of
from diger.sequences import Rows

if TYPE_CHECKING:
    from diger.trainer import Trainer

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
WAYS = ("eager", "graph", "compile")
#: Lengths of history, in items, that recorded steps are made for; between them, the longer one.
WIDTHS = (
    1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192,
    224, 256, 320, 384, 448, 512,
)  # fmt: skip
COMPILED_SHAPES = 64
CAPACITY_UNIT = 256  # distinct items of a recorded step are a multiple of it


def default_noise(device: str) -> torch.Generator:
    """The device's own generator of random numbers."""
    index = torch.cuda.current_device() if device == "cuda" else torch.device(device).index or 0
    return torch.cuda.default_generators[index]


class Steps:
    """The steps of a trainer and the sums of their losses.

    Args:
        way: of ``WAYS``.
        fixed: give every step the shapes of a recorded one even where nothing is recorded, which
            changes no result beyond rounding; None: where it is recorded or compiled.
    """

    def __init__(self, trainer: Trainer, way: str, fixed: bool | None = None) -> None:
        one_of("step", way, WAYS)
        kernels_for(trainer.content)  # looks whether Triton works, which no recorded step may do
        self.trainer, self.way = trainer, way
        self.on_gpu = trainer.device != "cpu"
        if way == "graph" and not self.on_gpu:
            raise SettingError("step=graph records CUDA graphs and needs a GPU; use step=eager")
        self.fixed = way != "eager" if fixed is None else fixed
        self.losses = trainer.losses
        if way == "compile":
            from torch._dynamo import config  # takes a second, and only this way needs it

            # Every length of history is compiled by itself; past the limit torch stops, silently.
            config.recompile_limit = max(config.recompile_limit, COMPILED_SHAPES)
            self.losses = torch.compile(trainer.losses, dynamic=False)
        self.graphs = Graphs(self._state) if self.on_gpu and way != "eager" else None
        if self.graphs is not None:
            start_state(trainer.optimizer)
        self.sums: dict[str, Tensor] = {}
        self.run_steps = 0
        self.capacities: dict[int, int] = {}
        self._ahead: dict[tuple[int, int], Rows] = {}  # shapes of the epoch, and rows of each
        positions = trainer.data.train_positions
        lengths = positions - trainer.data.history_starts(positions)
        self.longest = int(lengths.max(initial=1))  # no step need be wider
        size = trainer.config.batch_size
        self._positions = torch.zeros(size, dtype=torch.int64, device=trainer.device)

    @property
    def counts_items(self) -> bool:
        """Whether a step has to know how many distinct items its batch holds."""
        return self.fixed and self.trainer.estimator.trains_tokenizer

    def facts(self) -> dict[str, Any]:
        """How steps ran: the way, what their passes over memory were computed by (see
        ``diger.passes``), and of recordings their number, seconds and any failure."""
        facts: dict[str, Any] = {"way": self.way, "passes": self._passes()}
        if self.graphs is not None:
            facts |= {"recorded": len(self.graphs), "recording_seconds": self.graphs.seconds}
            if self.graphs.failure:
                facts |= {"failure": self.graphs.failure}
        return facts

    def _passes(self) -> str:
        if self.way == "compile":  # torch looks into nothing but its own operations
            return "torch"
        return passes_of(self.trainer.content, self.trainer.generator.seq2seq.dtype)

    def start_epoch(self, batches: Sequence[Rows] = ()) -> None:
        """Forget the losses; and make room for these batches, the epoch's, all at once."""
        self.run_steps = 0
        whole = [rows for rows in batches if self._is_whole(rows)] if self.fixed else []
        for rows in whole:
            self._shape(rows)  # some room each, which is known when all have been looked at
        self._ahead = {self._shape(rows): rows for rows in whole} if self.graphs is not None else {}
        for total in self.sums.values():
            total.zero_()

    def mean_losses(self) -> dict[str, float]:
        """By name, over the steps since ``start_epoch``. Waits for the device."""
        names = list(self.sums)
        values = torch.stack([self.sums[name] for name in names]).tolist()
        return {name: value / self.run_steps for name, value in zip(names, values, strict=True)}

    def run(self, rows: Rows) -> None:
        """One step on these rows."""
        self.run_steps += 1
        if not self.fixed or not self._is_whole(rows):
            read = self.trainer.read(rows.positions, rows.width, rows.distinct or None)
            self._add(self.trainer.update(*read))
        else:
            shape = self._shape(rows)
            if self.graphs is not None:
                self._prepare_sums()
                self._record_ahead(self.graphs)
            self._positions.copy_(rows.positions)
            step = partial(self._fixed_step, *shape)
            if self.graphs is None:
                step()
            else:
                self.graphs.run(shape, step)
        self.trainer.schedule.next()

    def _is_whole(self, rows: Rows) -> bool:
        """The epoch's last batch may be shorter: not worth a recording of its own."""
        return len(rows.positions) == len(self._positions)

    def _record_ahead(self, graphs: Graphs) -> None:
        """Record what the epoch's batches need, the widest first: the memory that it leaves has
        room for all others, while a wider one does not fit into what a narrower one left."""
        rows: dict[Hashable, Rows] = {}
        steps: dict[Hashable, Callable[[], None]] = {}
        for shape in sorted(self._ahead, reverse=True):
            rows[shape], steps[shape] = self._ahead[shape], partial(self._fixed_step, *shape)
        self._ahead = {}
        graphs.record_all(steps, lambda shape: self._positions.copy_(rows[shape].positions))

    def _fixed_step(self, width: int, capacity: int) -> None:
        self._add(self.trainer.update(*self.trainer.read(self._positions, width, capacity)))

    def _shape(self, rows: Rows) -> tuple[int, int]:
        """Columns of the histories and number of distinct items of the step for these rows."""
        width = next((w for w in WIDTHS if w >= rows.width), rows.width)
        width = max(min(width, self.longest), rows.width)
        items = self.trainer.data.n_items
        if not self.trainer.estimator.trains_tokenizer:
            return width, items  # nothing is tokenised: there is nothing to pad
        if rows.distinct > self.capacities.get(width, 0):
            # Some room, or every epoch's fullest batch would ask for another recording.
            units = -(-int(rows.distinct * 1.05) // CAPACITY_UNIT)
            self.capacities[width] = min(units * CAPACITY_UNIT, items)
        return width, self.capacities[width]

    def _add(self, losses: dict[str, Tensor]) -> None:
        for name, value in losses.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros((), device=value.device)
            self.sums[name] += value

    def _prepare_sums(self) -> None:
        """A recording adds to tensors that are there before it."""
        names = ["total", "rec"]
        if self.trainer.estimator.trains_tokenizer:
            names += ["reconstruction", "vq"]
        for name in names:
            if name not in self.sums:
                self.sums[name] = torch.zeros((), device=self.trainer.device)

    def _state(self) -> list[Tensor]:
        """Everything that a step changes."""
        trainer = self.trainer
        held = [value for state in trainer.optimizer.state.values() for value in state.values()]
        counter = trainer.schedule.step_on_device
        return [
            *(value for value in trainer.modules.state_dict().values()),
            *(value for value in held if isinstance(value, Tensor)),
            *self.sums.values(),
            *([] if counter is None else [counter]),
        ]
