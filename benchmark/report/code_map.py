"""One tokenizer's use of its codes by rule of assignment: as text, as JSON and as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from benchmark.report.codes import CodeUse
from benchmark.report.drawing import Drawing, new_figure, style, wrap

UNUSED = "#E4E4E4"
Scale = Literal["log", "linear"]


def use_of(codes: NDArray[np.int32], codebook_size: int) -> CodeUse:
    """Code use of int32 [N, m] codes, N >= 1, without suffix."""
    counts = np.stack([np.bincount(level, minlength=codebook_size) for level in codes.T])
    groups = np.unique(codes, axis=0, return_counts=True)[1]
    return CodeUse(counts.astype(np.int64), len(groups), int(groups.max()), True)


def use_facts(use: CodeUse) -> dict[str, Any]:
    """The same as JSON; lists have one value a level, entropy is in nats."""
    return {
        "used": use.used.tolist(),
        "entropy": np.log(use.perplexity).tolist(),
        "perplexity": use.perplexity.tolist(),
        "balance": use.balance.tolist(),
        "distinct": use.n_distinct,
        "collision_rate": use.collision_rate,
        "largest_group": use.largest_group,
    }


def use_table(uses: Mapping[str, CodeUse], own: str) -> list[str]:
    """Lines of text: a table by rule of assignment and level, then one by rule; ``own`` is the
    method's rule."""
    text = [
        f"{'assignment':12}{'level':>6}{'used':>7}{'entropy':>10}{'perplexity':>12}{'balance':>10}"
    ]
    for rule, use in uses.items():
        for level, perplexity in enumerate(use.perplexity):
            text.append(
                f"{rule:12}{level + 1:>6}{use.used[level]:>7}{np.log(perplexity):>10.3f}"
                f"{perplexity:>12.1f}{use.balance[level]:>10.3f}"
            )
    text += ["", f"{'assignment':12}{'distinct':>10}{'of items':>10}{'collisions':>12}"
                 f"{'largest group':>15}"]  # fmt: skip
    for rule, use in uses.items():
        text.append(
            f"{rule:12}{use.n_distinct:>10,}{1 - use.collision_rate:>10.2%}"
            f"{use.collision_rate:>12.2%}{use.largest_group:>15}"
            + ("  (the method's own)" if rule == own else "")
        )
    return text


