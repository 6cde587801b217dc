"""Passes over the numbers of a training step on a GPU, one Triton kernel each where torch takes
several: what ``diger.loops`` is on a CPU.

A step of a small model is launches: two thousand kernels of a few microseconds, most of which read
what the one before wrote. Tensors are contiguous, on the GPU, and float32 or bfloat16; sums are
float32, those of balanced codes float64. No sum is left to the order in which blocks finish: the
same input gives the same bits. With TRITON_INTERPRET=1 they run on a CPU, slowly, which is how they
are tested.

Of what is compiled only constants have types: Triton reads annotations as if they were code.
"""

from diger.kernels.attention import ask, ask_back, asks, attend, attend_back, attends
from diger.kernels.codes import relax, relax_back
from diger.kernels.elements import adamw_, drop, drop_add, relu_drop_
from diger.kernels.levels import quantise, quantises
from diger.kernels.rows import drop_add_norm, norm, norm_back, softmax, softmax_back

__all__ = [
    "adamw_",
    "ask",
    "ask_back",
    "asks",
    "attend",
    "attend_back",
    "attends",
    "drop",
    "drop_add",
    "drop_add_norm",
    "norm",
    "norm_back",
    "quantise",
    "quantises",
    "relax",
    "relax_back",
    "relu_drop_",
    "softmax",
    "softmax_back",
]
