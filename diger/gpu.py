"""Whether a GPU's own kernels can be used."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Container
from types import ModuleType

import torch
from torch import Tensor

KERNEL_TYPES = (torch.float32, torch.bfloat16)


def kernels_for(
    x: Tensor, keep: Tensor | None = None, types: Container[torch.dtype] = KERNEL_TYPES
) -> ModuleType | None:
    """``diger.kernels`` if it has what can be done with x: only on a GPU, and not where torch looks
    at operations in place of running them."""
    if torch.compiler.is_compiling() or not on_gpu(x) or x.dtype not in types:
        return None
    if keep is not None and keep.dtype != torch.int64:
        return None
    return _kernels()


def on_gpu(x: Tensor) -> bool:
    """Where Triton's kernels run; vmap, which has no place for them, shows other tensors."""
    return x.is_cuda and not torch._C._functorch.is_batchedtensor(x)


@functools.cache
def _kernels() -> ModuleType | None:
    try:
        from diger import kernels
    except ImportError:  # torch comes without it on some systems
        return None
    if torch.cuda.is_available():
        # Triton compiles when a kernel is first launched, with a C compiler and a place to keep
        # what it made: whether it can is to be known before a step depends on it.
        try:
            kernels.drop(torch.zeros(16, device="cuda"), None, 1.0, 1.0, torch.float32)
            torch.cuda.synchronize()
        except Exception as error:  # of several libraries, and a compiler's own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"steps are slower without Triton's kernels: {reason}", stacklevel=2)
            return None
    return kernels
