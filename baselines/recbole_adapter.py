"""RecBole models under the suite's interface: our split in, our lists out.

Models, losses, training loop and early stopping are RecBole's. The rows that they see come from
``recbole_rows``, validation and lists from ``recbole_scoring``: the same catalogue and rules as
every other method's, computed in batches on the device.
"""

from __future__ import annotations

import importlib
import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from baselines import recbole_compat
from baselines.recbole_data import FILE_SETTINGS, Catalogue, Loaders
from baselines.recbole_rows import Negatives, RowReader, TrainRows
from baselines.recbole_scoring import Scorer
from baselines.recbole_trainer import WatchedFit
from benchmark.data.split import Phase, Split
from benchmark.recommender import BenchmarkData, Ranking, Run
from diger import checks

#: Part of a checkpoint's identity; raise when the same settings come to train otherwise.
VERSION = "recbole-2"


class _Fitted(NamedTuple):
    """What a fit leaves behind for ``rank``."""

    split_sha256: str
    watched: WatchedFit
    scorer: Scorer
    loaders: Loaders


@dataclass(kw_only=True, eq=False)
class RecBoleMethod(ABC):
    """Base of the RecBole baselines. Defaults are RecBole's own.

    Attributes:
        epochs: most epochs.
        learning_rate: of Adam.
        train_batch_size: training rows a step.
        weight_decay: of Adam (L2).
        eval_every: epochs between two evaluations on the validation rows.
        stopping_step: evaluations without a better validation NDCG@10 after which, at the next
            such one, RecBole stops.
        eval_users: most users scored at once; changes speed and memory only.
    """

    epochs: int = 300
    learning_rate: float = 1e-3
    train_batch_size: int = 2048
    weight_decay: float = 0.0
    eval_every: int = 1
    stopping_step: int = 10
    eval_users: int = 1024
    _fitted: _Fitted | None = field(default=None, init=False, repr=False)

    #: RecBole leaves seen items out for general models and keeps them for sequential ones.
    excludes_seen = False
    #: Whether the model reads histories, or knows users by their ids.
    reads_histories: ClassVar[bool]
    #: Whether each training row comes with a sampled negative.
    samples_negatives: ClassVar[bool]
    #: What a table has to say beside this method's figures.
    notes: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for key in ("epochs", "train_batch_size", "eval_every", "eval_users"):
            checks.whole(key, getattr(self, key), 1)
        checks.whole("stopping_step", self.stopping_step, 0)
        checks.above("learning_rate", self.learning_rate, 0)
        checks.below("learning_rate", self.learning_rate, math.inf)
        checks.at_least("weight_decay", self.weight_decay, 0)
        if self.eval_every > self.epochs:
            raise ValueError(
                f"eval_every must be at most epochs={self.epochs}, got {self.eval_every}"
            )

    @property
    def max_list_length(self) -> int | None:
        return None

    @property
    def needs_text(self) -> bool:
        return False

    @abstractmethod
    def model_class(self) -> type:
        """RecBole's model class, or a subclass; called after ``recbole_compat.prepare``."""

    @abstractmethod
    def model_settings(self, split: Split) -> dict[str, Any]:
        """RecBole's own keys for this model."""

    @abstractmethod
    def train_rows(self, split: Split) -> NDArray[np.int64]:
        """int64: the positions that are training rows."""

    def fit(self, data: BenchmarkData, seed: int, run: Run) -> None:
        """Train with RecBole's trainer and keep the state with the best validation NDCG@10.

        Raises:
            UserError: RecBole is not installed, or the device does not exist.
            SettingError: the loss is not a number, or a user leaves no negative to sample.
            ValueError: there is no training row.
        """
        with self.opened(data, seed, run) as watched:
            watched.fit()

    @contextmanager
    def opened(self, data: BenchmarkData, seed: int, run: Run) -> Iterator[WatchedFit]:
        """All that a fit needs, before its first epoch; ``rank`` works inside and, unless an
        error ends the block, after it. For ``fit``, and for who measures a part of it."""
        recbole_compat.prepare()
        with (
            tempfile.TemporaryDirectory(prefix="checkpoint-recbole-", dir=run.folder) as folder,
            recbole_compat.quiet(),
            recbole_compat.reproducible(run.device),
        ):
            self._fitted = self._open(data.split, seed, run, Path(folder))
            try:
                yield self._fitted.watched
            except BaseException as error:
                self._fitted = None
                if isinstance(error, ValueError) and "nan" in str(error).lower():
                    raise checks.SettingError(
                        "the loss is not a number: lower method.learning_rate"
                    ) from None
                raise

    def _open(self, split: Split, seed: int, run: Run, folder: Path) -> _Fitted:
        rows = self.train_rows(split)
        if len(rows) == 0:
            raise ValueError("no training row: every user has exactly three interactions")

        def config_in(files: Path) -> Any:
            return self._config(split, seed, run.device, files)

        config = config_in(folder)
        device = config["device"]
        importlib.import_module("recbole.utils").init_seed(seed, True)
        catalogue = Catalogue(split, rows)
        model = self.model_class()(config, catalogue).to(device)
        reader = RowReader(split, device, self.reads_histories)
        negatives = None
        if self.samples_negatives:
            negatives = Negatives.of_rows(split, rows, self.reads_histories).to(device)
        train = TrainRows(reader, rows, self.train_batch_size, seed, catalogue, negatives)
        scorer = Scorer(model, reader, self.eval_users)
        exclude = self.excludes_seen if run.exclude_seen is None else run.exclude_seen
        identity = f"{VERSION} {split.sha256} {seed} {exclude} {self!r}"
        watched = WatchedFit(config, model, train, run, identity, lambda: scorer.validate(exclude))
        return _Fitted(split.sha256, watched, scorer, Loaders(train, reader, config_in, rows))

    def _config(self, split: Split, seed: int, device: str, folder: Path) -> Any:
        settings = {
            "data_path": str(folder),
            "checkpoint_dir": str(folder),
            **FILE_SETTINGS,
            "seed": seed,
            "epochs": self.epochs,
            "learning_rate": float(self.learning_rate),
            "train_batch_size": self.train_batch_size,
            "weight_decay": float(self.weight_decay),
            "eval_step": self.eval_every,
            "stopping_step": self.stopping_step,
            "eval_batch_size": self.eval_users,
            "metrics": ["Recall", "NDCG"],
            "topk": [10],
            "valid_metric": "NDCG@10",
            "metric_decimal_place": 8,
            "show_progress": False,
            **self.model_settings(split),
        }
        return recbole_compat.make_config(self.model_class(), settings, device)

    def _after_fit(self) -> _Fitted:
        if self._fitted is None:
            raise RuntimeError("the method has to be fitted first")
        return self._fitted

    def rank(
        self,
        data: BenchmarkData,
        users: NDArray[np.int64],
        k: int,
        phase: Phase,
        exclude_seen: bool,
    ) -> Ranking:
        """Lists out of RecBole's scores; see ``Recommender.rank`` and ``Scorer``.

        Raises:
            RuntimeError: before ``fit``, or for another split than the fitted one.
        """
        fitted = self._after_fit()
        if data.split.sha256 != fitted.split_sha256:
            raise RuntimeError("the method was fitted on another split")
        return fitted.scorer.rank(users, k, phase, exclude_seen)

    @property
    def loaders(self) -> Loaders:
        """What RecBole trained on, and what it would evaluate on."""
        return self._after_fit().loaders

    def recbole_figures(self, phase: Phase) -> dict[str, float]:
        """RecBole's own full-sort evaluation of the fitted model: ``recall@10`` and ``ndcg@10``.

        It leaves out seen items as RecBole does for this kind of model, but never the answer.
        """
        fitted = self._after_fit()
        loader = fitted.loaders.test if phase == "test" else fitted.loaders.valid
        with recbole_compat.quiet():
            figures = fitted.watched.trainer.evaluate(loader, load_best_model=False)
        return {name: float(value) for name, value in figures.items()}

    def semantic_ids(self) -> NDArray[np.int32] | None:
        return None

    def describe(self) -> dict[str, Any]:
        watched = self._after_fit().watched
        parameters = sum(p.numel() for p in watched.trainer.model.parameters() if p.requires_grad)
        return {
            "parameters": parameters,
            "best_epoch": watched.best_epoch,
            "notes": list(self.notes),
        }
