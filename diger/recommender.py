"""The generative recommender as a method under test: tokenizer, estimator, generator, decoder.

It follows ``benchmark.recommender.Recommender`` by shape alone; this package imports no harness.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from diger.audit import audit
from diger.checks import SettingError, build, whole
from diger.decode import DecodeConfig
from diger.estimators import Estimator
from diger.generator import Generator
from diger.optimizer import TrainConfig
from diger.semantic_ids import add_suffix, code_statistics
from diger.seq2seq import ModelConfig
from diger.sequences import Phase, SequenceData
from diger.tokenizer import Tokenizer
from diger.tokenizers import make_tokenizer, tokenizer_settings
from diger.trainer import Callbacks, Trainer


class Ranking(NamedTuple):
    """items: int32 [n, k], -1 where short; scores: float32 [n, k], -inf there."""

    items: NDArray[np.int32]
    scores: NDArray[np.float32]


class Data(Protocol):
    """What is read of ``benchmark.recommender.BenchmarkData``."""

    @property
    def split(self) -> SequenceData: ...
    @property
    def embeddings(self) -> NDArray[np.float32] | None: ...
    @property
    def embeddings_sha256(self) -> str | None: ...


class Execution(Protocol):
    """What is read of ``benchmark.execution.Execution``."""

    @property
    def precision(self) -> str: ...
    @property
    def step(self) -> str: ...


class Run(Protocol):
    """What is used of ``benchmark.recommender.Run``."""

    @property
    def folder(self) -> Path: ...
    @property
    def cache(self) -> Path: ...
    @property
    def device(self) -> str: ...
    @property
    def exclude_seen(self) -> bool | None: ...
    @property
    def execution(self) -> Execution: ...
    def log(self, row: Mapping[str, Any]) -> None: ...
    def save_sids(self, epoch: int, sids: NDArray[np.int32]) -> None: ...
    def progress(self, done: int, total: int, unit: str, note: str = "") -> None: ...
    def released_tokenizer(
        self, name: str, sha256: str | None
    ) -> tuple[Mapping[str, Any], Mapping[str, torch.Tensor]]: ...


class GenerativeRecommender:
    """Generates the semantic ID of the next item; the estimator makes the method.

    Args:
        estimator: makes the estimator from (levels, codebook_size).
        levels: m. codebook_size: K. tokenizer, model, train, decode: settings by name, see
            RQVAEConfig, ModelConfig, TrainConfig and DecodeConfig.

    Raises:
        ValueError: an unknown key or an impossible value, before anything is trained.
    """

    excludes_seen = False
    needs_text = True

    def __init__(
        self,
        estimator: Callable[[int, int], Estimator],
        levels: int,
        codebook_size: int,
        tokenizer: Mapping[str, Any],
        model: Mapping[str, Any],
        train: Mapping[str, Any],
        decode: Mapping[str, Any],
    ) -> None:
        whole("method.levels", levels, 1)
        whole("method.codebook_size", codebook_size, 2)
        if not callable(estimator):
            raise ValueError("method.estimator needs _target_ and _partial_: true")
        self.levels, self.codebook_size = levels, codebook_size
        self.tokenizer_choice, self.tokenizer = tokenizer_settings(tokenizer)
        self.model = build(ModelConfig, model, "method.model")
        self.train = build(TrainConfig, train, "method.train")
        self.decode = build(DecodeConfig, decode, "method.decode")
        self._make_estimator = estimator
        self.settings = repr((levels, codebook_size, tokenizer, model, train, decode))
        self.make_estimator()
        self._trainer: Trainer | None = None
        self._invalid: float | None = None
        self._assignment = ""
        self._audit: dict[str, Any] = {}
        self._shared_seconds = 0.0  # training the shared tokenizer, or waiting for it

    def make_estimator(self) -> Estimator:
        try:
            return self._make_estimator(self.levels, self.codebook_size)
        except TypeError as error:
            raise ValueError(f"method.estimator: {error}") from None

    @property
    def max_list_length(self) -> int | None:
        return self.decode.beams

    def fit(self, data: Data, seed: int, run: Run) -> None:
        """Train the tokenizer (once a data set, seed and setting), then the recommender."""
        trainer = self.prepare(data, seed, run)
        trainer.fit(run.folder, Callbacks(run.log, run.save_sids, run.progress))

    def prepare(self, data: Data, seed: int, run: Run) -> Trainer:
        """Everything up to the first step of joint training."""
        if data.embeddings is None or data.embeddings_sha256 is None:
            raise SettingError("generative methods need item text or item embeddings")
        if not len(data.split.train_positions):
            raise SettingError(
                "there is no training row: some user needs at least 4 interactions, two of them "
                "before the last two"
            )
        started = time.perf_counter()
        tokenizer = self.make_tokenizer(data, seed, run)
        content = torch.as_tensor(data.embeddings, device=run.device)
        shared = time.perf_counter() - started
        estimator = self.make_estimator()
        # IDs that go on training are always the nearest codes: start them so, too, or the first
        # epoch would read suffixes of other codes and its drift would be that of the rule.
        self._assignment = "argmin" if estimator.trains_tokenizer else tokenizer.assignment
        sids = add_suffix(tokenizer.assign(content, self._assignment), self.codebook_size)
        identity = f"{data.split.sha256} {data.embeddings_sha256} {seed} {self.settings} "
        identity += run.execution.precision
        torch.manual_seed(seed)
        generator = Generator(self.levels, self.codebook_size, self.model)
        self._trainer = Trainer(
            self.train, self.decode, generator, tokenizer, estimator, content, sids,
            data.split, seed, run.device, run.exclude_seen or False, identity,
            run.execution.precision, run.execution.step,
        )  # fmt: skip
        self._shared_seconds = shared
        self._audit = audit(self._trainer)
        return self._trainer

    def audit(self, data: Data, seed: int, run: Run) -> dict[str, Any]:
        """Prepare, and measure which losses reach the tokenizer; see ``diger.audit``."""
        self.prepare(data, seed, run)
        return self._audit

    def make_tokenizer(self, data: Data, seed: int, run: Run) -> Tokenizer:
        """The trained tokenizer, on the run's device; the same for all that share its settings."""
        assert data.embeddings is not None and data.embeddings_sha256 is not None
        return make_tokenizer(
            self.tokenizer_choice, self.tokenizer, self.levels, self.codebook_size,
            data.embeddings, data.embeddings_sha256, seed, run,
        )  # fmt: skip

    @property
    def trainer(self) -> Trainer:
        if self._trainer is None:
            raise RuntimeError("fit has not run yet")
        return self._trainer

    def rank(
        self, data: Data, users: NDArray[np.int64], k: int, phase: Phase, exclude_seen: bool
    ) -> Ranking:
        items, scores, invalid = self.trainer.rank(users, k, phase, exclude_seen)
        self._invalid = invalid
        return Ranking(items, scores)

    def semantic_ids(self) -> NDArray[np.int32]:
        return self.trainer.sids

    def describe(self) -> dict[str, Any]:
        trainer = self.trainer
        parts = {
            "generator": trainer.generator.parameters(),
            "codebooks": [trainer.tokenizer.codebooks],
            "encoder": trainer.tokenizer.encoder.parameters(),
        }
        counts = {name: sum(p.numel() for p in parameters) for name, parameters in parts.items()}
        statistics = code_statistics(trainer.sids[:, :-1], self.codebook_size)
        facts: dict[str, Any] = {
            "parameters": sum(counts.values()),
            "parameters_by_part": counts,
            "best_epoch": trainer.best.epoch,
            "stopped": trainer.stopped,
            "levels": self.levels,
            "codebook_size": self.codebook_size,
            "logit_scale": trainer.estimator.scale_label,
            "assignment": self._assignment,
            "shared_seconds": self._shared_seconds,
            "trains_tokenizer": trainer.estimator.trains_tokenizer,
            "audit": self._audit,
            "tokenizer": dict(trainer.tokenizer.facts),
            "step": trainer.steps.facts(),
            "decode_mode": self.decode.mode,
            "beams": self.decode.beams,
        }
        if self._invalid is not None and self.decode.mode == "free":
            facts["invalid_beams"] = self._invalid
        return facts | statistics.as_log()
