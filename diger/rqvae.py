"""RQ-VAE: an MLP autoencoder with residual quantisation between its halves.

Lee et al., "Autoregressive Image Generation using Residual Quantization", CVPR 2022; used for
semantic IDs by Rajput et al. (TIGER), NeurIPS 2023. Squared norms are sums over dimensions and
means over items. (Many implementations average over dimensions too. With unit-norm embeddings of
more dimensions than the latent has, that puts so little weight on reconstruction that the latents
shrink together and half of the catalogue collides.)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from diger.checks import above, at_least, one_of, whole
from diger.codes import residual_quantisation
from diger.graphs import Graphs, start_state
from diger.quantizer import make_assignment, quantize, residual_kmeans, squared_error
from diger.semantic_ids import code_statistics
from diger.tokenizer import Progress, Tokenizer, shared, stored_at, unfinished
from diger.tokenizer_training import Reached, TokenizerTraining, snapshot

FORMAT = "rqvae-4"  # raise when the training below changes what the same settings give


@dataclass(frozen=True)
class RQVAEConfig:
    """Sizes and training of the tokenizer.

    ``assignment`` numbers the catalogue once training is over; ``train_assignment`` chooses codes
    inside training, within each batch. ``check_every`` epochs the collision rate of the whole
    catalogue is looked at, from ``min_epochs`` on the state with the fewest collisions is kept
    (before that an encoder that has learnt nothing could win), and training ends when
    ``patience`` checks in a row bring no better one.
    """

    hidden: Sequence[int] = field(default=(512, 256, 128))
    latent: int = 64
    beta: float = 0.25
    epochs: int = 10_000
    batch_size: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    check_every: int = 50
    patience: int = 5
    min_epochs: int = 100
    train_assignment: str = "argmin"
    assignment: str = "sinkhorn"

    def __post_init__(self) -> None:
        if not isinstance(self.hidden, list | tuple):
            raise ValueError(f"tokenizer.hidden must be a list of widths, got {self.hidden!r}")
        for width in self.hidden:
            whole("tokenizer.hidden", width, 1)
        for name in ("latent", "epochs", "batch_size", "check_every", "patience"):
            whole(f"tokenizer.{name}", getattr(self, name), 1)
        whole("tokenizer.min_epochs", self.min_epochs, 0)
        above("tokenizer.learning_rate", self.learning_rate, 0)
        at_least("tokenizer.beta", self.beta, 0)
        at_least("tokenizer.weight_decay", self.weight_decay, 0)
        one_of("tokenizer.assignment", self.assignment, ("argmin", "sinkhorn"))
        one_of("tokenizer.train_assignment", self.train_assignment, ("argmin", "sinkhorn"))


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (wide, narrow) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(wide, narrow))
        if i < len(widths) - 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class RQVAELoss(NamedTuple):
    """total = reconstruction + vq, scalars, and what they were taken from.

    quantized: [B, D], the sum of the chosen code vectors, whose gradient goes straight through to
    the latents. codes: int64 [B, m].
    """

    total: Tensor
    reconstruction: Tensor
    vq: Tensor
    quantized: Tensor
    codes: Tensor


class RQVAE(Tokenizer):
    """Encoder E, codebooks [m, K, D], decoder.

    Attributes:
        recordable: whether a training step reads nothing but tensors that stay where they are, so
            that a GPU may record it.
    """

    recordable = True

    def __init__(self, width: int, levels: int, codebook_size: int, config: RQVAEConfig) -> None:
        super().__init__()
        widths = [width, *config.hidden, config.latent]
        self.config = config
        self.beta, self.assignment = config.beta, config.assignment
        self.encoder = _mlp(widths)
        self.decoder = _mlp(widths[::-1])
        self.codebooks = nn.Parameter(torch.zeros(levels, codebook_size, config.latent))

    def begin_epoch(self, epoch: int) -> None:
        """Called before each epoch of training, counted from 1."""

    def loss(self, content_BxW: Tensor, items_B: Tensor | None = None) -> RQVAELoss:
        """Reconstruction + sum over levels of (codebook loss + beta x commitment loss).

        Args:
            content_BxW: embeddings of B items. items_B: int64, which items they are, for
                subclasses that know more of them than their content.
        """
        latent = self.encoder(content_BxW)
        waits = content_BxW.device.type == "cpu"
        rule = make_assignment(self.config.train_assignment, waits)
        if (at_once := residual_quantisation(latent, self.codebooks, self.beta, rule)) is not None:
            straight, vq, codes = at_once
            out = self.decoder(straight)
            reconstruction = F.mse_loss(out, content_BxW, reduction="sum") / len(out)
            return RQVAELoss(reconstruction + vq, reconstruction, vq, straight, codes)
        q = quantize(latent, self.codebooks, rule)
        straight = latent + (q.quantized - latent).detach()
        reconstruction = squared_error(self.decoder(straight), content_BxW)
        vq = latent.new_zeros(())
        residual = latent
        for level, codebook in enumerate(self.codebooks):
            chosen = codebook.index_select(0, q.codes[:, level])
            vq = vq + squared_error(chosen, residual.detach())
            vq = vq + self.config.beta * squared_error(residual, chosen.detach())
            # What a level leaves over is the next level's fixed target: no codebook is moved by
            # the levels below it.
            residual = residual - chosen.detach()
        return RQVAELoss(reconstruction + vq, reconstruction, vq, straight, q.codes)


def train_rqvae(
    model: RQVAE,
    content: NDArray[np.float32],
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
    keep: Path | None = None,
) -> RQVAE:
    """Train on the whole catalogue [N, W]; returns the state with the fewest collisions.

    Ties go to the later state. The catalogue stays on the device.

    Args:
        keep: file in which the training is kept every ``check_every`` epochs. If there is one of
            the same model, content and seed, it is taken up, and ends as if it had never stopped
            (on a CPU bit for bit); a damaged one is not used. Nothing is kept without.
    """
    config = model.config
    x = torch.as_tensor(content, device=device)
    model = model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay,
        fused=True, capturable=x.is_cuda,
    )  # fmt: skip
    shuffle = torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    training = TokenizerTraining(model, optimizer, shuffle)
    at = None if keep is None else training.take_up(keep)
    if at is None:
        start_codebooks(model, x, seed)
        at = Reached(best_state=snapshot(model))
    started -= at.seconds
    steps = TokenizerSteps(model, optimizer, x, config.batch_size)
    while not at.stopped(config):
        at.epoch += 1
        model.begin_epoch(at.epoch)
        order = torch.randperm(len(x), generator=shuffle).to(device)
        for rows in order.split(config.batch_size):
            steps.run(rows)
        check = at.epoch % config.check_every == 0
        if at.epoch == config.epochs or (check and at.epoch >= config.min_epochs):
            rate = code_statistics(model.assign(x), model.codebooks.shape[1]).collision_rate
            at.check(rate, model)
        if progress is not None:
            progress(at.epoch, at.last_epoch(config))
        at.seconds = time.perf_counter() - started
        if check and keep is not None:
            training.keep(keep, at)
    model.load_state_dict(at.best_state)
    model.facts = at.facts(config)
    return model


class TokenizerSteps:
    """Training steps on the rows of a catalogue, on a GPU recorded.

    Args:
        content_NxW: on the device. batch_size: most rows of a step.
    """

    def __init__(
        self, model: RQVAE, optimizer: torch.optim.Optimizer, content_NxW: Tensor, batch_size: int
    ) -> None:
        self.model, self.optimizer, self.content = model, optimizer, content_NxW
        self.graphs: Graphs | None = None
        for group in optimizer.param_groups:  # what was taken up may be of another device
            group["capturable"] = content_NxW.is_cuda
        if content_NxW.is_cuda and model.recordable:
            if not optimizer.state:
                start_state(optimizer)
            self.rows = torch.zeros(batch_size, dtype=torch.int64, device=content_NxW.device)
            self.graphs = Graphs(self._state)

    def run(self, rows: Tensor) -> None:
        """One step on the items ``rows``, int64."""
        if self.graphs is None:
            self._step(rows)
            return
        held = self.rows[: len(rows)]
        held.copy_(rows)
        self.graphs.run(len(rows), lambda: self._step(held))

    def _step(self, rows: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.model.loss(self.content.index_select(0, rows), rows).total.backward()
        self.optimizer.step()

    def _state(self) -> list[Tensor]:
        held = [value for state in self.optimizer.state.values() for value in state.values()]
        tensors = [value for value in held if isinstance(value, Tensor)]
        return [*self.model.state_dict().values(), *tensors]


@torch.no_grad()
def start_codebooks(model: RQVAE, content_NxW: Tensor, seed: int) -> None:
    """Set the codebooks by k-means on the latents, level by level."""
    levels, codebook_size, _ = model.codebooks.shape
    start = residual_kmeans(model.encode(content_NxW), levels, codebook_size, seed)
    model.codebooks.copy_(start)


def shared_rqvae(
    content: NDArray[np.float32],
    content_sha256: str,
    levels: int,
    codebook_size: int,
    config: RQVAEConfig,
    seed: int,
    cache: Path,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Tokenizer:
    """The RQ-VAE of these settings, trained once; see ``diger.tokenizer.shared``."""

    def make() -> RQVAE:
        torch.manual_seed(seed)
        return RQVAE(content.shape[1], levels, codebook_size, config)

    key = [FORMAT, content_sha256, levels, codebook_size, seed, asdict(config)]
    keep = unfinished(stored_at(key, cache))

    def train() -> RQVAE:
        return train_rqvae(make(), content, seed, device, progress, keep)

    return shared(key, make(), train, cache, device)
