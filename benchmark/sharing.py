"""How cells share GPUs: how many run at once, and whether by NVIDIA's MPS or one after another."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from benchmark import mps
from benchmark.errors import UserError
from benchmark.gpu import Room
from benchmark.processes import Planned
from benchmark.scheduler import Want, make_scheduler


def side_by_side(cells: Sequence[Planned], room: Room) -> list[int]:
    """How many of the cells start at once on each GPU."""
    scheduler, places = make_scheduler(room), [0] * len(room.gpus)
    waiting = [Want(key, room.need_bytes(cell.settings)) for key, cell in enumerate(cells)]
    while (start := scheduler.start(waiting)) is not None:
        waiting = [want for want in waiting if want.key != start.key]
        if start.gpu is not None:
            places[start.gpu] += 1
    return places


def several_on_one(cells: Sequence[Planned], room: Room) -> bool:
    """Whether two of the cells may ever run on one GPU."""
    waiting = sum(room.need_bytes(cell.settings) is not None for cell in cells)
    return room.per_gpu != 1 and min(room.jobs, waiting) > len(room.gpus) > 0


def without_a_service(cells: Sequence[Planned], room: Room, wanted: str) -> Room:
    """The room as it will be if NVIDIA's MPS works where it is installed and ``wanted``."""
    hoped = mps.is_installed() and (wanted != "off" or mps.running() is not None)
    if hoped or not several_on_one(cells, room):
        return room
    return replace(room, in_turns=frozenset(range(len(room.gpus))))


@contextmanager
def shared_by_mps(cells: Sequence[Planned], room: Room, wanted: str) -> Iterator[Room]:
    """The room with NVIDIA's MPS on the GPUs that the cells use, while it lasts, where several are
    to run on one; a line on standard error says of each whether there is one. A GPU without takes
    one cell at a time, unless ``--jobs-per-gpu`` says how many.

    Args:
        wanted: ``auto``, or ``off`` for none.
    """
    if not several_on_one(cells, room):
        yield room
        return
    services: dict[int, Mapping[str, str]] = {}
    theirs, silent = mps.running(), False
    with ExitStack() as stack:
        for place, gpu in enumerate(room.gpus):
            try:
                if theirs is not None:
                    services[place] = theirs
                elif wanted == "off":
                    raise UserError("--mps off")
                elif silent:  # minutes for each GPU, before any cell has started
                    raise UserError("not tried, after the one before")
                else:
                    services[place] = stack.enter_context(mps.serve(gpu.visible))
                line = f"{gpu}: cells run at the same time, by NVIDIA's MPS"
                line += "" if theirs is None else ", which was running before"
            except UserError as error:
                silent = silent or isinstance(error, mps.NoAnswer)
                rule = (
                    "take turns" if room.per_gpu else "run one after another (--jobs-per-gpu N: N)"
                )
                line = f"note: {gpu}: cells {rule}: {error}"
            print(line, file=sys.stderr, flush=True)
        yield replace(
            room, services=services, in_turns=frozenset(range(len(room.gpus))) - set(services),
            found_before=theirs is not None,
        )  # fmt: skip
