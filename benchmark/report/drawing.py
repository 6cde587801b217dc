"""A finished figure and how it is written: the same bytes for the same input."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

from benchmark.store import atomic

STYLE = Path(__file__).with_name("style.mplstyle")
FORMATS = ("png", "pdf")


@dataclass(frozen=True, eq=False)
class Drawing:
    """A finished figure, the name of its files, and what readers must know to read it.

    Attributes:
        name: of the files, without an ending.
        caption: what is drawn, of how many users and seeds, and what lines, bands and marks are.
        alt: one sentence for those who cannot see the figure, on what is to be seen in it; the
            caption's first sentence where none is given.
    """

    name: str
    figure: Figure
    caption: str
    alt: str = ""

    def __post_init__(self) -> None:
        if not self.alt:
            first = re.split(r"(?<=\.)\s", self.caption, maxsplit=1)[0]
            object.__setattr__(self, "alt", first or self.name)


@contextmanager
def style() -> Iterator[None]:
    with matplotlib.style.context(["default", STYLE]):
        yield


def save(drawing: Drawing, folder: Path, command: str) -> list[Path]:
    """Write ``<folder>/<name>.png`` and ``.pdf``; ``command`` goes into their metadata."""
    metadata: dict[str, dict[str, str | None]] = {
        "png": {"Software": None, "Comment": f"Made by: {command}"},
        "pdf": {"CreationDate": None, "Subject": f"Made by: {command}"},
    }
    drawing.figure.draw_without_rendering()  # lays it out once, for both formats
    drawing.figure.set_layout_engine("none")
    paths = []
    for form in FORMATS:
        path = folder / f"{drawing.name}.{form}"
        with style(), atomic(path) as temporary:
            drawing.figure.savefig(temporary, format=form, metadata=metadata[form])
        paths.append(path)
    return paths
