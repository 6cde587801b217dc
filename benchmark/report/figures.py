"""Figures from stored results, as matplotlib figures; ``drawing.save`` writes them as PNG and PDF.

Equal input gives equal bytes: no dates in the files, no state shared through pyplot, and the
package's own style sheet on matplotlib's defaults, whatever the user's settings.
"""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.style
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from benchmark.aggregate import DatasetResults, MethodRuns
from benchmark.metrics import METRICS
from benchmark.report.code_map import code_maps
from benchmark.report.codes import CodeUse, code_use
from benchmark.report.diagnostics import epochs, series
from benchmark.report.drawing import Drawing, style
from benchmark.store import StoredRun


def all_drawings(result: DatasetResults) -> list[Drawing]:
    """Every figure that the stored runs of a data set allow."""
    with style():
        drawings = [validation_curves(result), code_history(result), noise_history(result)]
        return [drawing for drawing in drawings if drawing is not None] + heat_maps(result)


def heat_maps(result: DatasetResults) -> list[Drawing]:
    """Code use of each method with semantic IDs, on one colour scale: of the epoch that validation
    chose and, where it was kept and trained on, of the last one.

    Codes of different seeds have nothing to do with each other, so the first seed is shown, not
    a mean over seeds.
    """
    drawn = [(method, uses) for method in result.methods if (uses := _uses(method))]
    top = max((int(use.counts.max()) for _, uses in drawn for use in uses.values()), default=0)
    return [
        code_maps(
            f"{result.dataset}-codes-{_file_name(method.key)}",
            f"{method.label} on {result.dataset}: code use",
            uses,
            f"{method.label}: items on each code of each level (semantic IDs of the epoch that "
            f"validation chose{_chosen(method)}{', and of the last one' if len(uses) > 1 else ''}, "
            f"seed {method.seeds[0]}; codes row by row from 0), one colour scale for all methods; "
            "codes without items are grey.",
            top,
        )
        for method, uses in drawn
    ]


def _uses(method: MethodRuns) -> dict[str, CodeUse]:
    """Code use of the first seed by the label of its row; empty for methods without codes."""
    run = method.runs[0]
    chosen, last = code_use(run), code_use(run, last=True)
    if chosen is None:
        return {}
    if last is None or np.array_equal(chosen.counts, last.counts):
        return {"": chosen}
    return {"Chosen": chosen, "Last epoch": last}


def _chosen(method: MethodRuns) -> str:
    """``, epoch 4 of 0 to 7``, of the first seed; empty where the run does not say."""
    best, log = method.facts("describe", "best_epoch"), epochs(method.runs[0])
    return f", epoch {best[0]} of 0 to {log[-1]['epoch']}" if best and log else ""


def validation_curves(result: DatasetResults) -> Drawing | None:
    """Validation NDCG over epochs; None where no method logs it."""
    k = result.headline_k
    figure = _figure(7.5, 3.8)
    axes = figure.subplots()
    if not _curves(axes, result, f"valid/ndcg@{k}", _mean_of_levels):
        return None
    axes.set_ylabel(f"validation {METRICS['ndcg'].label}@{k}")
    _from_zero(axes)
    axes.set_title(f"Validation on {result.dataset}")
    _legend(figure, [axes])
    return Drawing(f"{result.dataset}-validation", figure, f"Validation curves. {_BAND}")


_BAND = (
    "Lines: mean over the seeds that reached the epoch; bands: their lowest to highest; dots: "
    "epochs that not every seed reached."
)


def code_history(result: DatasetResults) -> Drawing | None:
    """Codes in use and drift of the semantic IDs over epochs; None where neither is logged."""
    return _two_panels(
        result, "history", f"Codes and drift. {_BAND}",
        ("codes/used", "used codes, mean over levels"),
        ("drift/full", "items whose codes changed (share)"),
    )  # fmt: skip


def noise_history(result: DatasetResults) -> Drawing | None:
    """Learned noise and share of hot codes over epochs; None where neither is logged."""
    return _two_panels(
        result, "noise", f"Noise. {_BAND}",
        ("sigma", "sigma, mean over levels"), ("hot_share", "hot codes (share), mean over levels"),
    )  # fmt: skip


def _two_panels(
    result: DatasetResults, name: str, caption: str, *panels: tuple[str, str]
) -> Drawing | None:
    present = [panel for panel in panels if any(
        series(epochs(run), panel[0]) for run in result.runs)]  # fmt: skip
    if not present:
        return None
    figure = _figure(4.6 * len(present) + 1.8, 3.6)
    row = list(figure.subplots(1, len(present), squeeze=False)[0])
    for axes, (key, label) in zip(row, present, strict=True):
        _curves(axes, result, key, _mean_of_levels)
        axes.set_ylabel(label)
        _from_zero(axes)
    row[0].set_title(result.dataset, loc="left")
    _legend(figure, row)
    return Drawing(f"{result.dataset}-{name}", figure, caption)


def _curves(
    axes: Axes, result: DatasetResults, key: str,
    reduce: Callable[[NDArray[np.float64]], float],
) -> bool:  # fmt: skip
    """Draw one line a method, each in its own style in every figure; False if there is none."""
    looks = list(matplotlib.rcParams["axes.prop_cycle"])
    drawn = False
    for index, method in enumerate(result.methods):
        by_epoch = history(method.runs, key, reduce)
        if not by_epoch:
            continue
        drawn = True
        look = looks[index % len(looks)]
        x = np.array(list(by_epoch))
        mean, low, high = (
            np.array([f(values) for values in by_epoch.values()]) for f in (np.mean, min, max)
        )
        marker = "o" if len(x) == 1 else None
        axes.plot(x, mean, label=method.label, marker=marker, **look)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
        partial = [len(values) < len(method.runs) for values in by_epoch.values()]
        axes.plot(x[partial], mean[partial], ".", color=look["color"], linestyle="none")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return drawn


def history(
    runs: tuple[StoredRun, ...], key: str, reduce: Callable[[NDArray[np.float64]], float]
) -> dict[int, list[float]]:
    """The logged values of each epoch, one a run that reached it, by rising epoch."""
    found: dict[int, list[float]] = {}
    for run in runs:
        for epoch, values in series(epochs(run), key):
            found.setdefault(epoch, []).append(reduce(values))
    return dict(sorted(found.items()))


def _mean_of_levels(values: NDArray[np.float64]) -> float:
    return float(values.mean())


def _from_zero(axes: Axes) -> None:
    """Show zero, and leave room for lines that lie at either end."""
    top = max((float(np.max(line.get_ydata(), initial=0)) for line in axes.lines), default=0.0)
    top = top or 1.0
    axes.set_ylim(-0.02 * top, 1.06 * top)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, with a canvas of its own."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _legend(figure: Figure, row: list[Axes]) -> None:
    """One legend for all panels, beside them so that it hides no line."""
    entries: dict[str, Artist] = {}
    for axes in row:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(str(label), handle)
    figure.legend(list(entries.values()), list(entries), loc="outside right upper")


def _file_name(key: str) -> str:
    """A method's key as part of a file name."""
    return (
        "".join(c if c.isalnum() or c in "_-" else "-" for c in key).strip("-").replace("--", "-")
    )
