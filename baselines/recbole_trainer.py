"""RecBole's own trainer, watched: progress, a log line an epoch, the best state, checkpoints.

The training loop and the early stopping stay RecBole's. Its evaluation does not (see
``recbole_scoring``), nor do its checkpoints: they are pickles, which torch 2.6 refuses to load, and
are named by the second.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from baselines.recbole_rows import TrainRows
from benchmark.recommender import Run
from diger.checks import SettingError
from diger.tokenizer import LOAD_ERRORS

CHECKPOINT = "checkpoint.recbole.pt"
#: Least time between two checkpoints. Where they fall does not change the result.
CHECKPOINT_SECONDS = 20.0


class WatchedFit:
    """One call of RecBole's ``Trainer.fit``.

    Attributes:
        trainer: the RecBole trainer; afterwards its model holds the best state.
        best_epoch: the epoch (from 0) with the highest validation NDCG@10, the last of equals as
            RecBole has it; -1 before the first evaluation.
        valid: validation NDCG@10 and Recall@10 of the last evaluation, by RecBole's names.
    """

    def __init__(
        self,
        config: Any,
        model: Any,
        train: TrainRows,
        run: Run,
        identity: str,
        validate: Callable[[], dict[str, float]],
    ) -> None:
        """
        Args:
            identity: a checkpoint is continued only if it was written with the same one.
            validate: gives ``ndcg@10`` and ``recall@10`` of the model as it is, in place of
                RecBole's own validation.
        """
        self.trainer = _trainer_class()(config, model)
        self.validate = validate
        self._train = train
        self.best_epoch = -1
        self.valid: dict[str, float] = {}
        self._best: dict[str, torch.Tensor] = {}
        self._run = run
        self._identity = identity
        self._path = Path(run.folder) / CHECKPOINT
        self._saved_at = time.monotonic()
        self._row: dict[str, Any] = {}
        self._started = 0.0

    def epoch(self, number: int) -> float:
        """Train for one epoch, by RecBole's loop; its mean loss."""
        return float(self.trainer._train_epoch(self._train, number)) / len(self._train)

    def fit(self) -> None:
        """Train until RecBole stops, from a checkpoint if there is one."""
        trainer = self.trainer
        self._watch()
        self._resume()
        # A run interrupted right after its last evaluation has nothing left to train.
        if trainer.cur_step <= trainer.stopping_step:
            trainer.fit(
                self._train,
                valid_data=True,  # RecBole only hands it on, and asks whether there is any
                verbose=False,
                saved=False,
                callback_fn=lambda epoch, _score: self._evaluated(epoch),
            )
        trainer.model.load_state_dict(self._best)
        # LightGCN keeps the propagated embeddings of its last evaluation: they are not the best's.
        trainer.model.load_other_parameter(dict.fromkeys(trainer.model.other_parameter()))
        trainer.model.eval()

    def _watch(self) -> None:
        """Put ears on the epochs of RecBole's loop, and ``validate`` in the place of its own."""
        train_epoch = self.trainer._train_epoch
        batches, total = len(self._train), len(self._train) * self.trainer.epochs
        loss_of = self.trainer.model.calculate_loss
        done = 0

        def watched_loss(interaction: Any) -> Any:
            nonlocal done
            done += 1
            self._run.progress(done, total, "batch", self._note())
            return loss_of(interaction)

        def watched_train(data: Any, epoch: int, **options: Any) -> Any:
            nonlocal done
            done, self._started = epoch * batches, time.monotonic()
            loss = train_epoch(data, epoch, loss_func=watched_loss, **options)
            self._log({"epoch": epoch, "loss/train": float(loss) / batches})
            return loss

        def watched_valid(_data: Any, **_options: Any) -> Any:
            self.valid = self.validate()
            named = {f"valid/{name}": value for name, value in self.valid.items()}
            self._log({**self._row, **named})
            return self.valid["ndcg@10"], self.valid

        self.trainer._train_epoch, self.trainer._valid_epoch = watched_train, watched_valid

    def _note(self) -> str:
        if not self.valid:
            return ""
        return f"valid NDCG@10 {self.valid['ndcg@10']:.4f}, best epoch {self.best_epoch}"

    def _log(self, row: dict[str, Any]) -> None:
        self._row = {**row, "seconds": time.monotonic() - self._started}
        self._run.log(self._row)

    def _evaluated(self, epoch: int) -> None:
        """RecBole calls this after it has updated its early stopping; 0 steps mean a new best."""
        if self.trainer.cur_step == 0:
            self.best_epoch = epoch
            state = self.trainer.model.state_dict()
            self._best = {name: tensor.detach().clone() for name, tensor in state.items()}
        if time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
            self._save(epoch)
            self._saved_at = time.monotonic()

    def _save(self, epoch: int) -> None:
        state = {
            "identity": self._identity,
            "epoch": epoch,
            "best_epoch": self.best_epoch,
            "best": self._best,
            "cur_step": self.trainer.cur_step,
            "best_score": float(self.trainer.best_valid_score),
            "valid": self.valid,
            "model": self.trainer.model.state_dict(),
            "optimizer": self.trainer.optimizer.state_dict(),
            "loader": self._train.generator.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        torch.save(state, temporary)
        temporary.replace(self._path)

    def _resume(self) -> None:
        """Take over the checkpoint in the run's folder, if it is one of this very fit."""
        if not self._path.exists():
            return
        # On the CPU: random states have to be there, and the others are copied where they belong.
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
        except LOAD_ERRORS:
            raise SettingError(
                f"{self._path} is damaged; delete it to train this cell afresh"
            ) from None
        if state["identity"] != self._identity:
            return
        self.trainer.model.load_state_dict(state["model"])
        self.trainer.optimizer.load_state_dict(state["optimizer"])
        self.trainer.start_epoch = state["epoch"] + 1
        self.trainer.cur_step = state["cur_step"]
        self.trainer.best_valid_score = state["best_score"]
        self._best, self.best_epoch, self.valid = state["best"], state["best_epoch"], state["valid"]
        self._train.generator.set_state(state["loader"])
        torch.set_rng_state(state["torch"])
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])


def _trainer_class() -> type:
    """RecBole's trainer with Adam in one operation for all parameters: the same update rule."""
    base = importlib.import_module("recbole.trainer.trainer").Trainer

    class FusedTrainer(base):  # type: ignore[misc, valid-type]
        def _build_optimizer(self, **_options: Any) -> torch.optim.Optimizer:
            return torch.optim.Adam(
                self.model.parameters(),
                lr=self.learning_rate,
                weight_decay=self.weight_decay,
                fused=True,
            )

    return FusedTrainer
