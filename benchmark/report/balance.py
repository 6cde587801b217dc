"""Two-stage IDs beside trained ones: how well they rank, and how evenly they use their codes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from benchmark.aggregate import DatasetResults, MethodRuns
from benchmark.metrics import METRICS
from benchmark.report.codes import code_uses
from benchmark.report.drawing import (
    WIDTH,
    Drawing,
    extremes,
    legend_below,
    look,
    new_figure,
    seeds_in_words,
    wrap,
)

TWO_STAGE = "tiger"
ROW_HEIGHT = 0.32  # inches a method
LABEL_LETTERS = 26


def code_balance(result: DatasetResults) -> Drawing | None:
    """NDCG and balance of code use, a row a method; None without two-stage IDs and others beside
    them."""
    methods = [method for method in result.methods if code_uses(method)]
    if len(methods) < 2 or all(method.method != TWO_STAGE for method in methods):
        return None
    label = f"{METRICS['ndcg'].label}@{result.headline_k}"
    figure = new_figure(WIDTH, 0.75 + ROW_HEIGHT * len(methods))
    left, right = figure.subplots(1, 2, sharey=True)
    means = _accuracy(left, methods, result)
    levels, balances = _balance(right, methods)
    left.set_yticks(range(len(methods)), [wrap(m.label, LABEL_LETTERS) for m in methods])
    left.invert_yaxis()
    left.set_xlabel(f"test {label}")
    right.set_xlabel("balance of code use")
    left.xaxis.set_major_locator(MaxNLocator(5))
    legend_below(figure, levels)
    caption = (
        f"Two-stage and trained semantic IDs on {result.dataset}; {seeds_in_words(methods)} a "
        f"method. Left: test {label}, mean over {len(result.users):,} users; large marks are means "
        "over seeds, small ones seeds, the grey line is two-stage. Right: balance of the tested "
        "IDs' codes, 1 - sum |n - N/K| / (2N), level by level, mean over seeds; 1: all codes are "
        "used alike."
    )
    alt = f"{label} {extremes(means)}; balance, mean over levels, {extremes(balances)}."
    return Drawing(f"{result.dataset}-balance", figure, caption, alt)


def _accuracy(axes: Axes, methods: list[MethodRuns], result: DatasetResults) -> dict[str, float]:
    """A mark for each mean and a small one for each seed; the means by label."""
    column = ("ndcg", result.headline_k)
    style = look(0) | {"linestyle": "None"}
    small = style | {"markersize": style["markersize"] / 2, "alpha": 0.6}
    means = {}
    for place, method in enumerate(methods):
        seeds = [float(frame[column].mean()) for frame in method.per_seed]
        means[method.label] = float(np.mean(seeds))
        axes.plot(means[method.label], place, **style)
        axes.plot(seeds, [place] * len(seeds), **small)
        if method.method == TWO_STAGE:
            axes.axvline(means[method.label], color="0.6", linewidth=0.8, zorder=0)
    return means


def _balance(
    axes: Axes, methods: list[MethodRuns]
) -> tuple[list[tuple[Line2D, str]], dict[str, float]]:
    """A mark a level and method; what the legend shows, and the means over levels by label."""
    by_method = [np.mean([use.balance for use in code_uses(method)], axis=0) for method in methods]
    deepest = max(len(levels) for levels in by_method)
    entries = []
    for level in range(deepest):
        known = [(levels[level], place) for place, levels in enumerate(by_method)
                 if level < len(levels)]  # fmt: skip
        x, y = zip(*known, strict=True)
        (line,) = axes.plot(x, y, **look(level + 1) | {"linestyle": "None"})
        entries.append((line, f"level {level + 1}"))
    axes.set_xlim(-0.03, 1.03)
    return entries, {m.label: float(np.mean(b)) for m, b in zip(methods, by_method, strict=True)}
