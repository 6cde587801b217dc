"""Which cell starts when and where; the processes that they then are: ``benchmark.processes``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from benchmark.gpu import Room

#: Processes that a service of NVIDIA's takes at a time: 48 from Volta on, more on some since.
MOST_ON_ONE = 48


class Want(NamedTuple):
    """A cell that waits.

    Attributes:
        key: names it.
        need_bytes: of GPU memory that it is expected to take; None: it runs on the CPU.
        alone_on: the GPU on which it must have no company; None: any, in company.
    """

    key: int
    need_bytes: int | None
    alone_on: int | None = None


class Start(NamedTuple):
    """The cell to start, and its GPU; None: it runs on the CPU."""

    key: int
    gpu: int | None


class Scheduler:
    """Says which waiting cell may start now, and on which GPU; knows no processes.

    On a GPU, either the needs of the cells together stay within its budget, or their number within
    ``per_gpu``, and that within ``MOST_ON_ONE``. A cell that needs more than any budget runs with a
    GPU to itself. Cells start in their order, on the GPU with the fewest cells; one that has no
    room yet keeps a GPU clear of later ones until it has, so that it is overtaken on other GPUs
    only and never waits for ever.

    Args:
        jobs: most cells at a time, on all GPUs and the CPU together.
        budgets: bytes of each GPU's memory; empty: everything runs on the CPU.
        per_gpu: most cells on a GPU, whatever they need; None: the budgets decide.
        in_turns: GPUs that take one cell at a time where ``per_gpu`` does not say otherwise.
    """

    def __init__(
        self,
        jobs: int,
        budgets: Sequence[int] = (),
        per_gpu: int | None = None,
        in_turns: Collection[int] = (),
    ) -> None:
        self._jobs, self._budgets, self._per_gpu = jobs, tuple(budgets), per_gpu
        self._in_turns = frozenset(in_turns)
        self._running: dict[int, tuple[Want, int | None]] = {}

    def start(self, waiting: Sequence[Want]) -> Start | None:
        """The next cell to start, which counts as running until `finish`; None: none may now.

        Args:
            waiting: in their order.
        """
        if len(self._running) >= self._jobs:
            return None
        kept: set[int] = set()  # GPUs kept clear for a cell that comes before
        for want in waiting:
            if want.need_bytes is None or not self._budgets:
                return self._begin(want, None)
            anywhere = range(len(self._budgets))
            places = [gpu for gpu in anywhere if gpu not in kept and want.alone_on in (None, gpu)]
            room = [gpu for gpu in places if self._has_room(gpu, want)]
            if room:
                return self._begin(want, min(room, key=lambda gpu: (len(self._on(gpu)), gpu)))
            if places:
                kept.add(min(places, key=self._used))
        return None

    def finish(self, key: int) -> None:
        """The cell has ended, one way or another."""
        del self._running[key]

    def _begin(self, want: Want, gpu: int | None) -> Start:
        self._running[want.key] = want, gpu
        return Start(want.key, gpu)

    def _on(self, gpu: int) -> list[Want]:
        return [want for want, place in self._running.values() if place == gpu]

    def _used(self, gpu: int) -> int:
        return sum(want.need_bytes or 0 for want in self._on(gpu))

    def _has_room(self, gpu: int, want: Want) -> bool:
        company = self._on(gpu)
        if not company:
            return True
        if any(one.alone_on is not None for one in (want, *company)):
            return False
        if len(company) >= MOST_ON_ONE:
            return False
        if self._per_gpu is not None:
            return len(company) < self._per_gpu
        if gpu in self._in_turns:
            return False
        return self._used(gpu) + (want.need_bytes or 0) <= self._budgets[gpu]


def make_scheduler(room: Room) -> Scheduler:
    budgets = [gpu.budget_bytes for gpu in room.gpus]
    return Scheduler(room.jobs, budgets, room.per_gpu, room.in_turns)
