"""The passes over memory of a step's blocks: in one loop of ``diger.loops`` on a CPU, one kernel of
``diger.kernels`` on a GPU, where there is one, as torch's operations otherwise, to the same result
but for rounding. On a CPU in float32, whole blocks are compiled (``diger.compiled``).

What dropout keeps, and its ``scale``, are as in ``diger.keep``.
"""

from __future__ import annotations

import functools
import warnings
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from diger.gpu import kernels_for
from diger.keep import cut, mask

EPSILON = 1e-6
#: With two threads, torch's operations took 1.2 times as long as compiled blocks with one, on
#: MovieLens and on Beauty.
MOST_THREADS = 2


def loops_for(
    x: Tensor, keep: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> ModuleType | None:
    """``diger.loops`` if it has what can be done with x: only on a CPU, and not where torch looks
    at operations in place of running them."""
    if x.device.type != "cpu" or x.dtype != dtype or torch.compiler.is_compiling():
        return None
    if keep is not None and keep.dtype != torch.int64:
        return None
    return _loops()


@functools.cache
def _loops() -> ModuleType | None:
    try:
        from diger import loops
    except (ImportError, RuntimeError) as error:
        # A GPU node may do without numba; and numba does not load where it finds no folder to keep
        # what it has compiled.
        if find_spec("numba") is not None:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"steps on a CPU are slower without numba: {reason}", stacklevel=2)
        return None
    return loops


def compiled_for(x: Tensor, dtype: torch.dtype) -> ModuleType | None:
    """``diger.compiled`` if it has whole stacks for x, with products of this type: in float32, and
    where torch has no more threads than make up for being slower with one."""
    if dtype != torch.float32 or kernels_for(x) is not None or loops_for(x) is None:
        return None
    return _compiled() if torch.get_num_threads() <= MOST_THREADS else None


@functools.cache
def _compiled() -> ModuleType | None:
    try:
        from diger import compiled, products
    except Exception as error:  # of numba, and of the compiler that it hands its products to
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(f"steps on a CPU are slower without compiled blocks: {reason}", stacklevel=2)
        return None
    return compiled if products.available() else None


def passes_of(x: Tensor, dtype: torch.dtype = torch.float32) -> str:
    """What computes a step's blocks here, with products of this type: ``triton``, ``blocks``, that
    is numba with products of its own, ``numba`` with torch's, or ``torch``. Their sums have other
    orders, so that a training ends as another seed of it would."""
    if kernels_for(x) is not None:
        return "triton"
    if loops_for(x) is None:
        return "torch"
    return "numba" if compiled_for(x, dtype) is None else "blocks"


