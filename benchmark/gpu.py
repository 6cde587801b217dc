"""The GPUs that cells may use, and how much of their memory a cell is expected to take.

Cells on one GPU are processes of their own, whose kernels take turns. Where NVIDIA's MPS can be had
(``benchmark.mps``) they run at the same time instead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmark import store
from benchmark.errors import UserError
from benchmark.mps import VISIBLE_VARIABLE
from benchmark.store import Cell

if TYPE_CHECKING:
    from benchmark.config import Settings

#: What a process takes of a GPU before its first tensor: the driver's context, CUDA's libraries and
#: their kernels. It is 0.3 to 0.6 GB, by card and release, and torch's own figures leave it out.
CONTEXT_BYTES = 600_000_000
#: What a cell is expected to take, context included, where no run of its data set and method is
#: known: more than the released sizes are thought to need, so that the first guess errs upwards.
#: Recorded steps of Beauty hold 3.8 GB (reports/published/speed has it, of an H100), and a batch of
#: validation is given 2.1 GB, of which torch keeps more than it uses.
UNKNOWN_BYTES = 9_000_000_000
#: The rest is left to what torch keeps beyond its tensors and to whoever else uses the GPU.
BUDGET_SHARE = 0.9

PROBE_SECONDS = 120.0
# In a process of its own: asking for free memory makes a context, which this process would keep.
_PROBE = """
import json, torch
cuda = torch.cuda
n = cuda.device_count() if cuda.is_available() else 0
print(json.dumps([[cuda.get_device_name(i), cuda.mem_get_info(i)[0]] for i in range(n)]))
"""


class Gpu(NamedTuple):
    """A GPU that cells may use.

    Attributes:
        visible: what CUDA_VISIBLE_DEVICES must be for a process to see it alone: its number, UUID
            or MIG name.
        name: of the card.
        free_bytes: of its memory, before any cell was started.
    """

    visible: str
    name: str
    free_bytes: int

    @property
    def budget_bytes(self) -> int:
        """What the cells on it may be expected to take together."""
        return int(BUDGET_SHARE * self.free_bytes)

    def __str__(self) -> str:
        return f"GPU {self.visible} ({self.name}, {self.free_bytes / 1e9:.1f} GB free)"


def visible_gpus() -> list[Gpu]:
    """The GPUs that torch sees here, in its order; CUDA_VISIBLE_DEVICES counts.

    Raises:
        UserError: there are some, and they cannot be asked.
    """
    import torch

    if not torch.backends.cuda.is_built():  # spares a torch without CUDA a process
        return []
    return _named(_probe(), os.environ.get(VISIBLE_VARIABLE))


def _named(found: Sequence[tuple[str, int]], visible: str | None) -> list[Gpu]:
    """GPUs by the names that CUDA_VISIBLE_DEVICES has for them: torch's i-th is its i-th."""
    names = [str(i) for i in range(len(found))]
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
    # CUDA stops at the first name that it does not know, so there may be more names than GPUs.
    return [Gpu(name, *facts) for name, facts in zip(names, found, strict=False)]


