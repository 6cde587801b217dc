"""One tokenizer's use of its codes by rule of assignment: as text, as JSON and as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmark.report.codes import CodeUse
from benchmark.report.drawing import Drawing, style

UNUSED = "#C8C8C8"


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
    name: str, title: str, uses: Mapping[str, CodeUse], caption: str = "", top: int | None = None
) -> Drawing:
    """Maps of code use, a row for each of ``uses`` by label, a column for each level.

    One colour scale for all of them, so that rows and levels can be compared; codes without items
    are grey, since the scale alone hardly tells none from one.

    Args:
        name: that of the files. title: above the maps. caption: below them in a report.
        top: items on the most crowded code of the scale; None: that of ``uses``.
    """
    with style():
        levels, size = next(iter(uses.values())).counts.shape
        rows, columns = grid_shape(size)
        height = max(2.6 * rows / columns, 1.4) + 0.65
        figure = Figure(figsize=(2.6 * levels + 0.9, height * len(uses) + 0.3),
                        layout="constrained")  # fmt: skip
        FigureCanvasAgg(figure)
        colours = matplotlib.colormaps[matplotlib.rcParams["image.cmap"]].with_extremes(
            under=UNUSED, bad="none"
        )
        panels = figure.subplots(len(uses), levels, squeeze=False)
        top = top or max(int(use.counts.max()) for use in uses.values())
        for row, (label, use) in zip(panels, uses.items(), strict=True):
            for level, axes in enumerate(row):
                grid = np.log1p(code_grid(use.counts[level]))
                image = axes.imshow(grid, cmap=colours, vmin=np.log1p(0.5), vmax=np.log1p(top))
                heading = f"{label}, level {level + 1}" if label else f"Level {level + 1}"
                axes.set_title(
                    f"{heading}\n{use.used[level]} of {size} codes used\n"
                    f"perplexity {use.perplexity[level]:.1f}"
                )
                axes.set_axis_off()
        ticks = [t for e in range(9) for t in (10**e, 3 * 10**e) if t < top / 1.3] + [top]
        bar = figure.colorbar(image, ax=panels, ticks=[float(np.log1p(t)) for t in ticks],
                              shrink=0.8 if len(uses) == 1 else 0.5,
                              extend="min", label="items, log(1 + n); grey: none")  # fmt: skip
        bar.ax.set_yticklabels([f"{tick:,}" for tick in ticks])
        figure.suptitle(title, fontsize=11)
    return Drawing(name, figure, caption)
