"""Accuracy against what it costs: training, and a user's list."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import stats

from benchmark.aggregate import DatasetResults, MethodRuns, evaluated_users
from benchmark.metrics import METRICS
from benchmark.report.drawing import (
    WIDTH,
    Drawing,
    legend_below,
    look,
    new_figure,
    plain_log,
    seeds_in_words,
)

LEVEL = 0.95


class Mean(NamedTuple):
    """A mean over users with the ends of its interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: NDArray[np.float64]) -> Mean:
    """Student's 95% interval of the mean of [n_users] values: mean +- t sd / sqrt(n), n - 1
    degrees of freedom. No width where all are equal; NaN ends for fewer than two users."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Mean(mean, float("nan"), float("nan"))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Mean(mean, mean - half, mean + half)


def training_seconds(method: MethodRuns) -> float | None:
    """Mean over seeds; None where none is known, or where it took no time that was measured."""
    return _positive(method.facts("seconds", "fit"))


def ranking_milliseconds(method: MethodRuns) -> float | None:
    """Milliseconds a user, mean over seeds; None as above."""
    return _positive([
        1000 * run.info["seconds"]["rank"] / evaluated_users(run.info) for run in method.runs
        if (run.info.get("seconds") or {}).get("rank") is not None
    ])  # fmt: skip


def _has_outlier(seconds: dict[str, float]) -> bool:
    """Whether a count of items, over in a blink, would push all trainings into a corner."""
    return min(seconds.values(), default=1.0) < 0.1 and max(seconds.values(), default=0.0) > 10


def _positive(values: list[float]) -> float | None:
    mean = float(np.mean(values)) if values else 0.0
    return mean if mean > 0 else None


def cost(result: DatasetResults) -> Drawing | None:
    """NDCG of every method with its interval against training and ranking time, both axes of time
    as powers; None where no run says how long it took."""
    k = result.headline_k
    panels = [
        (words, {method.key: time for method in result.methods if (time := of(method)) is not None})
        for words, of in (("training, s (log scale)", training_seconds),
                          ("ranking, ms a user (log scale)", ranking_milliseconds))
    ]  # fmt: skip
    known = [method for method in result.methods if any(method.key in x for _, x in panels)]
    if not known:
        return None
    means = {str(key): mean_interval(values.to_numpy(dtype=np.float64))
             for key, values in result.values("ndcg", k).items()}  # fmt: skip
    floor = 1.0 if _has_outlier(panels[0][1]) else 0.0
    drawn = [{key: max(time, floor) for key, time in panels[0][1].items()}, panels[1][1]]
    figure = new_figure(WIDTH, 2.8)
    row = figure.subplots(1, 2, sharey=True)
    entries: dict[str, Line2D] = {}
    for axes, (words, _), times in zip(row, panels, drawn, strict=True):
        for index, method in enumerate(result.methods):
            if method.key in times:
                entries[method.label] = _point(axes, index, times[method.key], means[method.key])
        _front(axes, [(times[key], means[key].mean) for key in times])
        axes.set_xlabel(words)
        if times:
            axes.set_xscale("log")
            plain_log(axes.xaxis)
    label = f"{METRICS['ndcg'].label}@{k}"
    row[0].set_ylabel(f"test {label}")
    row[0].set_ylim(bottom=0)
    legend_below(figure, [(line, name) for name, line in entries.items()])
    caption = (
        f"Accuracy against cost on {result.dataset}: test {label} with its 95% t interval over "
        f"{len(result.users):,} users, {seeds_in_words(known)} a method, a user's values averaged "
        "over them, against wall-clock time, mean over seeds, log scale. Grey steps: the best that "
        f"can be had for the time. {_devices(known)}"
    )
    if floor:
        caption += f" Training of less than {floor:g} s is drawn at {floor:g} s."
    missing = [m.label for m in result.methods if any(m.key not in x for _, x in panels)]
    if missing:
        caption += f" Without a time that was measured: {'; '.join(missing)}."
    return Drawing(
        f"{result.dataset}-cost", figure, caption, _alt(known, panels[0][1], means, label)
    )


def _point(axes: Axes, index: int, x: float, mean: Mean) -> Line2D:
    style = look(index)
    axes.vlines(x, mean.low, mean.high, color=style["color"], linewidth=0.9)
    style |= {"linestyle": "none", "markersize": 1.3 * style["markersize"]}
    (line,) = axes.plot([x], [mean.mean], **style, markeredgecolor="white", markeredgewidth=0.3,
                        zorder=3)  # fmt: skip
    return line


def _front(axes: Axes, points: list[tuple[float, float]]) -> None:
    """Steps through the methods that no other beats in both time and accuracy."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or y > best[-1][1]:
            best.append((x, y))
    if len(best) > 1:
        axes.step(*zip(*best, strict=True), where="post", color="#999999",
                  linewidth=0.8, zorder=0, marker="None", linestyle="-")  # fmt: skip


def _devices(methods: list[MethodRuns]) -> str:
    """Times of different devices cannot be compared, and the caption says so."""
    kinds: dict[str, list[str]] = {}
    for method in methods:
        for fact in method.facts("device"):
            threads = f", {fact['threads']} threads" if fact.get("threads") else ""
            who = kinds.setdefault(f"{fact.get('name')}{threads}", [])
            if method.label not in who:
                who.append(method.label)
    if len(kinds) < 2:
        return f"Device: {next(iter(kinds), 'not said')}."
    listed = "; ".join(f"{kind}: {', '.join(who)}" for kind, who in kinds.items())
    return f"Times of different devices cannot be compared ({listed})."


def _alt(
    methods: list[MethodRuns], times: dict[str, float], means: dict[str, Mean], label: str
) -> str:
    """One sentence: what the best method takes, and what the cheapest gives."""
    best = max(methods, key=lambda m: means[m.key].mean)
    said = [
        f"{label} against cost of {len(methods)} methods: highest {means[best.key].mean:.3g} "
        f"({best.label})"
        + (f" after {times[best.key]:.3g} s of training" if best.key in times else "")
    ]
    if times:
        fast = min((m for m in methods if m.key in times), key=lambda m: times[m.key])
        said.append(
            f"least training {times[fast.key]:.3g} s ({fast.label}), which gives "
            f"{means[fast.key].mean:.3g}"
        )
    return "; ".join(said) + "."
