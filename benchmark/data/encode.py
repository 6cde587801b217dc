"""Item texts through a sentence-transformers model: on a GPU or on every core, in batches that
fit the memory, and so that an interrupted encoding goes on where it was.

torch is imported only when something has to be encoded.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import psutil
from numpy.typing import NDArray
from tqdm import tqdm

from benchmark.data.batch import fit, text_size
from benchmark.data.encoder import EncoderConfig
from benchmark.data.model import load_model, unusable
from benchmark.data.vectors import Parts, finish
from benchmark.errors import UserError

Device = Literal["auto", "cpu", "cuda"]

# Fixed on the CPU, because the padding of a batch reaches the last bits of its vectors.
CHUNK, BATCH = 256, 32
GPU_CHUNK, GPU_BATCH = 8192, 1024
# A shorter encoding starts again when it was interrupted.
PART_CHUNKS = 8


@dataclass(frozen=True)
class EncodeOptions:
    """How fast texts are encoded, not what comes out: never part of a cache key.

    Device and batch do reach the vectors' last bits (of the order of 1e-7 in a unit vector), and
    are therefore in the record of how they were made. The number of workers reaches nothing.

    Attributes:
        device: ``auto`` takes a GPU if there is one.
        batch: texts at a time; None: as many as fit, at most 32 on a CPU and 1024 on a GPU.
        workers: at most this many threads on a CPU; None: one a core.
    """

    device: Device = "auto"
    batch: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.device not in get_args(Device):
            choices = ", ".join(get_args(Device))
            raise ValueError(f"embedding.device must be one of {choices}, not {self.device!r}")
        for name in ("batch", "workers"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(
                    f"embedding.{name} must be null or a whole number from 1, not {value!r}"
                )

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> EncodeOptions:
        """From the yaml; unknown keys and impossible values raise ``ValueError``."""
        known = [field.name for field in fields(cls)]
        for key in options:
            if key not in known:
                raise ValueError(f"embedding has no key {key!r}; it knows {', '.join(known)}")
        return cls(**options)


def encode(
    texts: Sequence[str], config: EncoderConfig, options: EncodeOptions, part: Path
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """float32 [n_items, d] vectors, the same bits however many cores there are, and JSON facts of
    how they were made.

    Args:
        texts: [n_items].
        config: the encoder, of a source that has a model.
        options: how fast.
        part: folder for the finished chunks of a long encoding; whoever keeps the vectors deletes
            it.

    Raises:
        UserError: no such device or model, vectors that are not finite, or too little memory.
    """
    device = choose_device(options.device)
    with _one_torch_thread():
        model = load_model(config, device)
        batch, workers = _plan(model, texts, device, options)
        size = GPU_CHUNK if device == "cuda" else CHUNK
        starts = range(0, len(texts), size)
        facts = {
            "device": _device_name(device),
            "versions": {
                name: version(name) for name in ("torch", "sentence-transformers", "transformers")
            },
        }
        parts = Parts(
            part if len(starts) > PART_CHUNKS else None,
            {**facts, "chunk": size},
            [len(texts[start : start + size]) for start in starts],
        )
        how = f"{facts['device']}, batches of {batch}, {workers} at once"
        if not sys.stderr.isatty():  # a terminal gets the bar instead
            before = f", {parts.n_texts} done before" if parts.n_texts else ""
            print(
                f"embedding {len(texts)} item texts with {config.name} ({how}{before}) ...",
                file=sys.stderr,
            )
        with tqdm(
            total=len(texts), initial=parts.n_texts, desc=f"embedding items ({how})", unit="item",
            disable=None,
        ) as bar:  # fmt: skip

            def done(index: int, values: NDArray[Any], batch: int) -> None:
                rows = np.arange(starts[index], starts[index] + len(values))
                parts.add(index, finish(values, config, rows), batch)
                bar.update(len(values))

            todo = {
                index: list(texts[start : start + size])
                for index, start in enumerate(starts)
                if index not in parts.values
            }
            _Pool(model, batch, config, done).run(todo, workers)
    values = np.concatenate([parts.values[index] for index in range(len(starts))])
    return values, {**facts, "batch": parts.smallest_batch}


class _Pool:
    """Threads that share one model, and a batch size that shrinks when memory runs out.

    Args:
        done: gets each finished chunk's index, vectors and batch size; one call at a time.
    """

    def __init__(
        self,
        model: Any,
        batch: int,
        config: EncoderConfig,
        done: Callable[[int, NDArray[Any], int], None],
    ) -> None:
        self._model, self._batch, self._config, self._done = model, batch, config, done
        self._lock, self._stop = threading.Lock(), threading.Event()

    def run(self, todo: Mapping[int, list[str]], workers: int) -> None:
        """Encode chunks of texts, by index; the first error ends all threads."""
        import torch

        pool = ThreadPoolExecutor(workers, "encode", torch.set_num_threads, (1,))
        with _shared(self._model, self._stop):
            try:
                for future in as_completed(
                    [pool.submit(self._work, *item) for item in todo.items()]
                ):
                    with suppress(_Stopped):  # another thread has the reason
                        future.result()
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)

    def _work(self, index: int, texts: list[str]) -> None:
        try:
            values, batch = self._encode(texts)
            with self._lock:
                self._done(index, values, batch)
        except BaseException:
            self._stop.set()
            raise

    def _encode(self, texts: list[str]) -> tuple[NDArray[Any], int]:
        while True:
            if self._stop.is_set():
                raise _Stopped
            batch = self._batch
            try:
                values = self._model.encode(texts, batch_size=batch, show_progress_bar=False)
                return values, batch
            except Exception as error:  # each architecture has kinds of its own
                if not _out_of_memory(error):
                    raise unusable(self._config.name, error) from None
            # Not in the except block, where the error still holds on to the batch's tensors.
            self._shrink(batch)

    def _shrink(self, failed: int) -> None:
        """Halve the batch size, unless another thread has done so since ``failed`` was read."""
        import torch

        with self._lock:
            if self._batch == failed == 1:
                raise UserError(
                    f"{self._config.name} runs out of memory on a single text: free some memory, "
                    "set embedding.device=cpu or embedding.workers=1, or take a smaller encoder"
                )
            self._batch = min(self._batch, max(failed // 2, 1))
        torch.cuda.empty_cache()


class _Stopped(BaseException):
    """Ends a thread in the middle of its batch; no error of the model's, so no `Exception`."""


