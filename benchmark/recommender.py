"""The one interface that every method implements, and what it gets and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from benchmark.data.split import Phase, Split
from benchmark.execution import Execution

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class BenchmarkData:
    """What a method may know of a data set.

    Attributes:
        name: the data set's name.
        split: the leave-one-out split. Methods train on ``split.train_positions``, may select
            on phase ``valid``, and must never read a test target.
        embeddings: float32 [n_items, d] item text embeddings; None if the data set has no text.
        embeddings_sha256: hash that identifies the embeddings (texts, encoder, revision, pooling).
    """

    name: str
    split: Split
    embeddings: NDArray[np.float32] | None = None
    embeddings_sha256: str | None = None


class Ranking(NamedTuple):
    """Ranked lists, best first.

    Attributes:
        items: int32 [n_users, k], distinct items in each row; -1 fills a list that is too short.
        scores: float32 [n_users, k], non-increasing along a row; -inf where items is -1.
    """

    items: NDArray[np.int32]
    scores: NDArray[np.float32]


class Run(Protocol):
    """What the harness lends to a method while it trains: a folder, a log, a progress bar."""

    @property
    def folder(self) -> Path:
        """The cell's own folder: checkpoints go here. What is left in it survives an
        interruption; the harness removes files named ``checkpoint*`` once the cell is done."""

    @property
    def cache(self) -> Path:
        """Folder for what cells share (tokenizers); content-addressed by the method."""

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""

    @property
    def exclude_seen(self) -> bool | None:
        """How validation has to treat seen items, so that a model is selected by what it will be
        tested on; None: as the method does by default."""

    @property
    def execution(self) -> Execution:
        """How to use the device: precision, and whether steps are recorded."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one epoch to train.jsonl. ``row`` needs ``epoch`` (from 0) and may hold any JSON
        values; validation metrics are named ``valid/ndcg@10`` and so on, losses ``loss/<part>``.
        A row whose epoch is already there replaces it and all after it (a resumed run)."""

    def save_sids(self, epoch: int, sids: NDArray[np.int32]) -> None:
        """Keep the semantic IDs [n_items, m + 1] of an epoch; epoch -1 is before training."""

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """Show how far the fit is; call it as often as you like."""

    def released_tokenizer(
        self, name: str, sha256: str | None
    ) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        """Settings, and tensors by name, of a released RQ-VAE: that of a data set by its name, or
        a file by its path. ``sha256`` is the one that is trusted. What is not loaded, because it
        is not there, of another checksum or no such file, ends the run with one line."""


@runtime_checkable
class Recommender(Protocol):
    """A method under test.

    A method is constructed from its config (unknown or impossible values raise ``ValueError``
    there, before any training), fitted once, and then asked for lists.
    """

    #: Whether items the user has already consumed are left out of the lists unless told otherwise.
    excludes_seen: bool

    @property
    def max_list_length(self) -> int | None:
        """The longest list that ``rank`` can fill (the beam width, say); None: the catalogue."""

    @property
    def needs_text(self) -> bool:
        """Whether ``fit`` needs ``data.embeddings``."""

    def fit(self, data: BenchmarkData, seed: int, run: Run) -> None:
        """Train. The same data, seed and device give the same model, bit for bit on a CPU.
        If ``run.folder`` holds a checkpoint of an interrupted fit, continue from it."""

    def rank(
        self,
        data: BenchmarkData,
        users: NDArray[np.int64],
        k: int,
        phase: Phase,
        exclude_seen: bool,
    ) -> Ranking:
        """The k best items for each user, given the history that precedes the phase's target.
        Ties break by lower item id."""

    def semantic_ids(self) -> NDArray[np.int32] | None:
        """int32 [n_items, m + 1] of the fitted model (last column: the suffix that tells apart
        items sharing the m codes); None for methods without semantic IDs."""

    def describe(self) -> dict[str, Any]:
        """JSON facts for run.json: parameters (int), best_epoch, notes the tables must carry."""
