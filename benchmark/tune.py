"""Choose a method's settings on validation: ``python -m benchmark.tune beauty``.

Runs every trial of ``conf/tuning_grids.yaml`` for each data set and method of an experiment, with
one seed, and writes the settings with the highest validation NDCG@10 to
``conf/tuned/validation/<protocol>/<dataset>/<method>.yaml``, which experiments with
``tuning: validation`` take. Trials are ordinary cells: done ones are skipped, interrupted ones go
on, and the one that is chosen is the experiment's first cell. All options of an experiment work:
``grid.method=[sasrec_ce]`` tunes one method, ``--time-limit`` runs a portion. Nothing here reads a
test figure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf

from benchmark import store
from benchmark.config import CONF, compose_config
from benchmark.errors import UserError
from benchmark.experiment import carry_out, check_overrides, end_with, planned, read_arguments
from benchmark.grid import GRIDS, combinations, read_grids
from benchmark.guard import guard
from benchmark.processes import Planned
from benchmark.store import StoredRun, write_text

TUNED = CONF / "tuned" / "validation"
MEASURE = "valid/ndcg@10"
#: Overrides that say where and which, not what: no part of what a choice is recorded with.
PLACES = ("results", "reports", "cache", "device", "grid.method", "grid.dataset", "grid.seed")


@dataclass(frozen=True)
class Search:
    """The trials of one method on one data set, in the order of the grid.

    Attributes:
        overrides: of the experiment, which all trials share.
        grid: values tried, by key.
        choices: the overrides of each trial.
    """

    overrides: str
    protocol: str
    dataset: str
    method: str
    seed: int
    grid: Mapping[str, list[Any]]
    choices: list[list[str]]
    cells: list[Planned]

    @property
    def name(self) -> str:
        """Where ``conf/config.yaml`` looks for it: settings are those of a protocol's sizes."""
        return f"{self.protocol}/{self.dataset}/{self.method}"


class Chosen(NamedTuple):
    """The best trial of a search: its place, and its validation NDCG@10."""

    trial: int
    value: float


def searches(experiment: str, extra: Sequence[str] = ()) -> list[Search]:
    """A search for each data set and method of the experiment that has a grid.

    Raises:
        UserError: no such experiment, a bad setting, or no method of it has a grid.
    """
    base = check_overrides(experiment, extra)
    seed, grids = read_grids()
    asked = OmegaConf.to_container(compose_config(base).grid, resolve=True)
    assert isinstance(asked, dict)
    found = []
    for dataset in asked["dataset"]:
        for method in asked["method"]:
            if method not in grids:
                continue
            choices = combinations(grids[method])
            cell = [*base, "tuning=none", f"dataset={dataset}", f"method={method}", f"seed={seed}"]
            cells = planned([[*cell, *choice] for choice in choices])
            if len(cells) < len(choices):
                raise UserError(f"{method}: two trials of {GRIDS.name} are the same settings")
            told = " ".join(word for word in base if word.partition("=")[0] not in PLACES)
            protocol = cells[0].settings.protocol.name
            found.append(
                Search(told, protocol, dataset, method, seed, grids[method], choices, cells)
            )
    if not found:
        raise UserError(f"no method of {experiment} has a grid in {GRIDS.name}")
    return found


def choose(search: Search) -> Chosen | None:
    """The trial with the highest validation NDCG@10 of its best epoch, the first of equals; None
    while one of them is not finished."""
    folders = [cell.settings.cell.folder for cell in search.cells]
    if not all(map(store.is_done, folders)):
        return None
    values = [best_validation(folder) for folder in folders]
    trial = max(range(len(values)), key=lambda i: values[i])
    return Chosen(trial, values[trial])


def best_validation(folder: Path) -> float:
    """Validation NDCG@10 of the epoch whose model a finished run kept.

    Raises:
        UserError: the run has no such epoch in its log.
    """
    run = StoredRun(folder, store.read_run_json(folder) or {})
    best = (run.info.get("describe") or {}).get("best_epoch")
    rows = [row for row in run.train_log() if row["epoch"] == best and row.get(MEASURE) is not None]
    if not rows:
        raise UserError(f"{folder} logs no {MEASURE} of its best epoch: nothing to choose it by")
    return float(rows[0][MEASURE])


def tuned_text(search: Search, chosen: Chosen) -> str:
    """The yaml that experiments take: the settings, and what they were chosen from."""
    choice = search.choices[chosen.trial]
    groups = [word[1:].split("=", 1) for word in choice if word.startswith("+")]
    defaults = [{f"/{group}": option} for group, option in groups]
    dotted = OmegaConf.from_dotlist([word for word in choice if not word.startswith("+")])
    settings: Any = OmegaConf.to_container(dotted)
    record = {
        "overrides": search.overrides, "trials": len(search.cells), "seed": search.seed,
        "measure": MEASURE, "value": round(chosen.value, 6),
        "grid": {key: list(values) for key, values in search.grid.items()},
    }  # fmt: skip
    content = {**({"defaults": defaults} if defaults else {}), **settings, "tuning": record}
    head = "# Chosen by python -m benchmark.tune; not to be edited by hand.\n"
    return head + yaml.safe_dump(content, sort_keys=False, default_flow_style=None)


def write_choices(found: Sequence[Search], target: Path = TUNED) -> list[str]:
    """Write what can be chosen; one line a search."""
    lines = []
    for search in found:
        chosen = choose(search)
        if chosen is None:
            left = sum(not store.is_done(cell.settings.cell.folder) for cell in search.cells)
            lines.append(f"{search.name}: {left} of {len(search.cells)} trials left")
            continue
        write_text(target / f"{search.name}.yaml", tuned_text(search, chosen))
        words = " ".join(search.choices[chosen.trial]) or "as released"
        lines.append(
            f"{search.name}: {words} ({MEASURE} {chosen.value:.4f}, the best of "
            f"{len(search.cells)} trials)"
        )
    return lines


def execute(parsed: argparse.Namespace, target: Path = TUNED) -> None:
    found = searches(parsed.experiment, parsed.overrides)
    outcome = carry_out(parsed, [cell for search in found for cell in search.cells])
    if outcome is None:
        return
    for line in write_choices(found, target):
        print(line)
    end_with(outcome.failures)


def main(arguments: list[str] | None = None) -> None:
    words = "Choose settings on validation, from the trials of conf/tuning_grids.yaml."
    guard(lambda: execute(read_arguments(arguments, "python -m benchmark.tune", words)))


if __name__ == "__main__":
    main(sys.argv[1:])
