"""The gradient audit: which losses reach which parts of the tokenizer, and by which road.

The recommendation loss L_rec can reach the tokenizer by three roads: the codes of the history, the
codes that the decoder is fed (teacher forcing), and the target distribution. A paper's text cannot
show whether its code lets it; the norms here can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diger.estimators import SoftCodes
from diger.generator import ROADS, Batch

if TYPE_CHECKING:
    from diger.trainer import Trainer


PART = 4096  # items, with padding, of the rows whose loss is held at a time, a bound on memory


class Probe:
    """One batch as training would see it, but without dropout; draws no shared random numbers.

    Args:
        positions: int64, the rows of the batch.
    """

    def __init__(self, trainer: Trainer, positions: NDArray[np.int64], seed: int) -> None:
        trainer.modules.eval()  # no dropout; the noise below is what training would see
        trainer.noise.manual_seed(seed)
        self.trainer, self.positions = trainer, positions
        self.batch: Batch
        self.batch, distinct = trainer.rows.batch(positions, trainer.sids_on_device)
        self.soft: SoftCodes | None = None
        if trainer.estimator.trains_tokenizer:
            latent = trainer.tokenizer.encoder(trainer.content[distinct])
            self.soft = trainer.tokenize_latent(latent, self.batch)

    def recommendation_norms(self, roads: tuple[str, ...] = ROADS) -> dict[str, Any]:
        """``norms`` of L_rec alone, before any weighting of the estimator's own, through these
        roads."""
        soft, at_codes = self.soft, self._gradient_at_codes(roads)
        if soft is None or at_codes is None:
            return self.norms(None)
        return self.norms(soft.y, at_codes)

    def _gradient_at_codes(self, roads: tuple[str, ...]) -> Tensor | None:
        """[m, n, K], that of L_rec at the soft codes; None where it has no way there.

        Of some rows at a time: those of all at once take as much memory as a whole training step
        whose histories are padded to the longest, and the tokenizer, which they share, is behind
        the codes.
        """
        if self.soft is None or not self.soft.y.requires_grad:
            return None
        y = self.soft.y.detach().requires_grad_()
        total = torch.zeros_like(y)
        for rows, part in self._parts():
            loss = self.trainer.generator.loss(part, y, roads)
            (grad,) = torch.autograd.grad(loss, y, allow_unused=True)
            if grad is None:
                return None
            total.add_(grad, alpha=rows / len(self.positions))
        return total

    def _parts(self) -> Iterator[tuple[int, Batch]]:
        """The rows in batches of their own over the same items, the longest histories first; and
        how many rows."""
        data, batch, start = self.trainer.data, self.batch, 0
        lengths = self.positions - data.history_starts(self.positions)
        order = np.argsort(-lengths, kind="stable")
        while start < len(order):
            width = int(lengths[order[start]])
            some = order[start : start + max(1, PART // width)]
            rows = torch.as_tensor(some, device=batch.history.device)
            yield len(some), batch._replace(
                history=batch.history[rows, :width], mask=batch.mask[rows, :width],
                target=batch.target[rows],
            )  # fmt: skip
            start += len(some)

    def norms(self, of: Tensor | None, gradient: Tensor | None = None) -> dict[str, Any]:
        """Euclidean norms of the gradient of a loss: ``codebook``, one a level; ``encoder``;
        ``noise``, on what the estimator itself learns. Exactly 0 where the loss has no way there;
        None for an encoder or an estimator that has no parameters.

        Args:
            of: the loss, a scalar; or what it comes from, if ``gradient``, of the same shape, is
                given at that; None: the loss has no way to anything.
        """
        tokenizer, estimator = self.trainer.tokenizer, self.trainer.estimator
        encoder, own = list(tokenizer.encoder.parameters()), list(estimator.parameters())
        wanted = [tokenizer.codebooks, *encoder, *own]
        grads: Sequence[Tensor | None] = [None] * len(wanted)
        if of is not None and of.requires_grad:
            grads = torch.autograd.grad(of, wanted, gradient, retain_graph=True, allow_unused=True)
        book = torch.zeros_like(tokenizer.codebooks) if grads[0] is None else grads[0]
        return {
            "codebook": book.flatten(1).norm(dim=1).tolist(),
            "encoder": _norm(grads[1 : 1 + len(encoder)]),
            "noise": _norm(grads[1 + len(encoder) :]),
        }

    def flipped(self) -> list[float]:
        """Per level, the share of the batch's items whose code in the forward pass is not the one
        that no noise would have chosen."""
        if self.soft is None:
            return [0.0] * self.trainer.estimator.levels
        changed = self.soft.codes != self.soft.nearest
        return changed.float().mean(0).tolist()


def audit(trainer: Trainer) -> dict[str, Any]:
    """Norms by loss and part on one batch: the first training rows, the IDs and weights as they
    are now. Losses: ``history``, ``input`` and ``target`` (L_rec by that road alone), ``rec`` (by
    all three), ``vq`` and ``reconstruction``."""
    positions = trainer.data.train_positions[: trainer.config.batch_size]
    probe = Probe(trainer, positions, trainer.probe_seed)
    norms = {road: probe.recommendation_norms((road,)) for road in ROADS}
    norms["rec"] = probe.recommendation_norms()
    if probe.soft is not None:
        losses = {"vq": probe.soft.vq, "reconstruction": probe.soft.reconstruction}
        norms |= {name: probe.norms(loss) for name, loss in losses.items()}
    moved = ["codebooks"] if trainer.estimator.trains_tokenizer else []
    if moved and not trainer.config.freeze_encoder:
        moved.append("encoder")
    return {
        "rows": len(positions),
        "norms": norms,
        "moved": moved,
        "flipped": probe.flipped(),
    }


def _norm(grads: Sequence[Tensor | None]) -> float | None:
    """Norm of all gradients together; None if there are no parameters."""
    if not grads:
        return None
    squares = [grad.square().sum() for grad in grads if grad is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