def normed_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., d] over its root mean square, and what it was multiplied with [..., 1].

    On a GPU ``diger.kernels.norm`` takes the weight in, too, and callers ask for that themselves.
    """
    if (loops := loops_for(x)) is not None:
        x = x.detach().contiguous()
        normed, scale = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1)
        rows, width = normed.view(-1, x.shape[-1]).numpy(), x.shape[-1]
        loops.norm(x.view(-1, width).numpy(), rows, scale.view(-1).numpy(), EPSILON)
        return normed, scale
    mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().mul_(1 / x.shape[-1])
    scale = mean.add_(EPSILON).rsqrt_()
    return x * scale, scale


def norm_backward(inner: Tensor, normed: Tensor, scale: Tensor) -> Tensor:
    """The gradient at x [..., d] over ``scale``, given the one at the normed x, in whose place it
    is."""
    along = (inner * normed).sum(-1, keepdim=True).mul_(-1 / normed.shape[-1])
    return inner.addcmul_(normed, along)


def add_normed_backward(residual: Tensor, inner: Tensor, normed: Tensor, scale: Tensor) -> Tensor:
    """residual plus the gradient at x, given that at the normed x, which goes; all [N, d], scale
    [N, 1]."""
    if (loops := loops_for(residual)) is None:
        return torch.addcmul(residual, norm_backward(inner, normed, scale), scale)
    out = residual.clone(memory_format=torch.contiguous_format)
    given = (inner, normed, scale.view(-1), out)
    loops.norm_back(*(tensor.numpy() for tensor in given))
    return out


def kept(
    x: Tensor, keep: Tensor | None, scale: float, factor: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """x, times factor where it is kept, else 0; in this type, or that of x."""
    dtype = x.dtype if dtype is None else dtype
    if keep is None:
        return x.to(dtype)
    if (kernels := kernels_for(x, keep)) is not None:
        dropped: Tensor = kernels.drop(x, keep, scale, factor, dtype)
        return dropped
    if (loops := loops_for(x, keep)) is None:
        found = x * mask(x, keep, scale)
        return (found if factor == 1 else found.mul_(factor)).to(dtype)
    x = x.detach().contiguous()
    out = torch.empty_like(x)
    loops.drop(x.numpy(), out.numpy(), 0, int(keep), cut(scale), factor)
    return out.to(dtype)


def add_kept(x: Tensor, y: Tensor, keep: Tensor | None, scale: float, factor: float) -> Tensor:
    """x + y, this times factor where it is kept, else 0. x may be of a wider type than y."""
    if keep is None:
        return x + y
    if (kernels := kernels_for(x, keep)) is not None:
        added: Tensor = kernels.drop_add(x, y, keep, scale, factor)
        return added
    if (loops := loops_for(x, keep)) is None:
        return torch.addcmul(x, y.to(x.dtype), mask(x, keep, scale), value=factor)
    x, y = x.detach().contiguous(), y.to(x.dtype).contiguous()
    out = torch.empty_like(x)
    loops.drop_add(x.numpy(), y.numpy(), out.numpy(), 0, int(keep), cut(scale), factor)
    return out


#: Of a type, its bits as a type that can be viewed as unsigned, and those of -0 and of infinity.
BITS = {
    torch.float32: (torch.int32, np.uint32, 0x80000000, 0x7F800000),
    torch.bfloat16: (torch.int16, np.uint16, 0x8000, 0x7F80),
}


def relu_kept_(x: Tensor, keep: Tensor | None, scale: float) -> Tensor:
    """In place, x where it is above 0 and kept, else 0."""
    if keep is None:
        return x.relu_()
    if (kernels := kernels_for(x, keep)) is not None:
        found: Tensor = kernels.relu_drop_(x, keep, scale)
        return found
    if x.dtype not in BITS or (loops := loops_for(x, keep, x.dtype)) is None:
        return x.relu_().mul_(mask(x, keep, scale))
    whole, unsigned, sign, infinity = BITS[x.dtype]
    bits = x.detach().view(whole).numpy().view(unsigned)
    loops.relu_drop(bits, sign, infinity, 0, int(keep), cut(scale))
    return x


def softmax_kept(
    scores: Tensor, bias: Tensor, keep: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """softmax(scores + bias) over the last of four dimensions, in the type of the bias, and what
    of it is kept, in the type of the scores. The bias is [B or 1, H or 1, T or 1, S]."""
    if (kernels := kernels_for(scores, keep)) is not None:
        both: tuple[Tensor, Tensor] = kernels.softmax(scores, bias, keep, scale)
        return both
    weights = scores.to(bias.dtype).add_(bias).softmax(-1)
    return weights, kept(weights, keep, scale, dtype=scores.dtype)


def softmax_backward(d_kept: Tensor, weights: Tensor, keep: Tensor | None, scale: float) -> Tensor:
    """The gradient at the scores, in the shape of ``weights`` [..., S], given that at the weights
    behind their dropout, which goes; its shape may be flatter. On a GPU it keeps its type."""
    d_kept = d_kept.view_as(weights)
    if (kernels := kernels_for(d_kept, keep)) is not None:
        grad_out: Tensor = kernels.softmax_back(d_kept, weights, keep, scale)
        return grad_out
    d_kept = d_kept.to(weights.dtype)
    if keep is None:
        return torch._softmax_backward_data(d_kept, weights, -1, weights.dtype)
    if (loops := loops_for(weights, keep)) is None:
        d_kept = d_kept.mul_(mask(weights, keep, scale))
        return torch._softmax_backward_data(d_kept, weights, -1, weights.dtype)
    grad, rows = (x.view(-1, x.shape[-1]).numpy() for x in (d_kept, weights))
    loops.softmax_back(grad, rows, int(keep), cut(scale))
    return d_kept
