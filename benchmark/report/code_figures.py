"""Figures of what methods do with their codes: heat maps, Lorenz curves, inflated hits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.aggregate import DatasetResults, MethodRuns
from benchmark.metrics import CODE_LEVEL, METRICS
from benchmark.report.code_map import Scale, code_maps
from benchmark.report.codes import CodeUse, code_use, code_uses
from benchmark.report.diagnostics import epochs
from benchmark.report.drawing import (
    WIDTH,
    Drawing,
    extremes,
    file_names,
    legend_below,
    look,
    new_figure,
    seeds_in_words,
    wrap,
)


def heat_maps(result: DatasetResults, scale: Scale = "log") -> list[Drawing]:
    """Code use of each method with semantic IDs, on one colour scale: of the epoch that validation
    chose and, where it was kept and trained on, of the last one.

    Codes of different seeds have nothing to do with each other, so the first seed is shown, not
    a mean over seeds.
    """
    drawn = [(method, uses) for method in result.methods if (uses := _uses(method))]
    top = max((int(use.counts.max()) for _, uses in drawn for use in uses.values()), default=0)
    names = file_names([method.key for method, _ in drawn])
    return [
        code_maps(
            f"{result.dataset}-codes-{names[method.key]}",
            f"{method.label} on {result.dataset}: code use",
            uses,
            f"{method.label}: items on each code of each level (semantic IDs of the epoch that "
            f"validation chose{_chosen(method)}{', and of the last one' if len(uses) > 1 else ''}, "
            f"seed {method.seeds[0]}; codes row by row from 0), one colour scale for all methods"
            f"{', by log(1 + items)' if scale == 'log' else ''}; codes without items are grey "
            "with a cross.",
            top,
            scale,
            _map_alt(method, uses),
        )
        for method, uses in drawn
    ]


def _map_alt(method: MethodRuns, uses: dict[str, CodeUse]) -> str:
    said = []
    for label, use in uses.items():
        levels = "; ".join(
            f"level {level + 1} uses {used} of {use.counts.shape[1]} codes, at most "
            f"{use.counts[level].max():,} items on one"
            for level, used in enumerate(use.used)
        )
        said.append(f"{label.lower() + ': ' if label else ''}{levels}")
    return f"Code use of {method.label}, seed {method.seeds[0]}: {'; '.join(said)}."


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


def lorenz(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The Lorenz curve of counts [K] as float64 [K + 1]: the share of all items that the k least
    used codes have together, k from 0 to K (Lorenz 1905). Its last value is 1."""
    rising = np.concatenate([[0], np.cumsum(np.sort(counts))]).astype(np.float64)
    return rising / rising[-1]


