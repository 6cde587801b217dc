"""Trains the recommender, and with it the tokenizer where the estimator lets it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diger import training_state
from diger.audit import Probe
from diger.checks import SettingError
from diger.decode import DecodeConfig, Trie
from diger.estimators import Estimator, SoftCodes
from diger.generator import ROADS, Batch, Generator
from diger.optimizer import TrainConfig, make_optimizer
from diger.ranker import Ranker
from diger.semantic_ids import add_suffix, changed_share, code_statistics, drift, number_sharers
from diger.sequences import Phase, RowReader, SequenceData
from diger.steps import PRECISIONS, Steps, default_noise
from diger.tokenizer import Tokenizer
from diger.training_state import Best

#: The items of a batch are filled up to a multiple of this: oneDNN makes a product anew for each
#: number of rows that it has not met, which took a tenth of a step on a CPU.
DISTINCT_UNIT = 128


@dataclass(frozen=True)
class Callbacks:
    """Where the trainer reports; see ``benchmark.recommender.Run`` for what each expects."""

    log: Callable[[Mapping[str, Any]], None]
    save_sids: Callable[[int, NDArray[np.int32]], None]
    progress: Callable[[int, int, str, str], None]


class Trainer:
    """One fit: generator, tokenizer and estimator over the rows of a split.

    Args:
        content: float32 [N, W] item embeddings. sids: int32 [N, m + 1] to start from.
        precision: of the recommender's products in training, ``fp32`` or ``bf16``.
        step: how a training step runs: ``eager``, one kernel after the other; ``graph``, recorded
            as a CUDA graph for each length of history; ``compile``, compiled, on a GPU recorded.
    """

    def __init__(
        self,
        config: TrainConfig,
        decode: DecodeConfig,
        generator: Generator,
        tokenizer: Tokenizer,
        estimator: Estimator,
        content: Tensor,
        sids: NDArray[np.int32],
        data: SequenceData,
        seed: int,
        device: str,
        exclude_seen: bool = False,
        identity: str = "",
        precision: str = "fp32",
        step: str = "eager",
    ) -> None:
        self.exclude_seen = exclude_seen  # in validation, as in the test to come
        self.identity = identity  # a checkpoint with another one is not continued
        self.config, self.decode, self.data = config, decode, data
        self.generator, self.tokenizer, self.estimator = generator, tokenizer, estimator
        self.modules = nn.ModuleDict(
            {"generator": generator, "tokenizer": tokenizer, "estimator": estimator}
        ).to(device)
        self.content, self.sids, self.seed, self.device = content, sids, seed, device
        # What the tokenizer made of the catalogue at the last refresh. It is ``sids`` unless the
        # codes have collapsed, so that their sharers are too many for the suffix.
        self.made = sids
        self.rows = RowReader(data, device)
        self.steps_per_epoch = math.ceil(len(data.train_positions) / config.batch_size)
        generator.seq2seq.dtype = PRECISIONS[precision]
        self.sids_on_device = torch.as_tensor(sids, dtype=torch.int64, device=device)
        with torch.no_grad():
            self.latent = tokenizer.encode(content)
            estimator.start(self.latent, tokenizer.codebooks)
        self.optimizer, self.schedule = make_optimizer(
            config, generator, tokenizer, estimator, config.epochs * self.steps_per_epoch, device
        )
        # A recording can read the random numbers of the device's own generator alone.
        self.noise = torch.Generator(device=device) if device == "cpu" else default_noise(device)
        self.steps = Steps(self, step)
        self.best = Best()
        self.stopped = ""  # why training ended before its last epoch

    # One step ------------------------------------------------------------------------------

    def tokenize(self, distinct: Tensor, batch: Batch) -> SoftCodes | None:
        """Soft codes of the batch's distinct items; None where the tokenizer is frozen."""
        if not self.estimator.trains_tokenizer:
            return None
        frozen = self.config.freeze_encoder
        latent = self.latent[distinct] if frozen else self.tokenizer.encoder(self.content[distinct])
        return self.tokenize_latent(latent, batch)

    def tokenize_latent(self, latent_nxD: Tensor, batch: Batch) -> SoftCodes:
        """Soft codes of the batch's distinct items, which have these latents."""
        return self.estimator.tokenize(
            latent_nxD, self.tokenizer.codebooks, self.tokenizer.beta, self.noise,
            batch.sids[:, :-1], batch.weight, batch.there,
        )  # fmt: skip

    def losses(self, batch: Batch, distinct: Tensor) -> tuple[dict[str, Tensor], SoftCodes | None]:
        """Scalars ``total`` and its parts."""
        soft = self.tokenize(distinct, batch)
        rec = self.generator.loss(batch, None if soft is None else soft.y)
        if soft is None:
            return {"total": rec, "rec": rec}, None
        total = (
            self.estimator.objective(rec)
            + self.config.w_reconstruction * soft.reconstruction
            + self.config.w_vq * soft.vq
        )
        parts = {"total": total, "rec": rec, "reconstruction": soft.reconstruction, "vq": soft.vq}
        return parts, soft

    def step(self, positions: NDArray[np.int64] | Tensor) -> dict[str, Tensor]:
        """One optimiser step on the rows at ``positions``; returns the detached losses."""
        parts = self.update(*self.read(positions))
        self.schedule.next()
        return parts

    def read(
        self,
        positions: NDArray[np.int64] | Tensor,
        width: int | None = None,
        capacity: int | None = None,
    ) -> tuple[Batch, Tensor]:
        """The rows at ``positions`` and the ids of their items; see ``RowReader.batch``."""
        apart = not self.estimator.trains_tokenizer
        unit = DISTINCT_UNIT if self.device == "cpu" else 1
        return self.rows.batch(positions, self.sids_on_device, width, capacity, apart, unit)

    def update(self, batch: Batch, distinct: Tensor) -> dict[str, Tensor]:
        """What a step does on the device: it waits for nothing and reads no value back."""
        parts, soft = self.steps.losses(batch, distinct)
        self.optimizer.zero_grad()
        parts["total"].backward()
        self.optimizer.gather()
        self.schedule.apply()
        self.optimizer.step()
        if soft is not None:
            self.estimator.observe(soft.nearest, batch.weight)
        return {name: value.detach() for name, value in parts.items()}

    # Epochs --------------------------------------------------------------------------------

    def fit(self, folder: Path, report: Callbacks) -> None:
        """Train to the last epoch or to the end of patience, then restore the best epoch.

        Continues from the checkpoint in ``folder`` if there is one, with the same result as if
        it had never stopped: each epoch draws its order, dropout and noise from a seed of its own.
        """
        first, stale = 0, 0
        kept = training_state.load(
            folder, self.modules, self.optimizer, self.schedule, self.device, self.identity
        )
        if kept is None:
            report.save_sids(-1, self.sids)
        else:
            sids, self.best, progress = kept
            self.use(sids)
            first, stale, self.stopped = (
                progress["epoch"] + 1,
                progress["stale"],
                progress["stopped"],
            )
        for epoch in range(first, self.config.epochs):
            if self.stopped:
                break
            row, improved = self._epoch(epoch, report)
            stale = 0 if improved else stale + ("valid/ndcg@10" in row)
            if not self.stopped and stale >= self.config.patience:
                self.stopped = f"no better validation in {stale} checks"
            report.log(row)
            report.save_sids(epoch, self.made)
            state = {"epoch": epoch, "stale": stale, "stopped": self.stopped}
            training_state.save(
                folder, self.modules, self.optimizer, self.schedule, self.sids, self.best, state,
                self.identity,
            )  # fmt: skip
        self.modules.load_state_dict(self.best.weights)
        assert self.best.sids is not None
        self.use(self.best.sids)

    def _epoch(self, epoch: int, report: Callbacks) -> tuple[dict[str, Any], bool]:
        """Train one epoch, renew the semantic IDs, validate; the log row and whether it is best."""
        started = time.perf_counter()
        self._seed(epoch)
        self.modules.train()
        total_steps = self.config.epochs * self.steps_per_epoch
        drawn = self.rows.epoch(
            self.config.batch_size, self._epoch_seed(epoch), self.config.length_window,
            self.steps.counts_items,
        )  # fmt: skip
        order = list(drawn)
        self.steps.start_epoch(order)
        for step, rows in enumerate(order, 1):
            self.estimator.advance((epoch * self.steps_per_epoch + step - 1) / total_steps)
            self.steps.run(rows)
            done = epoch * self.steps_per_epoch + step
            report.progress(done, total_steps, "step", f"best {self.best.value:.4f}")
        row: dict[str, Any] = {"epoch": epoch, "learning_rate": self.schedule.learning_rate}
        row |= {f"loss/{name}": mean for name, mean in self.steps.mean_losses().items()}
        if not math.isfinite(row["loss/total"]):
            raise SettingError(
                f"the loss is not a number in epoch {epoch}: lower method.train.learning_rate "
                "or method.train.lr_tokenizer"
            )
        row |= self._renew_sids()
        row |= self.measure_gradients(self.data.train_positions[: self.config.batch_size])
        row |= self.estimator.state()
        improved = False
        last = epoch + 1 == self.config.epochs
        if last or self.stopped or (epoch + 1) % self.config.valid_every == 0:
            row |= self.validate()
            improved = row["valid/ndcg@10"] > self.best.value
            if self.stopped and self.best.epoch >= 0:
                improved = False  # collapsed: these codebooks no longer belong to the IDs
            if improved:
                weights = training_state.snapshot(self.modules)
                self.best = Best(row["valid/ndcg@10"], epoch, weights, self.sids)
        row["seconds"] = time.perf_counter() - started
        return row, improved

    def use(self, sids: NDArray[np.int32]) -> None:
        """Number the catalogue by these semantic IDs from now on."""
        self.sids = sids
        # In place: recorded steps read this tensor.
        self.sids_on_device.copy_(torch.as_tensor(sids, dtype=torch.int64))

    def _renew_sids(self) -> dict[str, Any]:
        """Number the catalogue anew with the noiseless nearest codes (frozen IDs stay)."""
        size = self.estimator.codebook_size
        whole, before = self.sids, self.sids[:, :-1]
        if self.estimator.trains_tokenizer:
            codes = self.tokenizer.assign(self.content)
            if not self.config.freeze_encoder:
                with torch.no_grad():
                    self.latent.copy_(self.tokenizer.encode(self.content))
            try:
                self.use(add_suffix(codes, size))
            except SettingError as error:
                # A collapsed codebook is a finding, not a fault: keep what validation chose.
                self.stopped = f"codes collapsed: {error}"
            row = code_statistics(codes, size).as_log() | drift(before, codes)
            self.made = number_sharers(codes)
            row["drift/sid"] = changed_share(whole, self.made)
            snr = self.estimator.signal_to_noise(self.latent, self.tokenizer.codebooks)
            return row | {"snr": snr}
        frozen = {**drift(before, before), "drift/sid": 0.0}
        return code_statistics(before, size).as_log() | frozen

    # Measurements --------------------------------------------------------------------------

    def measure_gradients(
        self, positions: NDArray[np.int64], roads: tuple[str, ...] = ROADS
    ) -> dict[str, Any]:
        """Norms of dL_rec on each codebook and on the encoder, on the rows at ``positions``.

        L_rec alone, before any estimator's own weighting, through the given roads. Zero means
        that the recommendation loss does not reach the tokenizer. With them, per level, the share
        of the batch's items whose code the noise changed. Draws no shared random numbers.
        """
        probe = Probe(self, positions, self.probe_seed)
        norms = probe.recommendation_norms(roads)
        row = {f"grad/{name}": norm for name, norm in norms.items() if norm is not None}
        return row | {"noise/flipped": probe.flipped()}

    def validate(self) -> dict[str, float]:
        """NDCG@10 and Recall@10 of the validation items, mean over users."""
        users = np.arange(self.data.n_users)
        items, _, invalid = self.ranker().lists(users, 10, "valid", self.exclude_seen)
        target = torch.as_tensor(self.data.targets("valid"), device=self.device)
        hit = items == target[:, None]
        # In float64, and read once: the mean is the same whatever the batches were.
        gain = 1 / torch.arange(2, 12, device=self.device, dtype=torch.float64).log2()
        means = torch.stack([(hit * gain).sum(1).mean(), hit.any(1).double().mean()]).tolist()
        row = {"valid/ndcg@10": means[0], "valid/recall@10": means[1]}
        return row | ({"invalid_beams": float(invalid)} if self.decode.mode == "free" else {})

    def rank(
        self, users: NDArray[np.int64], k: int, phase: Phase, exclude_seen: bool
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], float]:
        """Lists int32 [n, k] (-1 where short), scores [n, k], mean share of invalid beams."""
        items, scores, invalid = self.ranker().lists(users, k, phase, exclude_seen)
        return items.int().cpu().numpy(), scores.cpu().numpy(), float(invalid)

    def ranker(self) -> Ranker:
        """Lists by the weights and semantic IDs as they are."""
        self.modules.eval()
        trie = Trie(self.sids_on_device, self.estimator.codebook_size)
        return Ranker(self.generator, trie, self.rows, self.decode)

    # Set-up --------------------------------------------------------------------------------

    @property
    def probe_seed(self) -> int:
        """Of the noise in measurements, the same in every epoch."""
        return self._epoch_seed(-1)

    def _epoch_seed(self, epoch: int) -> int:
        return int(np.random.SeedSequence([self.seed, epoch + 1]).generate_state(1)[0])

    def _seed(self, epoch: int) -> None:
        torch.manual_seed(self._epoch_seed(epoch))
        self.noise.manual_seed(self._epoch_seed(epoch))
