"""The manifest of a bundle: what is in it, how it was made, and what it must look like.

A bundle is a zip file without compression: equal runs give equal bytes whatever the release of
zlib, and nothing in it can unfold to more than the file's own size. ``manifest.json`` comes first::

    {"format": "diger-bench bundle", "version": 1,
     "made_by": {"command": ..., "report": [the experiment and its overrides],
                 "commit": ..., "uncommitted_changes": ..., "versions": {...}},
     "cells": [{"path": "<dataset>/<method>/<12 characters of the hash>/seed=<s>",
                "dataset": ..., "method": ..., "config_sha256": ..., "seed": ...}, ...],
     "files": [{"path": "runs/<path of the cell>/<name>", "bytes": ..., "sha256": ...}, ...]}
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.provenance import git_state
from benchmark.store import Cell, StoredRun

FORMAT, VERSION = "diger-bench bundle", 1
MANIFEST, RUNS = "manifest.json", "runs/"
MANIFEST_LIMIT = 64 * 2**20  # bytes; 10,000 files take some 3 MB
#: Packages that decide the bytes of a report.
REPORTED_WITH = ("numpy", "scipy", "pandas", "pyarrow", "matplotlib", "jinja2")
#: What may be in a cell's folder, as a pattern of the path below it.
NAMES = re.compile(
    r"run\.json|config\.yaml|metrics\.parquet|train\.jsonl|sids\.npy|sids/epoch=[0-9]{4,9}\.npy"
)


@dataclass(frozen=True)
class Entry:
    """A file of the bundle."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class CellEntry:
    """A cell of the bundle, by the path of its folder in a store."""

    path: str
    dataset: str
    method: str
    config_sha256: str
    seed: int


@dataclass(frozen=True)
class Manifest:
    made_by: Mapping[str, Any]
    cells: tuple[CellEntry, ...]
    files: tuple[Entry, ...]

    def as_text(self) -> str:
        facts = {
            "format": FORMAT, "version": VERSION, "made_by": dict(self.made_by),
            "cells": [asdict(cell) for cell in self.cells],
            "files": [asdict(entry) for entry in self.files],
        }  # fmt: skip
        return json.dumps(facts, indent=1, sort_keys=True) + "\n"


def made_by(command: str, report: Sequence[str]) -> dict[str, Any]:
    """The command, the arguments that report the same runs, the state of this repository, and what
    decides the bytes of a report."""
    git = git_state()
    return {
        "command": command, "report": list(report), "commit": git["commit"],
        "uncommitted_changes": git["dirty"], "versions": report_versions(),
    }  # fmt: skip


def report_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the bytes of a report."""
    found = {"python": platform.python_version()}
    for package in REPORTED_WITH:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def cell_entry(run: StoredRun) -> CellEntry:
    """How the manifest names a run.

    Raises:
        UserError: run.json does not say what a cell is, or its parts make no safe path.
    """
    try:
        cell = Cell(Path(), run.dataset, run.method, run.config_sha256, run.seed)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{run.folder / 'run.json'} does not say which cell it is of") from None
    if not is_safe(str(cell)) or not re.fullmatch(r"[0-9a-f]{64}", run.config_sha256):
        raise UserError(f"{str(cell)!r} cannot be the path of a cell in a bundle")
    return CellEntry(str(cell), run.dataset, run.method, run.config_sha256, run.seed)


def is_safe(path: str) -> bool:
    """Whether a path with slashes stays below the folder it is put in, on any system: no absolute
    path, no drive, no part that is empty, hidden or made of dots, nothing that is not printed."""
    return (
        path.isprintable()
        and not set(path) & set("\\:")
        and all(part.strip(" ") and not part.startswith(".") for part in path.split("/"))
    )


def read_manifest(text: bytes, source: Path) -> Manifest:
    """The manifest, checked in itself.

    Raises:
        UserError: it is no manifest, of another version, or names what cannot be.
    """
    try:
        facts = json.loads(text.decode("utf-8"))
        if facts["format"] != FORMAT:
            raise ValueError
        version = facts["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{source}: {MANIFEST} is not that of a bundle; make one with "
            "python -m benchmark.export bundle=FILE"
        ) from None
    if version != VERSION:
        raise UserError(
            f"{source} is a bundle of version {version!r}, and this release reads version "
            f"{VERSION}: import it with the release that made it"
        )
    try:
        cells = tuple(CellEntry(**cell) for cell in facts["cells"])
        files = tuple(Entry(**entry) for entry in facts["files"])
        maker = {str(key): value for key, value in facts["made_by"].items()}
        good = all(map(_is_cell, cells)) and all(map(_is_entry, files))
    except (KeyError, TypeError, AttributeError, ValueError):
        good = False
    if not good:
        raise UserError(f"{source}: {MANIFEST} is damaged; get the bundle again")
    manifest = Manifest(maker, cells, files)
    _check_paths(manifest, source)
    return manifest


def _is_cell(cell: CellEntry) -> bool:
    words = (cell.path, cell.dataset, cell.method, cell.config_sha256)
    return all(isinstance(word, str) for word in words) and type(cell.seed) is int


def _is_entry(entry: Entry) -> bool:
    return (
        isinstance(entry.path, str)
        and type(entry.bytes) is int
        and entry.bytes >= 0
        and isinstance(entry.sha256, str)
        and re.fullmatch(r"[0-9a-f]{64}", entry.sha256) is not None
    )


def _check_paths(manifest: Manifest, source: Path) -> None:
    """Every path is safe, is there once, and lies in a cell that has a record and metrics."""
    names: dict[str, set[str]] = {}
    for cell in manifest.cells:
        named = Cell(Path(), cell.dataset, cell.method, cell.config_sha256, cell.seed)
        if not is_safe(cell.path) or cell.path != str(named):
            raise UserError(f"{source}: {cell.path!r} cannot be the path of a cell; get it again")
        if cell.path in names:
            raise UserError(f"{source}: {cell.path} is there twice; get the bundle again")
        names[cell.path] = set()
    for entry in manifest.files:
        path = split_path(entry.path)
        if path is None or path[0] not in names or not NAMES.fullmatch(path[1]):
            raise UserError(f"{source}: {entry.path!r} cannot be in a bundle; get it again")
        if path[1] in names[path[0]]:
            raise UserError(f"{source}: {entry.path} is there twice; get the bundle again")
        names[path[0]].add(path[1])
    for cell_path, found in names.items():
        if not {"run.json", "metrics.parquet"} <= found:
            raise UserError(f"{source}: {cell_path} has no run.json or no metrics.parquet; "
                            "get the bundle again")  # fmt: skip


def split_path(path: str) -> tuple[str, str] | None:
    """(path of the cell, name in it) of a file's path in the bundle; None if it is not safe."""
    if not path.startswith(RUNS) or not is_safe(path):
        return None
    parts = path.removeprefix(RUNS).split("/")
    seeds = [place for place, part in enumerate(parts) if part.startswith("seed=")]
    if not seeds:
        return None
    return "/".join(parts[: seeds[0] + 1]), "/".join(parts[seeds[0] + 1 :])
