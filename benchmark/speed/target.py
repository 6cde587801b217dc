"""What is measured: a data set, a method and its sizes, as an experiment sets them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmark.config import Settings, build_method, compose_config, settings_from
from benchmark.data.prepare import Prepared
from benchmark.errors import UserError
from benchmark.execution import Execution
from benchmark.run import visit
from benchmark.speed.plain import PlainRecommender
from benchmark.store import RunFolder
from diger.recommender import GenerativeRecommender
from diger.trainer import Trainer

#: Enough training for IDs that can be told apart: how good they are changes no time.
CHEAP_TOKENIZER = (
    "++method.tokenizer.epochs=150",
    "++method.tokenizer.min_epochs=0",
    "++method.tokenizer.train_assignment=argmin",
)


@dataclass(frozen=True)
class Target:
    """A cell of an experiment, by name. overrides: Hydra's, of whoever measures."""

    experiment: str
    dataset: str
    method: str
    overrides: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.experiment} {self.dataset} {self.method}"

    def settings(self, device: str, threads: int, extra: Sequence[str] = ()) -> Settings:
        chosen = {
            "experiment": self.experiment, "dataset": self.dataset, "method": self.method,
            "seed": 0, "device": device, "threads": threads,
        }  # fmt: skip
        named = [f"{key}={value}" for key, value in chosen.items()]
        return settings_from(compose_config([*named, *extra, *self.overrides]))


@dataclass(frozen=True)
class Subject:
    """A generative method on its data, ready to be trained in one way or another."""

    method: GenerativeRecommender
    prepared: Prepared
    run: RunFolder
    exclude_seen: bool

    def fast(self, execution: Execution) -> Trainer:
        """The suite's own trainer before its first step."""
        self.run.execution = execution
        return self.method.prepare(self.prepared.data, 0, self.run)

    def plain(self, like: Trainer) -> PlainRecommender:
        """The plain reference with the same weights, tokenizer, settings and IDs."""
        plain = PlainRecommender(
            self.method.model, self.method.train, self.method.levels, self.method.codebook_size,
            like.tokenizer, self.method.make_estimator(), like.content, like.sids,
            self.prepared.data.split, self.run.device, 0,
        )  # fmt: skip
        plain.copy_weights(like.generator)
        return plain

    @property
    def users(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.arange(self.prepared.data.split.n_users)


@contextmanager
def subject(target: Target, device: str, threads: int) -> Iterator[Subject]:
    """Prepare data and tokenizer of a target.

    Raises:
        UserError: its data cannot be had, or the method has no training steps of the suite's own.
    """
    check(target)
    settings = target.settings(device, threads, CHEAP_TOKENIZER)
    method = build_method(settings)
    assert isinstance(method, GenerativeRecommender)
    with visit(settings, method, str(target)) as (prepared, run):
        exclude = method.excludes_seen if settings.exclude_seen is None else settings.exclude_seen
        yield Subject(method, prepared, run, exclude)


def check(target: Target) -> None:
    """Whether there is such a target.

    Raises:
        UserError: an unknown name, a bad setting, or a method without steps of the suite's own.
    """
    if not isinstance(build_method(target.settings("cpu", 1)), GenerativeRecommender):
        raise UserError(f"{target.method} has no plain reference; choose a generative method")


def file_name(device: Mapping[str, Any], threads: int) -> str:
    """A device as a file name: its kind's name, and of a CPU the threads in use."""
    name = device["name"]
    words = f"{name} {threads} threads" if device["kind"] == "cpu" else name
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def wait_for(device: str) -> None:
    """Until the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()
