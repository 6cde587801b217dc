"""What all figures share: a finished figure and how it is written, looks, legends, words.

Equal input gives equal bytes: no dates in the files, no state shared through pyplot, and the
package's own style sheet on matplotlib's defaults, whatever the user's settings.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmark.aggregate import MethodRuns
from benchmark.store import atomic

STYLE = Path(__file__).with_name("style.mplstyle")
FORMATS = ("png", "pdf")
WIDTH = 7.0  # inches: what a page of print has, so that sizes of type are what the style says
INCHES_A_LETTER = 0.057  # of legends and labels, with room to spare
LINE_HEIGHT = 0.155  # inches, of a legend's line


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
    paths = []
    with style():
        if drawing.figure.get_layout_engine() is not None:
            drawing.figure.draw_without_rendering()  # lays it out once, for both formats
            drawing.figure.set_layout_engine(None)
        for form in FORMATS:
            path = folder / f"{drawing.name}.{form}"
            with atomic(path) as temporary:
                drawing.figure.savefig(temporary, format=form, metadata=metadata[form])
            paths.append(path)
    return paths


def new_figure(width: float, height: float, fitted: bool = True) -> Figure:
    """An empty figure, in inches, with a canvas of its own; ``fitted``: matplotlib finds out where
    everything goes."""
    engine = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.05) if fitted else None
    figure = Figure(figsize=(width, height), layout=engine)
    FigureCanvasAgg(figure)
    return figure


def look(index: int) -> dict[str, Any]:
    """Colour, marker and line style of a data set's method, the same in every figure."""
    looks = list(matplotlib.rcParams["axes.prop_cycle"])
    found = dict(looks[index % len(looks)])
    size = float(matplotlib.rcParams["lines.markersize"])
    found["markersize"] = 1.5 * size if found["marker"] == "*" else size  # a star is mostly air
    return found


def legend_below(figure: Figure, entries: Sequence[tuple[Artist, str]]) -> None:
    """One legend for all panels below them, where it hides no line, and make room for it."""
    if not entries:
        return
    width = figure.get_figwidth()
    longest = int(width / INCHES_A_LETTER) - 8
    labels = [wrap(label, longest) for _, label in entries]
    letters = max(len(line) for label in labels for line in label.splitlines())
    columns = int(np.clip(width // (letters * INCHES_A_LETTER + 0.55), 1, 4))
    columns = min(columns, len(entries))
    lines = [label.count("\n") + 1 for label in labels]
    rows = -(-len(lines) // columns)
    figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * rows * max(lines) + 0.1)
    handles = [handle for handle, _ in entries]
    # Labels with a leading underscore would be left out, so they are put in afterwards.
    legend = figure.legend(
        handles, ["."] * len(entries), loc="outside lower center", ncols=columns, handlelength=3.2
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


def wrap(text: str, width: int) -> str:
    """Break a text into lines of at most ``width`` letters, inside a word if there is no blank."""
    return "\n".join(textwrap.wrap(text, max(width, 1))) or text


def plain_log(axis: Axis) -> None:
    """Label a log axis ``0.01, 0.1, 1, 10``: no powers, which would need formulas. Between powers
    of ten there are labels where the axis spans few of them."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low) if 0 < low < high else 1.0
    between = (1.0, 2.0, 5.0) if decades < 2 else (1.0, 3.0) if decades < 4 else (1.0,)
    axis.set_major_locator(LogLocator(subs=between))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axis.set_minor_formatter(NullFormatter())


def file_names(keys: Sequence[str]) -> dict[str, str]:
    """A part of a file name for each method's key: plain letters, no two alike."""
    names: dict[str, str] = {}
    for key in keys:
        plain = re.sub(r"[^\w-]+", "-", key).strip("-") or "method"
        name, number = plain, 2
        while name in names.values():
            name, number = f"{plain}-{number}", number + 1
        names[key] = name
    return names


def seeds_in_words(methods: Sequence[MethodRuns]) -> str:
    """``one seed``, ``5 seeds`` or ``1 to 5 seeds``, of each of the methods."""
    counts = sorted({len(method.seeds) for method in methods})
    if counts == [1]:
        return "one seed"
    return f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seeds"


def extremes(values: Mapping[str, float]) -> str:
    """``0.02 (Popularity) to 0.1 (TIGER)``: lowest and highest of values by label, at least one."""
    low, high = min(values, key=lambda k: values[k]), max(values, key=lambda k: values[k])
    if values[low] == values[high] and len(values) > 1:
        return f"{values[low]:.3g} (all)"
    ends = [f"{values[label]:.3g} ({label})" for label in dict.fromkeys((low, high))]
    return " to ".join(ends)


def cut(text: str, width: int, lines: int) -> str:
    """``wrap``, of at most so many lines; a longer text ends with dots."""
    wrapped = wrap(text, width).split("\n")
    if len(wrapped) <= lines:
        return "\n".join(wrapped)
    return "\n".join([*wrapped[: lines - 1], wrapped[lines - 1][: width - 1] + "…"])
