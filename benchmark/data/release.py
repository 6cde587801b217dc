"""The files that the authors of DIGER released: splits, item numbers and item vectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.download import Downloads
from benchmark.data.hub import HubFile, Repository
from benchmark.data.interactions import Rows
from benchmark.data.letter import PINS, Letter
from benchmark.data.release_rows import (
    PHASES,
    PhaseRows,
    check_sequences,
    read_emb_map,
    read_release_rows,
    rebuild,
)
from benchmark.data.source import Vectors, check_keys
from benchmark.data.vectors import open_npy
from benchmark.errors import UserError

FOLDER = "diger_release"


def check_table(path: Path, shape: tuple[int, ...]) -> Path:
    """The path of a .npy file, whose shape and type are as expected; errors: UserError."""
    table = open_npy(path)
    if table.shape != shape:
        found = list(table.shape)
        raise UserError(f"{path} should hold an array of shape {list(shape)}, not {found}")
    if not np.issubdtype(table.dtype, np.floating):
        raise UserError(f"{path} should hold floating-point numbers, not {table.dtype}")
    return path


class ReleasedVectors:
    """The table of item vectors as a yaml describes it: ``path``, ``sha256`` (null: the hub's
    listing has to say) and ``shape`` [n_items, d]."""

    def __init__(self, where: str, options: Mapping[str, Any], repository: Repository) -> None:
        check_keys(where, options, ("path", "shape"), ("sha256",))
        shape = options["shape"]
        if not isinstance(shape, list) or [type(n) for n in shape] != [int, int] or min(shape) < 1:
            raise ValueError(f"{where}.shape must be [items, width], not {shape!r}")
        self.shape = (shape[0], shape[1])
        self.file = _file(where, options, repository)

    @property
    def text_source(self) -> str:
        return f"DIGER release: LLaMA vectors of {self.shape[1]} numbers"

    def fetch(self, downloads: Downloads) -> Path:
        return check_table(self.file.fetch(downloads), self.shape)


def _file(where: str, options: Mapping[str, Any], repository: Repository) -> HubFile:
    try:
        return HubFile(repository, str(options["path"]), options.get("sha256"), FOLDER, where)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _repository(options: Mapping[str, Any]) -> Repository:
    if options["revision"] is None:
        raise ValueError("source.revision must be a full commit: a branch may move")
    return Repository(options["hub"], options["repository"], "dataset", options["revision"])


class DigerRelease:
    """The released splits and vectors of a data set.

    Options: ``hub``, ``repository``, ``revision``, and ``files`` with ``train``, ``valid``,
    ``test``, ``emb_map`` (each ``path`` and ``sha256``) and ``vectors`` (`ReleasedVectors`).
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        check_keys("source", options, ("kind", "hub", "repository", "revision", "files"))
        files = options["files"]
        check_keys("source.files", files, (*PHASES, "emb_map", "vectors"))
        self._options = dict(options)
        repository = _repository(options)
        self._files = {}
        for name in (*PHASES, "emb_map"):
            check_keys(f"source.files.{name}", files[name], ("path", "sha256"))
            self._files[name] = _file(f"source.files.{name}", files[name], repository)
        self._vectors = ReleasedVectors("source.files.vectors", files["vectors"], repository)

    @property
    def revision(self) -> str:
        return f"DIGER release {self._options['revision']}"

    @property
    def text_source(self) -> str:
        return self._vectors.text_source

    @property
    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in self._options.items() if key != "hub"}

    def row_inputs(self) -> dict[str, str]:
        return {file.name: file.checksum for file in self._files.values()}

    def text_inputs(self) -> dict[str, str]:
        files = (self._files["emb_map"], self._vectors.file)
        return {file.name: file.checksum for file in files}

    def _read_emb_map(self, downloads: Downloads) -> dict[str, int]:
        path = self._files["emb_map"].fetch(downloads)
        row_of = read_emb_map(path)
        if len(row_of) != self._vectors.shape[0]:
            raise UserError(
                f"{path} has {len(row_of)} items, the vectors have {self._vectors.shape[0]} rows"
            )
        return row_of

    def read_phases(self, downloads: Downloads) -> PhaseRows:
        """The released rows, items as rows of the vectors; errors: as `read_rows`."""
        return self._read_phases(downloads, self._read_emb_map(downloads))

    def _read_phases(self, downloads: Downloads, row_of: Mapping[str, int]) -> PhaseRows:
        paths = {phase: self._files[phase].fetch(downloads) for phase in PHASES}
        return PhaseRows(
            read_release_rows(paths["train"], row_of),
            read_release_rows(paths["valid"], row_of),
            read_release_rows(paths["test"], row_of, shortest=2),  # one is the valid row's
        )

    def read_rows(self, downloads: Downloads) -> Rows:
        """The rebuilt sequences; a user's token is the number of his test row, from 0."""
        row_of = self._read_emb_map(downloads)
        phases = self._read_phases(downloads, row_of)
        sequences = rebuild(phases)
        where = ", ".join(self._files[phase].name for phase in PHASES)
        check_sequences(sequences, phases, len(row_of), where)
        tokens = sorted(row_of, key=row_of.__getitem__)
        users = [str(user) for user, sequence in enumerate(sequences) for _ in sequence]
        return Rows(users, [tokens[item] for sequence in sequences for item in sequence])

    def read_texts(self, downloads: Downloads) -> None:
        return None

    def read_vectors(self, downloads: Downloads) -> Vectors:
        return Vectors(self._vectors.fetch(downloads), self._read_emb_map(downloads))


class LetterWithReleasedVectors(Letter):
    """LETTER's interactions with the released vectors, for a data set whose released splits are
    not on record: row i of the table is LETTER's item i.

    Options: those of `Letter` without ``items``, and ``released`` with ``hub``, ``repository``,
    ``revision`` and ``vectors`` (`ReleasedVectors`).
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        check_keys("source", options, ("kind", *PINS, "interactions", "released"))
        super().__init__({key: value for key, value in options.items() if key != "released"})
        self._options = dict(options)
        released = options["released"]
        check_keys("source.released", released, ("hub", "repository", "revision", "vectors"))
        self._vectors = ReleasedVectors(
            "source.released.vectors", released["vectors"], _repository(released)
        )

    @property
    def text_source(self) -> str:
        return self._vectors.text_source

    @property
    def identity(self) -> dict[str, Any]:
        released = self._options["released"]
        vectors = {key: released["vectors"][key] for key in ("path", "shape")}
        pins = {key: released[key] for key in ("repository", "revision")}
        return {"kind": self._options["kind"], "inputs": self.row_inputs(), **pins, **vectors}

    def text_inputs(self) -> dict[str, str]:
        return {self._vectors.file.name: self._vectors.file.checksum}

    def read_vectors(self, downloads: Downloads) -> Vectors:
        path = self._vectors.fetch(downloads)
        return Vectors(path, {str(item): item for item in range(self._vectors.shape[0])})
