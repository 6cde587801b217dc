"""How accuracy depends on a setting: stored runs of one method that differ in nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from benchmark.aggregate import DatasetResults, MethodRuns
from benchmark.configurations import Config, stored_settings
from benchmark.metrics import METRICS
from benchmark.report.drawing import (
    WIDTH,
    Drawing,
    extremes,
    legend_below,
    look,
    new_figure,
    seeds_in_words,
)

#: What a setting is called, by its key in config.yaml.
PARAMETERS = {
    "method.estimator.lambda_": "lambda (of SDUD)",
    "method.estimator.r": "r (a code is hot above r / K)",
    "method.codebook_size": "K, codes a level",
    "method.levels": "m, levels",
}
TWO_STAGE = "tiger"
#: Settings that frozen semantic IDs have no use for: a two-stage run may differ in them.
_OF_TRAINED_IDS = ("method.estimator.", "method.train.lr_tokenizer", "method.train.freeze_encoder")


@dataclass(frozen=True, eq=False)
class Sweep:
    """Runs of one method by rising value of one setting, everything else the same.

    Attributes:
        fixed: the other settings, by dotted key.
    """

    parameter: str
    values: tuple[float, ...]
    methods: tuple[MethodRuns, ...]
    fixed: Config


def settings(method: MethodRuns) -> Config | None:
    """Those of the first seed by dotted key, without the seed; None where they are not stored.

    Raises:
        UserError: the file cannot be read.
    """
    return stored_settings(method.runs[0])


def sweeps(configs: Sequence[tuple[MethodRuns, Config]]) -> list[Sweep]:
    """Every group of at least two runs' settings that differ in one of ``PARAMETERS`` only."""
    found = []
    for parameter in PARAMETERS:
        groups: dict[str, list[tuple[float, MethodRuns, Config]]] = {}
        for method, config in configs:
            value = config.get(parameter)
            if isinstance(value, int | float):
                rest = {key: other for key, other in config.items() if key != parameter}
                name = json.dumps([method.method, rest], sort_keys=True, default=str)
                groups.setdefault(name, []).append((float(value), method, rest))
        for group in groups.values():
            group.sort(key=lambda member: member[0])
            values = tuple(value for value, _, _ in group)
            if len(set(values)) > 1:
                methods = tuple(method for _, method, _ in group)
                found.append(Sweep(parameter, values, methods, group[0][2]))
    return found


def reference(
    sweep: Sweep, configs: Sequence[tuple[MethodRuns, Config]]
) -> MethodRuns | None:  # fmt: skip
    """The two-stage runs with the sweep's settings, as far as they say anything about frozen
    IDs and leaving the swept one aside; None where there are none, or several."""
    wanted = _of_frozen(sweep.fixed)
    found = [
        method for method, config in configs
        if method.method == TWO_STAGE
        and _of_frozen({k: v for k, v in config.items() if k != sweep.parameter}) == wanted
    ]  # fmt: skip
    return found[0] if len(found) == 1 else None


def _of_frozen(config: Config) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith(_OF_TRAINED_IDS)}


def sensitivity(result: DatasetResults) -> Drawing | None:
    """NDCG against lambda, r, K and m, a panel each where at least two values were run."""
    configs = [(method, config) for method in result.methods
               if (config := settings(method)) is not None]  # fmt: skip
    found = sweeps(configs)
    if not found:
        return None
    by_parameter = {parameter: [s for s in found if s.parameter == parameter]
                    for parameter in PARAMETERS}  # fmt: skip
    shown = {parameter: group for parameter, group in by_parameter.items() if group}
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(WIDTH if columns > 1 else 5.0, 2.5 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    entries: dict[str, Line2D] = {}
    means: dict[str, float] = {}
    label = f"{METRICS['ndcg'].label}@{result.headline_k}"
    for axes, (parameter, group) in zip(grid.ravel(), shown.items(), strict=False):
        for sweep, name in zip(group, _names(group), strict=True):
            line, middle = _draw(axes, sweep, result, look(_place(entries, name)))
            entries.setdefault(name, line)
            means |= {f"{name}, {parameter.rsplit('.', 1)[-1]} = {value:g}": mean
                      for value, mean in zip(sweep.values, middle, strict=True)}  # fmt: skip
            base = reference(sweep, configs)
            if base is not None and all(s.methods[0].method != TWO_STAGE for s in group):
                frozen = f"{_label(base)}, frozen IDs"
                height = float(np.mean(_seed_means(base, result)))
                style = look(_place(entries, frozen)) | {"marker": "None", "linewidth": 1.0}
                entries.setdefault(frozen, axes.axhline(height, **style))
        _dress(axes, parameter, group)
    for axes in grid.ravel()[len(shown) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel(f"test {label}")
    legend_below(figure, [(line, name) for name, line in entries.items()])
    methods = [method for sweep in found for method in sweep.methods]
    caption = (
        f"Sensitivity on {result.dataset}: test {label}, mean over {len(result.users):,} users, "
        "of stored runs of a method that differ in one setting and in nothing else; "
        f"{seeds_in_words(methods)} a value. Lines: mean over seeds; bars: their lowest to "
        "highest; level lines without marks: two-stage training (frozen IDs) with the same other "
        "settings."
    )
    return Drawing(f"{result.dataset}-sensitivity", figure, caption,
                   f"{label} by setting: {extremes(means)}.")  # fmt: skip


def _place(entries: Mapping[str, Line2D], name: str) -> int:
    """The place of a name in the legend, which decides its look in every panel."""
    names = list(entries)
    return names.index(name) if name in names else len(names)


def _label(method: MethodRuns) -> str:
    """The method's label without the hash that tells its settings apart."""
    return str(method.runs[0].info.get("method_label") or method.method)


def _draw(
    axes: Axes, sweep: Sweep, result: DatasetResults, style: dict[str, Any]
) -> tuple[Line2D, list[float]]:
    """One line of means with bars over seeds."""
    by_seed = [_seed_means(method, result) for method in sweep.methods]
    middle = [float(np.mean(values)) for values in by_seed]
    (line,) = axes.plot(sweep.values, middle, **style)
    axes.vlines(sweep.values, [min(v) for v in by_seed], [max(v) for v in by_seed],
                color=line.get_color(), linewidth=0.9)  # fmt: skip
    return line, middle


def _seed_means(method: MethodRuns, result: DatasetResults) -> list[float]:
    column = ("ndcg", result.headline_k)
    return [float(frame[column].mean()) for frame in method.per_seed]


def _dress(axes: Axes, parameter: str, group: Sequence[Sweep]) -> None:
    values = sorted({value for sweep in group for value in sweep.values})
    axes.set_xlabel(PARAMETERS[parameter])
    if values[0] > 0 and values[-1] >= 8 * values[0]:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(values, [f"{value:g}" for value in values])


def _names(group: Sequence[Sweep]) -> list[str]:
    """A name for each sweep of a panel: the method's, with what tells it from its namesakes."""
    names = []
    for sweep in group:
        name = _label(sweep.methods[0])
        others = [s.fixed for s in group if s.methods[0].method == sweep.methods[0].method]
        keys = [
            key
            for key in sweep.fixed
            if len({json.dumps(other.get(key), default=str) for other in others}) > 1
        ]
        told = [f"{key.rsplit('.', 1)[-1]} = {sweep.fixed[key]}" for key in keys[:3]]
        names.append(f"{name} ({', '.join(told)})" if told else name)
    return names
