"""The p-values of all pairs of methods at a glance."""

from __future__ import annotations

from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmark.aggregate import DatasetResults
from benchmark.metrics import METRICS
from benchmark.report.drawing import INCHES_A_LETTER, Drawing, cut, new_figure, seeds_in_words
from benchmark.report.tables import compared
from benchmark.significance import ALPHA, TESTS, is_significant, name_tests

LOWEST = 0.001  # where the colour scale ends; with 10,000 sign flips few pairs get below it
COLOURS = "Blues_r"  # dark is small: what is not found fades into the paper
FOUND, BY_USERS = "●", "○"
NUMBERS = 16  # methods up to which cells have room for numbers
_LETTERS = 28  # of a name in front of its row


class Pairs(NamedTuple):
    """What the matrix shows, by rows and columns [n, n] in the order of the methods.

    Attributes:
        p: the largest corrected p-value of the pair's tests; NaN on the diagonal.
        difference: mean of the row's method minus that of the column's.
        mark: ``FOUND``, ``BY_USERS`` or nothing.
    """

    p: NDArray[np.float64]
    difference: NDArray[np.float64]
    mark: NDArray[np.str_]


def all_pairs(frame: pd.DataFrame, keys: list[str]) -> Pairs:
    """From the rows of ``compare_all``, a pair each, to both halves of a matrix."""
    place = {key: index for index, key in enumerate(keys)}
    n = len(keys)
    pairs = Pairs(np.full((n, n), np.nan), np.zeros((n, n)), np.full((n, n), "", dtype="<U1"))
    for _, row in frame.iterrows():
        i, j = place[row["a"]], place[row["b"]]
        pairs.p[i, j] = pairs.p[j, i] = max(float(row[f"{name}_p_holm"]) for name in TESTS)
        pairs.difference[i, j], pairs.difference[j, i] = row["difference"], -row["difference"]
        pairs.mark[i, j] = pairs.mark[j, i] = _mark(row)
    return pairs


def _mark(row: pd.Series) -> str:
    """Found with trainings counted, found by users only, or not found."""
    told = row.get("found")
    if told is None:
        return BY_USERS if is_significant(row, ALPHA) else ""
    return {"yes": FOUND, "users only: yes": BY_USERS}.get(str(told), "")


def p_matrix(result: DatasetResults) -> Drawing | None:
    """Below the diagonal the p-values, above it the differences; None for fewer than two methods
    or users."""
    if len(result.methods) < 2 or len(result.users) < 2:
        return None
    k = result.headline_k
    frame = compared(result, "ndcg", k)
    keys = list(result.values("ndcg", k).columns)
    labels = [cut(result.labels[key], _LETTERS, 2) for key in keys]
    pairs = all_pairs(frame, keys)
    n = len(keys)
    cell = 0.5 if n <= 6 else 0.42 if n <= NUMBERS else 0.25
    letters = max(len(line) for name in labels for line in name.splitlines())
    left, top, right, bottom = 0.4 + INCHES_A_LETTER * letters, 0.3, 1.0, 0.1
    side = n * cell
    width, height = left + side + right, max(top + side + bottom, 1.6)
    figure = new_figure(width, height, fitted=False)
    low = (height - top - side) / height
    axes = figure.add_axes((left / width, low, side / width, side / height))
    _fill(axes, pairs, LogNorm(LOWEST, 1), cell)
    axes.set_xticks(np.arange(n) + 0.5, [str(index + 1) for index in range(n)])
    axes.set_yticks(np.arange(n) + 0.5, [f"{label}  {i + 1}" for i, label in enumerate(labels)])
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    bar_height = min(max(side, 1.2), 2.4)
    bar_low = max(height - top - bar_height - max(side - bar_height, 0) / 2, 0.1) / height
    _colour_bar(figure, ((left + side + 0.15) / width, bar_low, 0.12 / width, bar_height / height))
    label = f"{METRICS['ndcg'].label}@{k}"
    caption = (
        f"All pairs of methods on {result.dataset}, {label}, paired by user (n = "
        f"{len(result.users):,}), {seeds_in_words(result.methods)} a method, a user's values "
        "averaged over them. Below the diagonal: the largest p-value of "
        f"{name_tests(len(frame))}, after Holm's correction over the {len(frame)} pairs. "
        f"Above it: {label} of the row's method minus that of the column's"
        f"{', times 100' if n <= NUMBERS else ', its sign where it is found'}. "
        f"{FOUND}: found (every p < {ALPHA}, and the seed-aware interval agrees); "
        f"{BY_USERS}: every p < {ALPHA}, by users only."
    )
    upper = pairs.mark[np.triu_indices(n, 1)]
    alt = (
        f"Matrix of {n} methods: of {len(frame)} pairs {(upper == FOUND).sum()} are found and "
        f"{(upper == BY_USERS).sum()} by users only; largest corrected p-values go from "
        f"{_short(float(np.nanmin(pairs.p)))} to {_short(float(np.nanmax(pairs.p)))}."
    )
    return Drawing(f"{result.dataset}-p-values", figure, caption, alt)


def _fill(axes: Axes, pairs: Pairs, norm: LogNorm, cell: float) -> None:
    """Colours below the diagonal, numbers where they can be read, marks everywhere."""
    n = len(pairs.p)
    colours = matplotlib.colormaps[COLOURS]
    shown = np.where(np.tri(n, k=-1, dtype=bool), np.clip(pairs.p, LOWEST, 1), np.nan)
    axes.pcolormesh(np.arange(n + 1), np.arange(n + 1), shown, cmap=colours, norm=norm,
                    edgecolors="#CCCCCC", linewidth=0.5)  # fmt: skip
    numbers = n <= NUMBERS
    for i, j in zip(*np.nonzero(~np.eye(n, dtype=bool)), strict=True):
        mark = str(pairs.mark[i, j])
        if i > j:
            text = f"{_short(pairs.p[i, j])}\n{mark}" if mark else _short(pairs.p[i, j])
            colour = "white" if float(norm(shown[i, j])) < 0.45 else "black"
        else:
            text = f"{100 * pairs.difference[i, j]:+.2f}".replace("-", "\N{MINUS SIGN}")
            colour = "black" if mark else "#666666"
        if not numbers:
            text = mark if i > j or not mark else text[0]
        axes.text(j + 0.5, i + 0.5, text, color=colour, ha="center",
                  va="center", fontsize=5.5 if cell < 0.5 else 6.5, linespacing=0.95,
                  fontweight="bold" if mark and i < j else "normal")  # fmt: skip
    axes.set(xlim=(0, n), ylim=(n, 0))
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _colour_bar(figure: Figure, place: tuple[float, float, float, float]) -> None:
    image = ScalarMappable(LogNorm(LOWEST, 1), matplotlib.colormaps[COLOURS])
    ticks = [1, 0.3, ALPHA, 0.01, LOWEST]
    bar = figure.colorbar(image, cax=figure.add_axes(place), ticks=ticks)
    bar.ax.set_yticks(ticks, ["1", "0.3", f"{ALPHA:g}", "0.01", f"≤{LOWEST:g}"])
    bar.ax.minorticks_off()
    bar.ax.axhline(ALPHA, color="black", linewidth=0.8)
    bar.set_label("largest corrected p")


def _short(p: float) -> str:
    """Three decimals, and never a p-value of 0."""
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
