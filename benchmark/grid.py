"""The cells that an experiment's ``grid`` asks for, as overrides.

    grid:
      dataset: [beauty/keyphrases]
      method: [tiger, diger_sdud]
      seed: [0, 1, 2]
      vary:                                               # may be left out
        diger_sdud: {method.estimator.lambda_: [1.0, 1.7]}  # every combination of its keys' values

A method that ``vary`` does not name has one configuration.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmark.config import CONF
from benchmark.errors import UserError

KEYS = ("dataset", "method", "seed")
GRIDS = CONF / "tuning_grids.yaml"


def read_grids(path: Path = GRIDS) -> tuple[int, dict[str, dict[str, list[Any]]]]:
    """What ``benchmark.tune`` tries: the seed of all trials, and each method's grid."""
    stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    grids: dict[str, dict[str, list[Any]]] = stored["grids"]
    return int(stored["seed"]), grids


def cell_overrides(experiment: str, grid: object) -> Iterator[list[str]]:
    """The overrides of every cell: data sets outermost, then methods, their settings, seeds.

    Raises:
        UserError: the grid lacks a part or has one that is none.
    """
    if not isinstance(grid, Mapping) or not set(KEYS) <= set(grid) <= {*KEYS, "vary"}:
        raise UserError(
            f"experiment {experiment} needs a grid of dataset, method and seed (and vary)"
        )
    for key in KEYS:
        if not isinstance(grid[key], list) or not grid[key]:
            raise UserError(f"grid.{key} must be a list such as [{grid[key]}]")
    vary = grid.get("vary") or {}
    _check_vary(vary)
    for dataset, method in itertools.product(grid["dataset"], grid["method"]):
        for settings, seed in itertools.product(combinations(vary.get(method, {})), grid["seed"]):
            yield [f"dataset={dataset}", f"method={method}", f"seed={seed}", *settings]


def combinations(values: Mapping[str, list[Any]]) -> list[list[str]]:
    """Every combination of a value of each key, as overrides, the last key's values fastest. A key
    with an @ names a group of conf, of which None chooses nothing."""
    keys = [[_override(key, value) for value in found] for key, found in values.items()]
    return [[word for word in row if word] for row in itertools.product(*keys)]


def _override(key: str, value: Any) -> str:
    if "@" in key:
        return "" if value is None else f"+{key}={value}"
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"


def _check_vary(vary: object) -> None:
    if not isinstance(vary, Mapping):
        raise UserError("grid.vary must be {METHOD: {KEY: [VALUE, ...]}}")
    for method, keys in vary.items():
        if not (CONF / "method" / f"{method}.yaml").is_file():
            raise UserError(f"grid.vary names {method}, which is not in benchmark/conf/method")
        if not isinstance(keys, Mapping) or not all(
            isinstance(values, list) and values for values in keys.values()
        ):
            raise UserError(f"grid.vary.{method} must be {{KEY: [VALUE, ...]}}")