@contextmanager
def _shared(model: Any, stop: threading.Event) -> Iterator[None]:
    """Let several threads use a model at once, until ``stop`` is set; then they end within a
    layer, so that an interrupted program need not wait for whole batches."""

    def check(*_: Any) -> None:
        if stop.is_set():
            raise _Stopped

    def in_turn(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with turn:
                return method(*args, **kwargs)

        return call

    turn = threading.RLock()  # one of the two methods may call the other
    hooks = [module.register_forward_pre_hook(check) for module in model.modules()]
    # A fast tokenizer refuses two threads at once. Older releases know only the second name.
    names = [name for name in ("preprocess", "tokenize") if hasattr(model, name)]
    for name in names:
        setattr(model, name, in_turn(getattr(model, name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for name in names:
            delattr(model, name)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Sums that torch splits over threads would differ in their last bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def choose_device(wanted: Device) -> str:
    """``cpu`` or ``cuda``; UserError for a GPU that is not there."""
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UserError(
            "embedding.device=cuda, but torch finds no GPU here: set embedding.device=auto"
        )
    return "cuda" if there and wanted != "cpu" else "cpu"


def _device_name(device: str) -> str:
    import torch

    return f"cuda: {torch.cuda.get_device_name()}" if device == "cuda" else "cpu"


def _out_of_memory(error: Exception) -> bool:
    import torch

    signs = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


def _plan(model: Any, texts: Sequence[str], device: str, options: EncodeOptions) -> tuple[int, int]:
    """(batch, workers)."""
    import torch

    most, workers = GPU_BATCH, 1
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    if device == "cpu":
        most, workers = BATCH, options.workers or _cores()
    workers = min(workers, -(-len(texts) // CHUNK))
    size = text_size(model, texts)
    if size is None:
        return options.batch or most, workers
    batch, workers = fit(size, free, workers, options.batch or most)
    return options.batch or batch, workers


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