def lorenz_curves(result: DatasetResults) -> Drawing | None:
    """How unevenly each method uses the codes of each level; None without semantic IDs.

    The Gini coefficient is linear in the Lorenz curve, so the mean curve's is the mean one.
    """
    used = {m.key: uses for m in result.methods if (uses := code_uses(m))}
    if not used:
        return None
    methods = [method for method in result.methods if method.key in used]
    n_levels = max(len(uses[0].counts) for uses in used.values())
    figure = new_figure(max(WIDTH, 2.2 * n_levels), 2.7)
    row = figure.subplots(1, n_levels, sharey=True, squeeze=False)[0]
    entries = []
    ginis: dict[str, float] = {}
    for index, method in enumerate(result.methods):
        if method.key not in used:
            continue
        uses = used[method.key]
        for level in range(len(uses[0].counts)):
            curves = _on_one_grid([lorenz(use.counts[level]) for use in uses])
            x = np.linspace(0, 1, curves.shape[1])
            step = max(1, len(x) // 6)
            (line,) = row[level].plot(x, curves.mean(axis=0), **look(index),
                                      markevery=(index * step // 12, step))  # fmt: skip
            row[level].fill_between(x, curves.min(axis=0), curves.max(axis=0),
                                    color=line.get_color(), alpha=0.15, linewidth=0)  # fmt: skip
        mean = np.mean([use.gini for use in uses], axis=0)
        ginis[method.label] = float(mean.mean())
        words = " / ".join(f"{value:.2f}" for value in mean)
        entries.append((line, f"{method.label}: Gini {words}"))
    for level, axes in enumerate(row):
        axes.axline((0, 0), (1, 1), color="#777777", linewidth=0.8)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="codes, least used first (share)")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.set_title(f"Level {level + 1}")
    row[0].set_ylabel("items on them (share)")
    legend_below(figure, entries)
    caption = (
        f"Lorenz curves of code use on {result.dataset}: the share of the items that the least "
        f"used codes have together, by level, {seeds_in_words(methods)} a method. Lines: means "
        "over seeds; bands: their lowest to highest; the diagonal: all codes alike. Gini (by "
        "level, mean over seeds): 0 where all codes have equally many items, 1 - 1/K where one "
        "has them all."
    )
    alt = f"Lorenz curves of code use; Gini coefficient, mean over levels: {extremes(ginis)}."
    return Drawing(f"{result.dataset}-lorenz", figure, caption, alt)


def _on_one_grid(curves: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Curves of the same or of different numbers of codes as [n, points]."""
    longest = max(len(curve) for curve in curves)
    x = np.linspace(0, 1, longest)
    return np.stack([np.interp(x, np.linspace(0, 1, len(curve)), curve) for curve in curves])


def inflation(result: DatasetResults) -> Drawing | None:
    """What counting codes instead of items would add; None where no run stored both."""
    k = result.headline_k
    items = result.summary("ndcg", k)["mean"]
    codes = result.summary(f"{CODE_LEVEL}ndcg", k)["mean"]
    methods = [method for method in result.methods if method.key in codes.index]
    if not methods:
        return None
    labels = [wrap(method.label, 40) for method in methods]
    lines = sum(label.count("\n") + 1.6 for label in labels)
    figure = new_figure(WIDTH, 0.9 + 0.13 * lines)
    axes = figure.subplots()
    y = np.arange(len(methods))
    a = np.array([items[method.key] for method in methods])
    b = np.array([codes[method.key] for method in methods])
    axes.hlines(y, a, b, color="#999999", linewidth=2)
    axes.plot(b, y, "D", color="#D55E00", markerfacecolor="white", label="its codes", markersize=6)
    axes.plot(a, y, "o", color="#0072B2", label="the target item", markersize=5)
    for position, item, code in zip(y, a, b, strict=True):
        if item > 0:
            added = code / item - 1
            words = f"{added:+.1%}" if added < 1 else f"{added:+,.0%}"
            axes.annotate(words, (code, position), xytext=(7, 0), va="center", fontsize=7,
                          textcoords="offset points")  # fmt: skip
    axes.set_yticks(y, labels)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, float(max(b.max(), a.max())) * 1.15 or 1)
    axes.set_xlabel(f"test {METRICS['ndcg'].label}@{k} on {result.dataset}, hits counted on")
    handles, names = axes.get_legend_handles_labels()
    legend_below(figure, list(zip(handles, names, strict=True))[::-1])
    caption = (
        f"{METRICS['ndcg'].label}@{k} on {result.dataset} when a hit is the target item (circles; "
        "what all tables show) and when it is any item with the target's codes (diamonds), mean "
        f"over {len(result.users):,} users and {seeds_in_words(methods)}; per cent: what the "
        "second adds to the first."
    )
    gains = {m.label: 100 * (c / i - 1) for m, i, c in zip(methods, a, b, strict=True) if i > 0}
    alt = f"{METRICS['ndcg'].label}@{k} on items and on codes"
    alt += f"; what codes add, per cent: {extremes(gains)}." if gains else ": no hits."
    return Drawing(f"{result.dataset}-inflation", figure, caption, alt)