def _probe() -> list[tuple[str, int]]:
    """(name, free bytes) of each GPU that torch sees."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            capture_output=True, text=True, check=False, timeout=PROBE_SECONDS,
        )  # fmt: skip
        found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        found, reason = None, f"no answer within {PROBE_SECONDS:.0f} s"
    else:
        reason = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
    if found is None:
        raise UserError(
            f"the GPUs cannot be asked how much memory is free ({reason}); free them, hide them "
            f"with {VISIBLE_VARIABLE}= or run on the CPU with device=cpu"
        )
    return [(str(name), int(free)) for name, free in found]


class Needs:
    """What GPU memory cells are expected to take, from what finished ones took.

    A cell of the same configuration says it best (its seeds need the same); else the hungriest of
    the same data set and method does; else it is a guess, and no lower than the hungriest of other
    methods on the data set. ``elsewhere`` are other stores to look into.
    """

    def __init__(self, elsewhere: Sequence[Path] = ()) -> None:
        self._elsewhere = tuple(elsewhere)
        self._peaks: dict[tuple[str, str], dict[str, int]] = {}
        self._raised: dict[str, int] = {}  # guess for a data set whose cells ran out of memory

    def expected_bytes(self, cell: Cell) -> int:
        """Expected need of a cell, its CUDA context included."""
        peaks = self._known(cell)
        if not peaks:
            # Of other methods, but they show how large runs of this data set are.
            others = [self._known(replace(cell, method=name)) for name in self._methods(cell)]
            known = [CONTEXT_BYTES + peak for kept in others for peak in kept.values()]
            return max([UNKNOWN_BYTES, *known, self._raised.get(cell.dataset, 0)])
        return CONTEXT_BYTES + peaks.get(cell.folder.parent.name, max(peaks.values()))

    def learn(self, cell: Cell) -> None:
        """Take note of a cell that has finished."""
        _note(self._known(cell), cell.folder)

    def ran_out(self, cell: Cell, expected: int) -> None:
        """A cell of which so many bytes were expected found no room: of its data set expect half as
        much again from now on, where that is a guess. Cells that run out together were started by
        one guess, which is raised once."""
        if not self._known(cell):
            before = self._raised.get(cell.dataset, 0)
            self._raised[cell.dataset] = max(before, int(1.5 * expected))

    def _methods(self, cell: Cell) -> set[str]:
        """Those with runs of the cell's data set."""
        roots = (cell.root, *self._elsewhere)
        return {path.name for root in roots for path in (root / cell.dataset).glob("*")}

    def _known(self, cell: Cell) -> dict[str, int]:
        """Peak by configuration among the stored runs of the cell's data set and method."""
        key = (cell.dataset, cell.method)
        if key not in self._peaks:
            self._peaks[key] = {}
            for root in (cell.root, *self._elsewhere):
                method = replace(cell, root=root).folder.parent.parent
                for run in method.glob("*/seed=*/run.json"):
                    _note(self._peaks[key], run.parent)
        return self._peaks[key]


def _note(peaks: dict[str, int], folder: Path) -> None:
    """Enter the peak of the run in a cell's folder, if it has one: runs on a CPU have none."""
    try:
        peak = (store.read_run_json(folder) or {}).get("peak_device_bytes")
    except UserError:  # a damaged record is the business of whoever wants that cell
        return
    if isinstance(peak, int):
        config = folder.parent.name
        peaks[config] = max(peak, peaks.get(config, 0))


@dataclass
class Room:
    """What cells may take of this machine.

    Attributes:
        jobs: most cells at a time.
        gpus: that cells may use; empty: all run on the CPU.
        per_gpu: most cells on a GPU; None: as many as its memory is expected to hold.
        needs: what cells are expected to take of it.
        services: environment of the cells on a GPU, by its place in ``gpus``, where they share it
            by NVIDIA's MPS.
        in_turns: places of GPUs where cells would take turns, so that they run one after another
            unless ``per_gpu`` says otherwise.
        found_before: the services were running before, at a place where processes find them
            without being told.
    """

    jobs: int
    gpus: Sequence[Gpu] = ()
    per_gpu: int | None = None
    needs: Needs = field(default_factory=Needs)
    services: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    in_turns: frozenset[int] = frozenset()
    found_before: bool = False

    def environment(self, place: int, shares: bool = True) -> dict[str, str]:
        """What a cell on this GPU needs in its environment to see no other.

        Args:
            shares: whether it is to use the service there, if there is one.
        """
        service = self.services.get(place, {}) if shares else {}
        return {VISIBLE_VARIABLE: self.gpus[place].visible, **service}

    def need_bytes(self, settings: Settings) -> int | None:
        """What a cell is expected to take of a GPU's memory; None: it runs on the CPU."""
        on_gpu = self.gpus and settings.device != "cpu"
        return self.needs.expected_bytes(settings.cell) if on_gpu else None
