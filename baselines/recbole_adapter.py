"""RecBole models under the suite's interface: our split in, our lists out.

The split's rows go to RecBole as pre-split ("benchmark") files of user and item tokens in a
temporary folder, and an item file names the whole catalogue, so that RecBole scores and samples
the same items as every other method. Histories do not pass through a file: RecBole reads list
fields wrongly under pandas 3 and would rebuild the prefixes by its own rules, so the adapter puts
them, cut as the split says, straight into RecBole's data sets. Times are not needed then: the rows
are ordered already. RecBole numbers tokens as it meets them; its own table maps ids back.
"""

from __future__ import annotations

import importlib
import math
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from baselines import recbole_compat
from baselines.lists import joined, seen_pairs, top_k
from baselines.recbole_trainer import WatchedFit
from benchmark.data.split import Phase, Split
from benchmark.metrics import METRICS, target_ranks
from benchmark.recommender import BenchmarkData, Ranking, Run
from diger import checks

USER, ITEM = "user_id", "item_id"
PARTS = ("train", "valid", "test")


class Loaders(NamedTuple):
    """RecBole's data loaders."""

    train: Any
    valid: Any
    test: Any


@dataclass
class _Fitted:
    """What a fit leaves behind for ``rank``."""

    watched: WatchedFit
    loaders: Loaders
    item_ids: NDArray[np.int64]  # [n_items], RecBole's id of each of ours
    user_ids: NDArray[np.int64]  # [n_users], likewise


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
        eval_users: users scored at once; changes speed and memory only.
    """

    epochs: int = 300
    learning_rate: float = 1e-3
    train_batch_size: int = 2048
    weight_decay: float = 0.0
    eval_every: int = 1
    stopping_step: int = 10
    eval_users: int = 256
    _fitted: _Fitted | None = field(default=None, init=False, repr=False)

    #: RecBole leaves seen items out for general models and keeps them for sequential ones.
    excludes_seen = False
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

    def inputs(
        self, split: Split, positions: NDArray[np.int64], item_ids: NDArray[np.int64]
    ) -> dict[str, torch.Tensor]:
        """What the model reads of the rows at ``positions`` besides the user, by RecBole's names.

        Args:
            item_ids: int64 [n_items], RecBole's id of each item.
        """
        return {}

    def fit(self, data: BenchmarkData, seed: int, run: Run) -> None:
        """Train with RecBole's trainer and keep the state with the best validation NDCG@10.

        Raises:
            UserError: RecBole is not installed, or the device does not exist.
            ValueError: RecBole refuses the data, or the loss is not a number.
        """
        recbole_compat.prepare()
        utils = importlib.import_module("recbole.utils")
        with (
            tempfile.TemporaryDirectory(prefix="checkpoint-recbole-", dir=run.folder) as folder,
            recbole_compat.quiet(),
            recbole_compat.reproducible(run.device),
        ):
            config = self._config(data.split, seed, run.device, Path(folder))
            loaders, item_ids, user_ids = self._loaders(config, data.split, Path(folder))
            utils.init_seed(seed, True)  # the row order has its own generator, from the config
            model = self.model_class()(config, loaders.train._dataset).to(config["device"])
            identity = f"{data.split.sha256} {seed} {self!r}"
            # RecBole's validation treats seen items as the kind of model does by default. Where
            # the test will not, ours selects the model.
            other = run.exclude_seen not in (None, self.excludes_seen)
            validate = (lambda: self._validate(data, not self.excludes_seen)) if other else None
            watched = WatchedFit(config, model, run, identity, validate)
            self._fitted = _Fitted(watched, loaders, item_ids, user_ids)
            try:
                watched.fit(loaders.train, loaders.valid)
            except BaseException as error:
                self._fitted = None
                if isinstance(error, ValueError) and "nan" in str(error).lower():
                    raise checks.SettingError(
                        "the loss is not a number: lower method.learning_rate"
                    ) from None
                raise

    def _validate(self, data: BenchmarkData, exclude_seen: bool) -> dict[str, float]:
        """Mean NDCG@10 and Recall@10 of the validation items, by the suite's own metrics."""
        users, split = np.arange(data.split.n_users), data.split
        ranks = target_ranks(
            self.rank(data, users, 10, "valid", exclude_seen).items, split.targets("valid")
        )
        return {
            f"{name}@10": float(METRICS[name].per_user(ranks, 10).mean())
            for name in ("ndcg", "recall")
        }

    def _config(self, split: Split, seed: int, device: str, folder: Path) -> Any:
        settings = {
            "data_path": str(folder),
            "checkpoint_dir": str(folder),
            "benchmark_filename": list(PARTS),
            "load_col": {"inter": [USER, ITEM], "item": [ITEM]},
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

    def _loaders(
        self, config: Any, split: Split, folder: Path
    ) -> tuple[Loaders, NDArray[np.int64], NDArray[np.int64]]:
        """RecBole's loaders over our rows, and its ids of our items and users."""
        rows = [self.train_rows(split), split.positions("valid"), split.positions("test")]
        if len(rows[0]) == 0:
            raise ValueError("no training row: every user has exactly three interactions")
        write_atomic_files(split, rows, folder / recbole_compat.DATASET)
        data = importlib.import_module("recbole.data.utils")
        interaction = importlib.import_module("recbole.data.interaction").Interaction
        dataset = importlib.import_module("recbole.data.dataset").Dataset(config)
        item_ids = _ids(dataset, ITEM, split.n_items)
        user_ids = _ids(dataset, USER, split.n_users)
        parts = dataset.build()
        for part, positions in zip(parts, rows, strict=True):
            part.inter_feat.update(interaction(self.inputs(split, positions, item_ids)))
        samplers = data.create_samplers(config, dataset, parts)
        loaders = [
            data.get_dataloader(config, phase)(config, part, sampler, shuffle=phase == "train")
            for phase, part, sampler in zip(PARTS, parts, samplers, strict=True)
        ]
        return Loaders(*loaders), item_ids, user_ids

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
        """Lists out of RecBole's scores; see ``Recommender.rank``.

        An item consumed before is left out (if asked) even where it is the answer; RecBole would
        spare the answer, which a recommender cannot know.
        """
        starts = range(0, len(users), self.eval_users)
        batches = [users[start : start + self.eval_users] for start in starts]
        parts = [self._rank_batch(data.split, batch, k, phase, exclude_seen) for batch in batches]
        return joined(parts, k)

    @torch.no_grad()
    def _rank_batch(
        self, split: Split, users: NDArray[np.int64], k: int, phase: Phase, exclude_seen: bool
    ) -> Ranking:
        fitted = self._after_fit()
        model, device = fitted.watched.trainer.model, fitted.watched.trainer.device
        columns = {
            USER: torch.from_numpy(fitted.user_ids[users]),
            **self.inputs(split, split.positions(phase)[users], fitted.item_ids),
        }
        interaction = importlib.import_module("recbole.data.interaction").Interaction(columns)
        model.eval()
        flat = model.full_sort_predict(interaction.to(device))
        # [B, n_items] in our order of items, which is what ties go by; RecBole's padding is gone.
        scores = flat.view(len(users), -1)[:, torch.from_numpy(fitted.item_ids).to(device)]
        if exclude_seen:
            rows, items = seen_pairs(split, users, phase)
            row, item = torch.from_numpy(rows).to(device), torch.from_numpy(items).to(device)
            scores[row, item] = -torch.inf
        return top_k(scores, k)

    @property
    def loaders(self) -> Loaders:
        """What RecBole trained and evaluated on."""
        return self._after_fit().loaders

    def recbole_figures(self, phase: Phase) -> dict[str, float]:
        """RecBole's own full-sort evaluation of the fitted model: ``recall@10`` and ``ndcg@10``.

        It leaves out seen items as RecBole does for this kind of model.
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


def write_atomic_files(split: Split, rows: list[NDArray[np.int64]], folder: Path) -> None:
    """Write RecBole's "atomic" files: one of (user, item) for each part, and the catalogue."""
    folder.mkdir(parents=True)
    for part, positions in zip(PARTS, rows, strict=True):
        pairs = zip(split.user_of[positions], split.items[positions], strict=True)
        lines = [f"{USER}:token\t{ITEM}:token", *(f"{user}\t{item}" for user, item in pairs)]
        path = folder / f"{recbole_compat.DATASET}.{part}.inter"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    catalogue = [f"{ITEM}:token", *(str(item) for item in range(split.n_items))]
    path = folder / f"{recbole_compat.DATASET}.item"
    path.write_text("\n".join(catalogue) + "\n", encoding="utf-8")


def _ids(dataset: Any, name: str, n: int) -> NDArray[np.int64]:
    """int64 [n]: RecBole's id of each of our ids 0 .. n - 1."""
    table = dataset.field2token_id[name]
    return np.array([table[str(token)] for token in range(n)], dtype=np.int64)
