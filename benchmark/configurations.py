"""The stored settings of runs, and where configurations of one method differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from benchmark.errors import UserError
from benchmark.store import StoredRun

Config = Mapping[str, Any]


def stored_settings(run: StoredRun) -> Config | None:
    """config.yaml by dotted key, without the seed; None where there is none.

    Raises:
        UserError: the file cannot be read.
    """
    path = run.folder / "config.yaml"
    if not path.exists():
        return None
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged; delete {path.parent} and run the cell again")
    return {key: value for key, value in _flat(config) if key != "seed"}


def _flat(config: Config, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in config.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else [
            (f"{prefix}{key}", value)]  # fmt: skip
    return found


def apart(configs: Sequence[Config]) -> list[str]:
    """What each configuration has where they are not all the same: ``model.d_model 64,
    model.init_std by default``, keys without their leading ``method.``."""
    keys = dict.fromkeys(key for config in configs for key in config)
    odd = [key for key in keys if any(config.get(key) != configs[0].get(key) for config in configs)]
    return [
        ", ".join(f"{key.removeprefix('method.')} {_said(config, key)}" for key in odd)
        for config in configs
    ]


def configuration_notes(cells: Sequence[tuple[str, str, StoredRun]]) -> list[str]:
    """A line a method with several configurations: what the hashes in its labels stand for.

    cells: name of the method, label and one run of every configuration.
    """
    notes = []
    for method in dict.fromkeys(name for name, _, _ in cells):
        several = [(label, run) for name, label, run in cells if name == method]
        try:
            configs = [stored_settings(run) for _, run in several]
        except UserError:
            continue  # the report names what is damaged
        known = [config for config in configs if config is not None]
        if len(several) > 1 and len(known) == len(several):
            pairs = zip(several, apart(known), strict=True)
            listed = "; ".join(f"{label}: {said}" for (label, _), said in pairs)
            notes.append(f"Configurations of {method}: {listed}.")
    return notes


def _said(config: Config, key: str) -> str:
    return str(config[key]) if key in config else "by default"
