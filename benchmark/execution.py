"""How a run uses its device: precision, recorded steps, repeatability. No part of what a result is,
but recorded beside it."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any

from benchmark.errors import UserError

PRECISIONS = ("auto", "fp32", "bf16")
STEPS = ("auto", "eager", "graph", "compile")
#: Without it cuBLAS may choose another kernel for the same product.
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
#: glibc's M_MMAP_THRESHOLD at its largest, so that only what is larger is a mapping of its own, and
#: M_TRIM_THRESHOLD, the free memory at the heap's end from which on it is returned (mallopt(3)).
KEPT = ((-3, 1 << 25), (-1, 1 << 30))


@dataclass(frozen=True)
class Execution:
    """What was decided for a device.

    precision: of a generative recommender's products in training, ``fp32`` or ``bf16``.
    step: how its training steps run, ``eager``, ``graph`` (recorded as CUDA graphs) or ``compile``.
    deterministic: the same bits again on the same GPU. A CPU always gives them.
    """

    precision: str = "fp32"
    step: str = "eager"
    deterministic: bool = False


@dataclass(frozen=True)
class ExecutionChoice:
    """What was asked for: the keys ``precision``, ``step`` and ``deterministic``.

    Raises:
        UserError: a value that is none of theirs.
    """

    precision: str = "auto"
    step: str = "auto"
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("precision", self.precision, PRECISIONS),
            ("step", self.step, STEPS),
        ):
            if value not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if not isinstance(self.deterministic, bool):
            raise UserError(f"deterministic must be true or false, got {self.deterministic!r}")

    def on(self, device: str) -> Execution:
        """``auto`` becomes fp32 everywhere (that bf16 changes no result beyond the noise of seeds
        has not been shown on a GPU), eager steps on a CPU and recorded ones on a GPU.

        Raises:
            UserError: CUDA graphs without CUDA.
        """
        on_gpu = device != "cpu"
        if self.step == "graph" and not on_gpu:
            raise UserError(
                "step=graph records CUDA graphs, and this run is on a CPU; use step=auto or eager"
            )
        precision = "fp32" if self.precision == "auto" else self.precision
        step = ("graph" if on_gpu else "eager") if self.step == "auto" else self.step
        return Execution(precision, step, self.deterministic)


def begin(execution: Execution, device: str) -> dict[str, Any]:
    """Set torch up in this process, before anything is on the device; what run.json says of it."""
    import torch

    facts: dict[str, Any] = dict(vars(execution))
    if device == "cpu":
        keep_memory()
        return facts | {"products": faster_products()}
    if execution.deterministic:
        os.environ.setdefault(*WORKSPACE)
        # Only warns where torch has no repeatable kernel: the run goes on, and says so.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    return facts


def keep_memory() -> bool:
    """Let the C library keep what is freed for what is asked for next; whether it can.

    A training step frees what the next one asks for again. Left to itself glibc gives its largest
    pieces back to the system each time, which hands them out anew zeroed, page by page, each with
    an interruption of its own: some two thousand a step on MovieLens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    return all(mallopt(parameter, size) == 1 for parameter, size in KEPT)


def faster_products() -> str:
    """Let oneDNN multiply float32 matrices where it does so in float32; ``onednn`` or ``blas``.

    The BLAS inside torch holds back on processors that its maker does not make: oneDNN is twice
    as fast there. torch hands it float32 products when they may be computed in bfloat16. On most
    processors they are not, and then nothing is lost; where they are, this changes nothing.
    """
    import torch

    onednn: Any = torch.backends.mkldnn
    try:
        onednn.matmul.fp32_precision = "bf16"
    except (AttributeError, RuntimeError):
        return "blas"
    if _exact():
        return "onednn"
    onednn.matmul.fp32_precision = "ieee"
    return "blas"


def _exact() -> bool:
    """Whether products keep the low bits of float32, in shapes like those of a training step."""
    import torch

    # Sums of whole numbers below 2^24, which float32 holds and bfloat16's 8 bits do not.
    random = torch.Generator().manual_seed(0)
    left, right = (
        torch.randint(-1023, 1024, shape, generator=random).double()
        for shape in ((2560, 16), (16, 64))
    )
    want = left @ right
    pairs = [(left, right), (left.expand(4, -1, -1), right.expand(4, -1, -1))]
    return all(bool(((a.float() @ b.float()).double() == want).all()) for a, b in pairs)
