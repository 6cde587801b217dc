"""Shared fixtures. What is slow to make is made once a session and kept in the repo's .cache."""

# ruff: noqa: E402

from __future__ import annotations

import os

# Before anything imports numpy or torch: many small matrices are slower on many threads, and
# sums split over threads differ in their last bits from machine to machine.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["TRITON_INTERPRET"] = "1"  # the kernels for a GPU are tried on a CPU

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from benchmark.config import compose_config
from benchmark.data.download import MIRROR_VARIABLE
from benchmark.data.prepare import DatasetConfig, Prepared, prepare
from benchmark.data.split import Split

REPO = Path(__file__).parents[1]


def dataset_config(name: str, /, **overrides: object) -> DatasetConfig:
    """The config of a data set that the suite ships, with some keys replaced."""
    options = OmegaConf.to_container(compose_config([f"dataset={name}"]).dataset, resolve=True)
    return DatasetConfig.from_mapping({**dict(options), **overrides})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def products_as_torch_has_them() -> Iterator[None]:
    """A run in this process sets how float32 products are made; that ends with its test."""
    import torch  # here, or whatever uses this file's helpers would import it too

    onednn: Any = torch.backends.mkldnn
    before = onednn.matmul.fp32_precision
    yield
    onednn.matmul.fp32_precision = before


@pytest.fixture(scope="session")
def data_cache() -> Path:
    """Folder for prepared data that outlives the session; its entries are content-addressed."""
    folder = REPO / ".cache" / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder that DIGER_BENCH_MIRROR names: tests on the paper's own files need one."""
    folder = Path(os.environ.get(MIRROR_VARIABLE) or "no mirror").resolve()
    if not (folder / "letter").is_dir():
        pytest.skip(f"{MIRROR_VARIABLE} names no folder with the paper's files")
    return folder


@pytest.fixture(scope="session")
def ml100k(data_cache: Path) -> Prepared:
    """MovieLens 100K with texts, without embeddings; histories of 50, all prefixes."""
    return prepare(dataset_config("ml-100k"), 50, None, data_cache, "texts")


@pytest.fixture(scope="session")
def ml100k_split(ml100k: Prepared) -> Split:
    return ml100k.data.split


@pytest.fixture(scope="session")
def ml100k_with_text(data_cache: Path) -> Prepared:
    """The same with MiniLM embeddings: about 15 seconds the first time, then from the cache."""
    return prepare(dataset_config("ml-100k"), 50, None, data_cache)


@pytest.fixture(scope="session")
def ml100k_small(data_cache: Path) -> Prepared:
    """A sample of 150 users with MiniLM embeddings."""
    return prepare(dataset_config("ml-100k", users=150), 50, None, data_cache)


@pytest.fixture
def tiny_split() -> Split:
    """Three users written by hand, seven items; item 6 is never seen.

    user 0: 0 1 2 3 4   -> rows 0>1, 0 1>2; valid 0 1 2>3; test 0 1 2 3>4
    user 1: 5 1 0       -> no training row;  valid 5>1;     test 5 1>0
    user 2: 2 2 3 5     -> row 2>2;          valid 2 2>3;   test 2 2 3>5
    """
    return make_split([[0, 1, 2, 3, 4], [5, 1, 0], [2, 2, 3, 5]], n_items=7)


def make_split(
    sequences: list[list[int]],
    n_items: int,
    max_history: int = 50,
    train_prefixes: int | None = None,
) -> Split:
    """A split of the given sequences, one a user."""
    lengths = [len(sequence) for sequence in sequences]
    return Split(
        items=np.array([item for sequence in sequences for item in sequence], dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        n_items=n_items,
        max_history=max_history,
        train_prefixes=train_prefixes,
    )


@pytest.fixture
def write_atomic(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Write bytes to a file in the test's folder; gives its path."""

    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write