def grid_shape(n_codes: int) -> tuple[int, int]:
    """Rows and columns of the most nearly square grid for the codes: (16, 16) for 256.

    Where the codes only factor into a long strip, the last row stays partly empty.
    """
    for rows in range(math.isqrt(n_codes), 0, -1):
        if n_codes % rows == 0 and n_codes // rows <= 2 * rows:
            return rows, n_codes // rows
    columns = math.isqrt(n_codes - 1) + 1
    return -(-n_codes // columns), columns


def code_grid(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Counts [K] laid out row by row, NaN where the grid has no code."""
    rows, columns = grid_shape(len(counts))
    grid = np.full(rows * columns, np.nan)
    grid[: len(counts)] = counts
    return grid.reshape(rows, columns)


def code_maps(
    name: str,
    title: str,
    uses: Mapping[str, CodeUse],
    caption: str = "",
    top: int | None = None,
    scale: Scale = "log",
    alt: str = "",
) -> Drawing:
    """Maps of code use, a row for each of ``uses`` by label, a column for each level.

    One colour scale for all of them, so that rows and levels can be compared; codes without items
    are grey with a cross, since the scale alone hardly tells none from one, least of all in print.

    Args:
        name: that of the files. title: above the maps. caption, alt: see ``Drawing``.
        top: items on the most crowded code of the scale; None: that of ``uses``.
        scale: colours by log(1 + items) or by items.
    """
    with style():
        levels, size = next(iter(uses.values())).counts.shape
        place = _Places(levels, len(uses), grid_shape(size), f"{title} (cross: no items)")
        figure = new_figure(place.width, place.height, fitted=False)
        norm = _norm(scale, top or max(int(use.counts.max()) for use in uses.values()))
        for row, (label, use) in enumerate(uses.items()):
            for level in range(levels):
                axes = figure.add_axes(place.panel(row, level))
                heading = f"{label}, level {level + 1}" if label else f"Level {level + 1}"
                axes.set_title(
                    f"{heading}\n{use.used[level]} of {size} codes used\n"
                    f"perplexity {use.perplexity[level]:.1f}", pad=3, fontsize=8,
                )  # fmt: skip
                image = _map(axes, use.counts[level], norm)
        _colour_bar(figure, image, place.bar(), scale)
        figure.suptitle(place.title, y=1 - 0.05 / place.height)
    return Drawing(name, figure, caption, alt)


class _Places:
    """Where the panels lie. Places are computed, since finding them out took matplotlib as long as
    drawing, and a report has a figure for each method."""

    PANEL, GAP, HEAD, LEFT, BAR = 1.9, 0.12, 0.5, 0.08, 0.95  # inches

    def __init__(self, levels: int, rows: int, shape: tuple[int, int], title: str) -> None:
        self.width = self.LEFT + levels * (self.PANEL + self.GAP) + self.BAR
        self.title = wrap(title, int(self.width / 0.085))
        self.top = 0.1 + 0.17 * (1 + self.title.count("\n"))
        self.panel_height = self.PANEL * shape[0] / shape[1]
        self.row_height = self.HEAD + self.panel_height + 0.06
        self.height = self.top + rows * self.row_height + 0.04

    def panel(self, row: int, level: int) -> tuple[float, float, float, float]:
        left = self.LEFT + level * (self.PANEL + self.GAP)
        bottom = self.height - self.top - row * self.row_height - self.HEAD - self.panel_height
        return self._share(left, bottom, self.PANEL, self.panel_height)

    def bar(self) -> tuple[float, float, float, float]:
        space = self.height - self.top - self.HEAD - 0.1
        height = min(space, 2.4)
        bottom = 0.1 + (space - height) / 2
        return self._share(self.width - self.BAR + 0.12, bottom, 0.13, height)

    def _share(self, *inches: float) -> tuple[float, float, float, float]:
        left, bottom, width, height = inches
        return (left / self.width, bottom / self.height, width / self.width, height / self.height)


def _norm(scale: Scale, top: int) -> Normalize:
    """From items to colours; below half an item is the colour of unused codes."""
    if scale == "linear":
        return Normalize(0.5, top)
    return FuncNorm((np.log1p, np.expm1), vmin=0.5, vmax=top)


def _map(axes: Axes, counts: NDArray[np.int64], norm: Normalize) -> AxesImage:
    grid = code_grid(counts)
    colours = matplotlib.colormaps[matplotlib.rcParams["image.cmap"]].with_extremes(
        under=UNUSED, bad="none"
    )
    image = axes.imshow(grid, cmap=colours, norm=norm, aspect="auto")
    y, x = np.nonzero(grid == 0)
    letters = float(np.clip(45 / grid.shape[1], 1.5, 5))
    axes.plot(x, y, "x", color="#9A9A9A", markersize=letters, scalex=False, scaley=False)
    axes.set_axis_off()
    return image


def _colour_bar(
    figure: Figure, image: AxesImage, place: tuple[float, float, float, float], scale: Scale
) -> None:
    top = round(float(image.get_clim()[1] or 1))
    if scale == "log":
        steps = [t for e in range(9) for t in (10**e, 3 * 10**e)]
    else:
        steps = [int(t) for t in MaxNLocator(5, integer=True).tick_values(0, top) if t >= 1]
    # Two numbers need a sixteenth of the bar between them.
    ticks = [t for t in steps if t < top and _height(image, t) < 0.94] + [top]
    bar = figure.colorbar(image, cax=figure.add_axes(place), ticks=ticks, extend="min")
    bar.set_label("items (log scale)" if scale == "log" else "items")
    bar.ax.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    bar.ax.minorticks_off()


def _height(image: AxesImage, items: int) -> float:
    """Where on the colour scale a number of items stands, from 0 to 1."""
    return float(np.asarray(image.norm(np.array([items], dtype=np.float64)))[0])
