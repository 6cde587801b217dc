"""Figures over epochs, one line a method: validation, codes, drift, noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from benchmark.aggregate import DatasetResults, MethodRuns
from benchmark.metrics import METRICS
from benchmark.report.diagnostics import epochs
from benchmark.report.drawing import (
    WIDTH,
    Drawing,
    extremes,
    legend_below,
    look,
    new_figure,
    plain_log,
    seeds_in_words,
)
from benchmark.store import StoredRun

Floats = NDArray[np.float64]
Reduce = Callable[[Floats], float]

_LINES = (
    "Lines: mean over the seeds that reached the epoch, thin where not every seed did; bands: "
    "their lowest to highest."
)


def mean_of_levels(values: Floats) -> float:
    """Over the levels that have a value; NaN where none has."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _level(index: int) -> Reduce:
    return lambda values: float(values[index]) if index < len(values) else float("nan")


@dataclass(frozen=True)
class Panel:
    """One set of axes: a key of the log, what to call it, and how levels become one number."""

    key: str
    label: str
    reduce: Reduce = mean_of_levels
    log: bool = False


def validation_curves(result: DatasetResults) -> Drawing | None:
    """Validation NDCG over epochs; None where no method logs it."""
    label = f"{METRICS['ndcg'].label}@{result.headline_k}"
    panel = Panel(f"valid/ndcg@{result.headline_k}", f"validation {label}")
    return _panels(result, "validation", f"Validation {label} on {result.dataset}", [panel], 3.2)


def code_history(result: DatasetResults) -> Drawing | None:
    """How the codes are used over epochs; None where it is not logged."""
    return _panels(
        result, "history", f"Use of codes by all items of {result.dataset}, epoch by epoch",
        [Panel("codes/used", "used codes, mean over levels"),
         Panel("codes/perplexity", "perplexity, mean over levels"),
         Panel("codes/collision_rate", "collision rate")],
    )  # fmt: skip


def drift_history(result: DatasetResults) -> Drawing | None:
    """Share of items whose codes changed in each epoch, any of them and level by level; None where
    it is not logged."""
    levels = [np.size(row["drift/level"]) for run in result.runs for row in epochs(run)
              if row.get("drift/level")]  # fmt: skip
    panels = [Panel("drift/full", "any level")]
    panels += [Panel("drift/level", f"level {level + 1}", _level(level))
               for level in range(max(levels, default=0))]  # fmt: skip
    return _panels(
        result, "drift", "Drift of semantic IDs: share of the items whose code changed since the "
        f"epoch before, on {result.dataset}", panels, share_y=True, of="items that changed (share)",
    )  # fmt: skip


def noise_history(result: DatasetResults) -> Drawing | None:
    """Noise over epochs, as far as it is logged: learned scale, hot codes, the scale that results,
    codes that it changed, signal to noise and temperature."""
    return _panels(
        result, "noise",
        f"Noise on {result.dataset}, means over levels (signal to noise: median gap between a "
        "level's best two logits over the noise, levels with noise only)",
        [Panel("sigma", "sigma"), Panel("hot_share", "hot codes (share)"),
         Panel("noise_scale", "noise scale, mean over codes"),
         Panel("noise/flipped", "changed by noise (share)"),
         Panel("snr", "signal to noise", log=True), Panel("tau", "temperature tau")],
    )  # fmt: skip


