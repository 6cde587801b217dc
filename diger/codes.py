"""From latents to codes, as autograd functions with their gradients written out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diger.gpu import kernels_for
from diger.passes import loops_for
from diger.quantizer import SAFE_EXPONENT, Assignment, Nearest, Sinkhorn


class StraightThrough(torch.autograd.Function):
    """The one-hot rows of ``codes`` int64 [n], with the gradient of ``soft`` [n, K]."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, codes: Tensor) -> Tensor:
        return torch.zeros_like(soft).scatter_(-1, codes[:, None], 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class Relaxed(torch.autograd.Function):
    """The one-hot rows of the largest of logits [n, K] with noise, with the gradient of their
    softmax at temperature tau; see ``diger.kernels.relax``."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, scale: Tensor, key: Tensor, tau: float) -> Tensor:
        kernels = kernels_for(logits)
        assert kernels is not None
        soft, hard = kernels.relax(logits.contiguous(), scale.contiguous(), key, tau)
        ctx.save_for_backward(soft)
        ctx.tau = tau
        return hard

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (soft,) = ctx.saved_tensors
        kernels = kernels_for(soft)
        assert kernels is not None
        return kernels.relax_back(grad, soft, ctx.tau), None, None, None


class RelaxedRows(torch.autograd.Function):
    """``Relaxed`` on a CPU, with noise [<= n, K] that is given, of the first rows alone; scale, a
    scalar or [K], may be learned."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, scale: Tensor, noise: Tensor, tau: float) -> Tensor:
        loops = loops_for(logits)
        assert loops is not None
        soft, hard = torch.empty_like(logits), torch.empty_like(logits)
        by_code = scale.detach().expand(logits.shape[-1]).contiguous()
        given = (logits.detach().contiguous(), noise.contiguous(), by_code)
        loops.relax(*(x.numpy() for x in given), tau, soft.numpy(), hard.numpy())
        ctx.save_for_backward(soft, scale, noise)
        ctx.tau = tau
        return hard

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        soft, scale, noise = ctx.saved_tensors
        loops, out = loops_for(soft), torch.empty_like(soft)
        assert loops is not None
        loops.relax_back(grad.contiguous().numpy(), soft.numpy(), ctx.tau, out.numpy())
        if not ctx.needs_input_grad[1]:
            return out, None, None, None
        return out, (out[: len(noise)] * noise).sum_to_size(scale.shape), None, None


class QuantisationLoss(torch.autograd.Function):
    """mean ||sg(r) - e||^2 + beta mean ||r - sg(e)||^2 of code vectors e and residuals r [n, D]:
    the codebook loss and beta times the commitment loss (van den Oord et al., NeurIPS 2017).

    weight: [n], summing to 1, in place of 1 / n; or None.
    """

    @staticmethod
    def forward(ctx: Any, e: Tensor, r: Tensor, beta: float, weight: Tensor | None) -> Tensor:
        ctx.beta = beta
        if weight is not None and (loops := loops_for(e)) is not None:
            weight = weight.contiguous()
            apart = torch.empty_like(e, memory_format=torch.contiguous_format)
            rows = (x.detach().contiguous().numpy() for x in (e, r, weight))
            error = float(loops.squares(*rows, apart.numpy()))
            ctx.save_for_backward(apart, weight)
            return e.new_tensor(error * (1 + beta))
        apart = e - r
        errors = apart.square().sum(-1)
        ctx.save_for_backward(apart, weight)
        return (errors.mean() if weight is None else errors @ weight) * (1 + beta)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        apart, weight = ctx.saved_tensors
        if weight is not None and (loops := loops_for(apart)) is not None:
            by_e, by_r = torch.empty_like(apart), torch.empty_like(apart)
            to = (by_e.numpy(), by_r.numpy())
            loops.squares_back(apart.numpy(), weight.numpy(), 2 * float(grad), ctx.beta, *to)
            return by_e, by_r if ctx.needs_input_grad[1] else None, None, None
        share = 1 / len(apart) if weight is None else weight[:, None]
        d_e = apart * (2 * grad * share)
        return d_e, d_e * -ctx.beta if ctx.needs_input_grad[1] else None, None, None


class ResidualQuantisation(torch.autograd.Function):
    """Residual quantisation of latents [n, D] by codebooks [m, K, D], with kernels; see
    ``Quantisation`` for what it gives, which is what ``RQVAE.loss`` takes many more launches for.

    r_l, what level l has to quantise, takes gradients to the latents as it is: no codebook is moved
    by the levels below it, and r_{l+1} = r_l - e_l is all that both losses of a level are made of.
    """

    @staticmethod
    def forward(
        ctx: Any, latent: Tensor, codebooks: Tensor, beta: float, rule: Nearest | Sinkhorn
    ) -> tuple[Tensor, Tensor, Tensor]:
        kernels = kernels_for(latent)
        assert kernels is not None
        balance = (rule.epsilon, rule.iterations) if isinstance(rule, Sinkhorn) else None
        residuals, codes, hard = kernels.quantise(latent, codebooks.contiguous(), balance)
        left = residuals[1:]
        ctx.save_for_backward(left, hard)
        ctx.beta = beta
        ctx.mark_non_differentiable(codes)
        vq = torch.linalg.vector_norm(left).square() * ((1 + beta) / len(latent))
        return latent - left[-1], vq, codes

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor, grad_vq: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        left, hard = ctx.saved_tensors
        by_code = left * (grad_vq * (-2 / left.shape[1]))
        d_latent = torch.add(grad, by_code.sum(0), alpha=-ctx.beta)
        # A product in place of additions whose order a GPU leaves to chance.
        return d_latent, torch.bmm(hard.transpose(1, 2), by_code), None, None


class Quantisation(NamedTuple):
    """quantized: [n, D], the sums of the chosen code vectors, whose gradient goes straight through
    to the latents. vq: a scalar, the sum over levels of ``quantisation_loss``. codes: int64 [n, m].
    """

    quantized: Tensor
    vq: Tensor
    codes: Tensor


def residual_quantisation(
    latent: Tensor, codebooks: Tensor, beta: float, rule: Assignment
) -> Quantisation | None:
    """None where there are no kernels for these."""
    kernels = kernels_for(latent, types=(torch.float32,))
    if isinstance(rule, Sinkhorn):
        known = not rule.waits and 1 / rule.epsilon < SAFE_EXPONENT
    else:
        known = isinstance(rule, Nearest)
    if kernels is None or not known or not kernels.quantises(len(latent), *codebooks.shape[1:]):
        return None
    found = ResidualQuantisation.apply(latent, codebooks, beta, rule)  # type: ignore[no-untyped-call]
    return Quantisation(*found)


def straight_through(soft: Tensor, codes: Tensor) -> Tensor:
    """See ``StraightThrough``."""
    return StraightThrough.apply(soft, codes)  # type: ignore[no-untyped-call]


def relaxed_rows(logits: Tensor, scale: Tensor, noise: Tensor, tau: float) -> Tensor:
    """See ``RelaxedRows``."""
    return RelaxedRows.apply(logits, scale, noise, tau)  # type: ignore[no-untyped-call]


def largest(x_nxK: Tensor) -> Tensor:
    """int64 [n]: where the largest number of each row is."""
    if (loops := loops_for(x_nxK)) is None:
        return x_nxK.argmax(-1)
    found = torch.empty(len(x_nxK), dtype=torch.int64)
    loops.largest(x_nxK.detach().contiguous().numpy(), found.numpy())
    return found


def relaxed(logits: Tensor, scale: Tensor, key: Tensor, tau: float) -> Tensor:
    """See ``Relaxed``."""
    return Relaxed.apply(logits, scale, key, tau)  # type: ignore[no-untyped-call]


def quantisation_loss(e: Tensor, r: Tensor, beta: float, weight: Tensor | None) -> Tensor:
    """See ``QuantisationLoss``."""
    return QuantisationLoss.apply(e, r, beta, weight)  # type: ignore[no-untyped-call]
