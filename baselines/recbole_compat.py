"""Everything that RecBole 1.2.1 needs to run, unchanged, on today's libraries.

RecBole was written for numpy 1, scipy 1.12, pandas 2 and torch 2.5. Each function below cures one
break or one side effect and says which version makes it necessary; drop it when RecBole does.
Nothing of RecBole is copied or forked, and nothing is imported from it before ``prepare``.

Three more breaks are avoided rather than cured: pandas 3 garbles list fields (``Series.agg(len)``),
so the adapter loads no list field from a file; torch 2.6 refuses to unpickle RecBole's
checkpoints, so the adapter never writes or reads one; and scipy 1.13 removed what LightGCN fills
its matrix with, which is built another way.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from benchmark.errors import UserError

#: Not "ml-100k", which RecBole would read from its own folder whatever the path says.
DATASET = "benchmark_split"

_MODULES = (
    "recbole.config",
    "recbole.data.dataset",
    "recbole.data.utils",
    "recbole.model.general_recommender",
    "recbole.model.sequential_recommender",
    "recbole.trainer.trainer",
)


def prepare() -> None:
    """Make RecBole importable and harmless in this process. Calling it again changes nothing.

    Raises:
        UserError: RecBole, or a package that it imports, is not installed.
    """
    _restore_numpy_names()
    _import_recbole()
    _drop_tensorboard()


def _restore_numpy_names() -> None:
    """numpy 2.0 removed these names; ``recbole.config.Config`` reads them."""
    names = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}
    for name, value in names.items():
        if not hasattr(np, name):
            setattr(np, name, value)


def _import_recbole() -> None:
    """Import what is used of RecBole, leaving autograd's anomaly mode as it was.

    One of its model modules (sine) switches that mode on for the whole process when the package
    is imported: training then takes half as long again (any torch).
    """
    anomaly = torch.is_anomaly_enabled()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and deprecated imports of its own
            for module in _MODULES:
                importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"RecBole cannot be imported ({error}): run ./run_all.sh, "
            "or `pip install --no-deps recbole==1.2.1`"
        ) from None
    finally:
        torch.autograd.set_detect_anomaly(anomaly)


class _NoTensorboard:
    """Takes what RecBole's trainer writes to TensorBoard and keeps nothing."""

    def add_scalar(self, *_: Any, **__: Any) -> None:
        pass

    def add_hparams(self, *_: Any, **__: Any) -> None:
        pass


def _drop_tensorboard() -> None:
    """Every RecBole trainer makes ``log_tensorboard/`` in the working folder (any version)."""
    module = importlib.import_module("recbole.trainer.trainer")
    module.get_tensorboard = lambda _logger: _NoTensorboard()  # type: ignore[attr-defined]


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the warnings about RecBole's own code (pandas 3 chained assignment, torch 2.4 amp)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"recbole(\.|$)")
        warnings.filterwarnings(
            "ignore", message=".*(chained assignment|GradScaler|__array_wrap__)"
        )
        yield


@contextmanager
def reproducible(device: str) -> Iterator[None]:
    """On a CPU, use only operations whose result does not depend on thread timing.

    Without this, gradients of indexing (LightGCN's) are added up in any order when torch runs
    more than one thread. CUDA has no such version of sparse products, so there it stays off.
    Torch would also fill every new tensor before it is written, to show who reads one too early:
    that takes time and changes nothing here.
    """
    if device != "cpu":
        yield
        return
    debugging: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), debugging.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    debugging.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        debugging.fill_uninitialized_memory = before[1]


@contextmanager
def _hidden_surroundings() -> Iterator[None]:
    """Hide the command line, and put back the environment, around ``Config()`` (any version).

    ``Config`` takes every ``--key=value`` of sys.argv as a setting that overrides all others, and
    overwrites CUDA_VISIBLE_DEVICES.
    """
    argv, visible = sys.argv, os.environ.get("CUDA_VISIBLE_DEVICES")
    sys.argv = argv[:1] or [""]
    try:
        yield
    finally:
        sys.argv = argv
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible


def make_config(model_class: type, settings: Mapping[str, Any], device: str) -> Any:
    """RecBole's Config for one of its model classes (or a subclass) on ``device``.

    Args:
        settings: RecBole's own keys. They override its defaults; nothing overrides them.
        device: ``cpu`` or ``cuda``.

    Raises:
        UserError: ``device`` is ``cuda`` and torch finds none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch finds no CUDA device: use device=cpu")
    config_class = importlib.import_module("recbole.config").Config
    on_gpu = {
        "use_gpu": device == "cuda",
        # An empty id is what makes RecBole use the CPU; use_gpu=False alone does not.
        "gpu_id": (os.environ.get("CUDA_VISIBLE_DEVICES") or "0") if device == "cuda" else "",
    }
    with _hidden_surroundings(), warnings.catch_warnings():
        # It evaluates every text as Python first; that of a folder can look like a bad number.
        warnings.simplefilter("ignore")
        return config_class(model=model_class, dataset=DATASET, config_dict={**settings, **on_gpu})