def _panels(
    result: DatasetResults, name: str, what: str, panels: Sequence[Panel], height: float = 2.2,
    share_y: bool = False, of: str = "",
) -> Drawing | None:  # fmt: skip
    """Panels that show more than zeros, up to three in a row; None where none does.

    Args:
        what: the caption's first words.
        of: what all panels show, in front of each panel's own label.
    """
    found = [(panel, _histories(result, panel)) for panel in panels]
    shown = [(panel, lines) for panel, lines in found if _top(lines) > 0]
    if not shown:
        return None
    columns = min(3 if len(shown) != 4 else 2, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(WIDTH, height * rows)
    grid = figure.subplots(rows, columns, sharey=share_y, squeeze=False).ravel()
    highest = max(_top(lines) for _, lines in shown)
    handles: dict[int, Line2D] = {}
    for axes, (panel, lines) in zip(grid, shown, strict=False):
        for index, by_epoch in lines.items():
            handles.setdefault(index, _curve(axes, index, by_epoch, result.methods[index]))
        _dress(axes, panel, of, highest if share_y else _top(lines))
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    drawn = [result.methods[index] for index in sorted(handles)]
    legend_below(figure, [(handles[index], result.methods[index].label)
                          for index in sorted(handles)])  # fmt: skip
    caption = f"{what}; {seeds_in_words(drawn)} a method. {_LINES}"
    said = "; ".join(f"{panel.label} {_ends(result, lines)}" for panel, lines in shown)
    alt = f"Curves over epochs of {len(drawn)} methods, at their last epoch: {said}."
    return Drawing(f"{result.dataset}-{name}", figure, caption, alt)


def _histories(result: DatasetResults, panel: Panel) -> dict[int, dict[int, list[float]]]:
    """``history`` of each method that logs the panel's key, by its place among the methods."""
    found = {index: history(method.runs, panel.key, panel.reduce)
             for index, method in enumerate(result.methods)}  # fmt: skip
    return {index: by_epoch for index, by_epoch in found.items() if by_epoch}


def history(
    runs: tuple[StoredRun, ...], key: str, reduce: Reduce = mean_of_levels
) -> dict[int, list[float]]:
    """The logged values of each epoch, one a run that reached it, by rising epoch.

    A value that is missing (null, also one level's) is NaN for ``reduce``; where that gives NaN,
    the run has no value.
    """
    found: dict[int, list[float]] = {}
    for run in runs:
        for row in epochs(run):
            if row.get(key) is None:
                continue
            value = reduce(np.atleast_1d(np.asarray(row[key], dtype=np.float64)))
            if not np.isnan(value):
                found.setdefault(int(row["epoch"]), []).append(value)
    return dict(sorted(found.items()))


def _curve(
    axes: Axes, index: int, by_epoch: dict[int, list[float]], method: MethodRuns
) -> Line2D:  # fmt: skip
    """Draw one method's line and band; the line is what the legend shows."""
    x = np.array(list(by_epoch))
    mean, low, high = (
        np.array([f(values) for values in by_epoch.values()]) for f in (np.mean, min, max)
    )
    style = look(index)
    step = max(1, -(-len(x) // 8))
    style["markevery"] = (index % step, step)  # methods' markers side by side, not on one another
    whole = np.array([len(values) == len(method.runs) for values in by_epoch.values()])
    (line,) = axes.plot(x, np.where(whole, mean, np.nan), **style)
    if not whole.all():
        joined = ~whole | np.append(~whole[1:], False)  # from the last point of the thick line
        style |= {"linewidth": 0.6, "markersize": 0.6 * style["markersize"]}
        axes.plot(x, np.where(joined, mean, np.nan), **style)
    if len(method.runs) > 1:
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    return line


def _dress(axes: Axes, panel: Panel, of: str, top: float) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    if of:
        axes.set_title(panel.label)
        axes.set_ylabel(of if axes.get_subplotspec().is_first_col() else "")  # type: ignore[union-attr]
    else:
        axes.set_ylabel(panel.label)
    if panel.log:
        axes.set_yscale("log")
        plain_log(axes.yaxis)
        return
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))  # labels of few digits
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(-0.02 * top, 1.06 * top)  # room for lines that lie at either end


def _top(lines: dict[int, dict[int, list[float]]]) -> float:
    """The highest value of any seed; 0 where none is above 0."""
    values = [value for by_epoch in lines.values() for found in by_epoch.values()
              for value in found]  # fmt: skip
    return max(values, default=0.0)


def _ends(result: DatasetResults, lines: dict[int, dict[int, list[float]]]) -> str:
    """Lowest and highest last value, mean over the seeds that got there."""
    last = {result.methods[index].label: float(np.mean(by_epoch[max(by_epoch)]))
            for index, by_epoch in lines.items()}  # fmt: skip
    return extremes(last)
