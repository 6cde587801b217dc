"""RecBole's side of our split: what its models read of a data set, and its own evaluation.

Training, validation and lists take their rows from ``recbole_rows``. RecBole's own reading of the
split, from "atomic" files of user and item tokens in a temporary folder, serves to check them:
``Loaders.valid`` and ``Loaders.test`` are the loaders of its full-sort evaluation. Histories do not
pass through a file: RecBole reads list fields wrongly under pandas 3 and would rebuild the prefixes
by its own rules, so they are put straight into its data sets. Times are not needed then: the rows
are ordered already.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray

from baselines import recbole_compat
from baselines.recbole_rows import ITEM, USER, RowReader, TrainRows, interaction
from benchmark.data.split import Split

PARTS = ("train", "valid", "test")
#: RecBole's keys for files as ``write_atomic_files`` writes them.
FILE_SETTINGS = {
    "benchmark_filename": list(PARTS),
    "load_col": {"inter": [USER, ITEM], "item": [ITEM], "user": [USER]},
}


class Catalogue:
    """What RecBole's models ask of a data set, without one: sizes, pairs, tokens."""

    def __init__(self, split: Split, positions: NDArray[np.int64]) -> None:
        """
        Args:
            positions: int64 [n_rows], the training rows.
        """
        self._split, self._positions = split, positions
        self._sizes = {USER: split.n_users + 1, ITEM: split.n_items + 1}

    def num(self, field: str) -> int:
        """How many ids ``field`` has, padding among them."""
        return self._sizes[field]

    @property
    def field2id_token(self) -> dict[str, list[str]]:
        """Our id, as text, by RecBole's."""
        return {field: ["[PAD]", *map(str, range(size - 1))] for field, size in self._sizes.items()}

    def inter_matrix(self, form: str = "coo") -> Any:
        """Who consumed what, in RecBole's ids: a sparse matrix [users, items] of the rows."""
        users = self._split.user_of[self._positions] + 1
        items = self._split.items[self._positions].astype(np.int64) + 1
        values = np.ones(len(users), dtype=np.float32)
        return scipy.sparse.coo_matrix(
            (values, (users, items)), shape=(self.num(USER), self.num(ITEM))
        ).asformat(form)


class Loaders:
    """RecBole's data loaders: ours to train, its own to check our evaluation by."""

    def __init__(
        self, train: TrainRows, reader: RowReader, config: Callable[[Path], Any],
        positions: NDArray[np.int64],
    ) -> None:  # fmt: skip
        """
        Args:
            config: RecBole's configuration for files in a folder.
            positions: int64 [n_rows], the training rows.
        """
        self.train, self._reader, self._config = train, reader, config
        self._positions = positions

    @property
    def valid(self) -> Any:
        return self._evaluation[1]

    @property
    def test(self) -> Any:
        return self._evaluation[2]

    @cached_property
    def _evaluation(self) -> list[Any]:
        split = self._reader.split
        rows = [self._positions, split.positions("valid"), split.positions("test")]
        with tempfile.TemporaryDirectory(prefix="recbole-") as folder, recbole_compat.quiet():
            config = self._config(Path(folder))
            write_atomic_files(split, rows, Path(folder) / recbole_compat.DATASET)
            dataset = _dataset_class()(config)
            _check_ids(dataset)
            parts = dataset.build()
            for part, positions in zip(parts, rows, strict=True):
                columns = self._reader.inputs(torch.from_numpy(positions).to(self._reader.device))
                part.inter_feat.update(interaction({k: v.cpu() for k, v in columns.items()}))
            utils = importlib.import_module("recbole.data.utils")
            samplers = utils.create_samplers(config, dataset, parts)
            return [
                utils.get_dataloader(config, phase)(config, part, sampler, shuffle=False)
                for phase, part, sampler in zip(PARTS, parts, samplers, strict=True)
            ]


def write_atomic_files(split: Split, rows: list[NDArray[np.int64]], folder: Path) -> None:
    """Write RecBole's "atomic" files: one of (user, item) for each part, and all users and items
    in our order."""
    folder.mkdir(parents=True)
    for part, positions in zip(PARTS, rows, strict=True):
        pairs = zip(split.user_of[positions], split.items[positions], strict=True)
        lines = [f"{USER}:token\t{ITEM}:token", *(f"{user}\t{item}" for user, item in pairs)]
        _write_lines(folder / f"{recbole_compat.DATASET}.{part}.inter", lines)
    for suffix, name, size in (("user", USER, split.n_users), ("item", ITEM, split.n_items)):
        lines = [f"{name}:token", *map(str, range(size))]
        _write_lines(folder / f"{recbole_compat.DATASET}.{suffix}", lines)


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _dataset_class() -> type:
    """RecBole's data set, which numbers tokens as it meets them, made to read the files of users
    and items before the rows."""
    base = importlib.import_module("recbole.data.dataset").Dataset

    class OrderedDataset(base):  # type: ignore[misc, valid-type]
        def _get_remap_list(self, fields: Any) -> list[Any]:
            return list(reversed(super()._get_remap_list(fields)))

    return OrderedDataset


def _check_ids(dataset: Any) -> None:
    """Everything here relies on RecBole's ids being ours plus one."""
    for name in (USER, ITEM):
        tokens = dataset.field2id_token[name]
        if [str(token) for token in tokens[1:]] != [str(n) for n in range(len(tokens) - 1)]:
            raise RuntimeError(f"RecBole has numbered {name} in another order than its file")
