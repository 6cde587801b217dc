"""Residual quantisation: distances, nearest codes, k-means start, balanced assignment.

Shapes: N items, D latent width, m levels, K codes a level. Codebooks are one tensor [m, K, D].
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from diger.checks import SettingError

#: Items whose distances to all codes are held at a time, a bound on memory.
PART = 1 << 16
#: The kernel's exponents lie within +-1/epsilon, factors within twice that: below this, neither
#: leaves float64, whose exponents end at 709.
SAFE_EXPONENT = 350.0


def squared_distances(residual_NxD: Tensor, codebook_KxD: Tensor) -> Tensor:
    """||r - c||^2 for every pair, [N, K], never negative."""
    r, c = residual_NxD, codebook_KxD
    return (r.square().sum(1, keepdim=True) - 2 * r @ c.T + c.square().sum(1)).clamp_min(0)


def nearness(residual_NxD: Tensor, codebook_KxD: Tensor) -> Tensor:
    """-||r - c||^2 + ||r||^2 for every pair, [N, K]: what an item's own length adds to all of its
    distances alike is left out, since neither softmax nor argmax over the codes can see it."""
    c = codebook_KxD
    return torch.addmm(-c.square().sum(1), residual_NxD, c.T, alpha=2)


def squared_error(a_NxD: Tensor, b_NxD: Tensor, weight_N: Tensor | None = None) -> Tensor:
    """Mean over rows of ||a - b||^2, a scalar; with weights, which sum to 1, weighted by them."""
    errors = (a_NxD - b_NxD).square().sum(-1)
    return errors.mean() if weight_N is None else errors @ weight_N


class Quantized(NamedTuple):
    """codes: int64 [N, m]; residuals: [N, m, D], what each level had to quantise;
    quantized: [N, D], the sum of the chosen code vectors."""

    codes: Tensor
    residuals: Tensor
    quantized: Tensor


def quantize(latent_NxD: Tensor, codebooks_mxKxD: Tensor, assignment: Assignment) -> Quantized:
    """Level by level: choose a code by ``assignment``, subtract its vector, go on."""
    residual, codes, residuals = latent_NxD, [], []
    quantized = torch.zeros_like(latent_NxD)
    for codebook in codebooks_mxKxD:
        residuals.append(residual)
        code = assignment(squared_distances(residual.detach(), codebook.detach()))
        chosen = codebook.index_select(0, code)
        codes.append(code)
        quantized = quantized + chosen
        residual = residual - chosen
    return Quantized(torch.stack(codes, 1), torch.stack(residuals, 1), quantized)


class Assignment:
    """Turns distances [N, K] into one code per row, int64 [N]."""

    def __call__(self, distances_NxK: Tensor) -> Tensor:
        raise NotImplementedError


class Nearest(Assignment):
    """argmin: the nearest code; ties go to the lower code."""

    def __call__(self, distances_NxK: Tensor) -> Tensor:
        return distances_NxK.argmin(1)


class Sinkhorn(Assignment):
    """Entropic optimal transport between the rows and equally loaded codes.

    Distances are centred on the middle of their range and divided by half of it; then rows and
    columns of exp(-d / epsilon) are scaled in turn to sums 1/N and 1/K (Cuturi, "Sinkhorn
    Distances", NeurIPS 2013). A row's code is its largest transport weight. Everything runs in
    float64, and in the log domain where a small epsilon could underflow.

    Args:
        waits: look whether float64 was wide enough and, where it was not, start again in the log
            domain; that reads a value back from the device. Without, such rows get their nearest
            code (in training: a few rows of one batch).
    """

    def __init__(self, epsilon: float = 0.003, iterations: int = 50, waits: bool = True) -> None:
        if epsilon <= 0:
            raise ValueError(f"sinkhorn epsilon must be positive, got {epsilon}")
        if iterations < 1:
            raise ValueError(f"sinkhorn iterations must be at least 1, got {iterations}")
        self.epsilon, self.iterations, self.waits = epsilon, iterations, waits

    def transport(self, distances_NxK: Tensor) -> Tensor:
        """log of the transport plan, float64 [N, K]; its columns sum to 1/K exactly and its rows
        to 1/N up to convergence."""
        d = distances_NxK.double()
        middle, half = (d.max() + d.min()) / 2, (d.max() - d.min()) / 2
        log_kernel = -(d - middle) / (half.clamp_min(1e-12) * self.epsilon)
        if 1 / self.epsilon < SAFE_EXPONENT:
            rows, columns = self._scale(log_kernel.exp())
            if not self.waits or bool(torch.isfinite(rows).all() & torch.isfinite(columns).all()):
                return log_kernel + rows[:, None] + columns
        return self._scale_logs(log_kernel)

    def _scale(self, kernel_NxK: Tensor) -> tuple[Tensor, Tensor]:
        """log of the row and column factors, by products with the kernel: a matrix read twice an
        iteration, where the log domain needs an exponential of each entry."""
        n, k = kernel_NxK.shape
        columns = kernel_NxK.new_ones(k)
        # n and k are in the matrices, not in the iterations, whose time on a GPU is their launches.
        along, across = kernel_NxK * n, (kernel_NxK.T * k).contiguous()
        for _ in range(self.iterations):
            rows = torch.mv(along, columns).reciprocal_()
            columns = torch.mv(across, rows).reciprocal_()
        return rows.log(), columns.log()

    def _scale_logs(self, log_kernel_NxK: Tensor) -> Tensor:
        """log of the plan, for an epsilon whose kernel has no place in float64."""
        n, k = log_kernel_NxK.shape
        log_plan = log_kernel_NxK
        for _ in range(self.iterations):
            log_plan = log_plan - log_plan.logsumexp(1, keepdim=True) - np.log(n)
            log_plan = log_plan - log_plan.logsumexp(0, keepdim=True) - np.log(k)
        return log_plan

    def __call__(self, distances_NxK: Tensor) -> Tensor:
        plan = self.transport(distances_NxK)
        if self.waits:
            return plan.argmax(1)
        usable = torch.isfinite(plan).all(1)
        return torch.where(usable, plan.argmax(1), distances_NxK.argmin(1))


def make_assignment(name: str, waits: bool = True) -> Assignment:
    """``argmin`` or ``sinkhorn`` (epsilon 0.003, 50 iterations: the released recipe); ``waits`` as
    of ``Sinkhorn``."""
    if name == "argmin":
        return Nearest()
    if name == "sinkhorn":
        return Sinkhorn(waits=waits)
    raise ValueError(f"assignment must be 'argmin' or 'sinkhorn', got {name!r}")


def residual_kmeans(
    latent_NxD: Tensor,
    levels: int,
    codebook_size: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Codebooks [m, K, D] from k-means on the latents, then on what each level leaves over.

    Args:
        progress: called with (levels done, levels) after each.

    Raises:
        SettingError: fewer items than codes.
    """
    n = len(latent_NxD)
    if n < codebook_size:
        raise SettingError(
            f"codebook_size {codebook_size} needs at least as many items, there are {n}; "
            f"set method.codebook_size to {n} or less"
        )
    residual = latent_NxD.detach().cpu().double().numpy()
    books = []
    for level in range(levels):
        means = KMeans(codebook_size, n_init=1, max_iter=50, random_state=seed + level)
        with warnings.catch_warnings():
            # Residuals can have fewer distinct points than codes; the spare codes stay unused.
            warnings.simplefilter("ignore", ConvergenceWarning)
            label = means.fit_predict(residual)
        books.append(means.cluster_centers_)
        residual = residual - means.cluster_centers_[label]
        if progress is not None:
            progress(level + 1, levels)
    return torch.as_tensor(np.stack(books), dtype=latent_NxD.dtype, device=latent_NxD.device)
