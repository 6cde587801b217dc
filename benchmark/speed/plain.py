"""The plain reference of the speed table: the same method, written as one would write it first.

transformers' T5 with eager attention, histories padded to the protocol's longest, a token table a
level, AdamW as it comes, fp32, the loss read out after every step. Nothing is tuned and nothing is
slowed down: what costs nothing to do well is done well (the latents of a frozen encoder are made
once, as ``diger.trainer`` does), and each distinct item of a batch is tokenised once because the
method says so. ``tests/test_plain.py`` holds it to ``diger.trainer``: the same losses, step by
step.

Shapes: B rows, T items of history, L = m + 1 tokens an item, n distinct items of a batch, K codes a
level, d width.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import T5Config, T5Model

from benchmark.data.split import Split
from diger.estimators import Estimator, SoftCodes
from diger.generator import Generator
from diger.optimizer import TrainConfig
from diger.seq2seq import ModelConfig
from diger.tokenizer import Tokenizer

#: From names in transformers' T5 to names in ``diger.seq2seq``, applied in this order.
RENAMES = (
    (r"block\.0\.layer\.0\.SelfAttention\.relative_attention_bias", "position"),
    (r"final_layer_norm", "norm"),
    (r"layer\.0\.layer_norm", "norm_self"),
    (r"^(decoder.*)layer\.1\.layer_norm", r"\1norm_cross"),
    (r"layer\.\d\.layer_norm", "norm_ff"),
    (r"layer\.\d\.SelfAttention", "self_attention"),
    (r"layer\.\d\.EncDecAttention", "cross_attention"),
    (r"layer\.\d\.DenseReluDense", "ff"),
    (r"\bblock\b", "blocks"),
)


class PlainBatch(NamedTuple):
    """history: int64 [B, T], item ids, 0 where padded; mask: bool [B, T], True where there is an
    item; target: int64 [B]. T is the protocol's longest history, whatever the rows."""

    history: Tensor
    mask: Tensor
    target: Tensor


class Rows(Dataset[tuple[Tensor, int]]):
    """The rows at ``positions``, each as (history int64 [t], target)."""

    def __init__(self, data: Split, positions: NDArray[np.int64]) -> None:
        self.items, self.starts, self.ends = data.items, data.history_starts(positions), positions

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        start, end = self.starts[index], self.ends[index]
        return torch.tensor(self.items[start:end], dtype=torch.int64), int(self.items[end])


def pad_rows(max_history: int, rows: list[tuple[Tensor, int]]) -> PlainBatch:
    """A batch of rows, left-aligned, all padded to ``max_history``."""
    history = torch.zeros(len(rows), max_history, dtype=torch.int64)
    mask = torch.zeros(len(rows), max_history, dtype=torch.bool)
    for i, (items, _) in enumerate(rows):
        history[i, : len(items)] = items
        mask[i, : len(items)] = True
    return PlainBatch(history, mask, torch.tensor([target for _, target in rows]))


class PlainModel(nn.Module):
    """T5 between token tables, one a level, that read tokens in and score them on the way out."""

    def __init__(self, levels: int, codebook_size: int, config: ModelConfig) -> None:
        super().__init__()
        self.length = levels + 1  # tokens an item: m codes and the suffix
        self.tables = nn.ParameterList(
            torch.empty(codebook_size, config.d_model) for _ in range(self.length)
        )
        self.start = nn.Parameter(torch.empty(config.d_model))
        # Its own vocabulary is never read: tokens come as embeddings.
        settings: dict[str, Any] = {
            "vocab_size": 1, "d_model": config.d_model, "d_kv": config.d_head, "d_ff": config.d_ff,
            "num_layers": config.layers, "num_decoder_layers": config.layers,
            "num_heads": config.heads, "dropout_rate": config.dropout, "feed_forward_proj": "relu",
            "use_cache": False, "attn_implementation": "eager", "eos_token_id": None,
        }  # fmt: skip
        self.t5 = T5Model(T5Config(**settings))
        for parameter in self.parameters():
            if parameter.ndim == 2 or parameter is self.start:
                nn.init.normal_(parameter, std=config.init_std)

    def embed(self, sids: Tensor) -> Tensor:
        """[..., L, d] from int64 [..., L]."""
        return torch.stack([F.embedding(sids[..., i], t) for i, t in enumerate(self.tables)], -2)

    def embed_soft(self, y_mxnxK: Tensor, suffix_n: Tensor) -> Tensor:
        """[n, L, d]: soft codes on the m levels, the suffix as a hard index."""
        tokens = [y @ table for y, table in zip(y_mxnxK, self.tables[:-1], strict=True)]
        return torch.stack([*tokens, F.embedding(suffix_n, self.tables[-1])], 1)

    def encode(self, history_BxTxLxd: Tensor, mask_BxT: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states [B, T L, d] and their mask, int64 [B, T L]."""
        mask = mask_BxT.repeat_interleave(self.length, 1).long()
        states = self.t5.encoder(inputs_embeds=history_BxTxLxd.flatten(1, 2), attention_mask=mask)
        return states.last_hidden_state, mask

    def decode(self, tokens_Bxtxd: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Decoder states [B, t, d] of t tokens, the start vector among them."""
        return self.t5.decoder(
            inputs_embeds=tokens_Bxtxd, encoder_hidden_states=memory, encoder_attention_mask=mask
        ).last_hidden_state

    def forward(self, history_BxTxLxd: Tensor, mask_BxT: Tensor, target_BxLxd: Tensor) -> Tensor:
        """Teacher-forced logits [B, L, K]."""
        start = self.start.expand(len(target_BxLxd), 1, -1)
        tokens = torch.cat([start, target_BxLxd[:, :-1]], 1)
        states = self.decode(tokens, *self.encode(history_BxTxLxd, mask_BxT))
        return torch.stack([states[:, i] @ table.T for i, table in enumerate(self.tables)], 1)


class PlainRecommender:
    """Trains the plain model on the rows of a split, and the tokenizer where the estimator does.

    Works on copies of tokenizer and estimator, so that it may stand beside a ``diger.trainer``
    that is given the same ones. Semantic IDs stay what they are until the caller sets ``sids``.

    Args:
        content: float32 [N, W] item embeddings. sids: int [N, m + 1].
        seed: of weights, dropout (the global random state), order and noise.
    """

    def __init__(
        self,
        model: ModelConfig,
        train: TrainConfig,
        levels: int,
        codebook_size: int,
        tokenizer: Tokenizer,
        estimator: Estimator,
        content: Tensor,
        sids: NDArray[np.int32],
        data: Split,
        device: str,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        self.config, self.data, self.device = train, data, torch.device(device)
        self.model = PlainModel(levels, codebook_size, model).to(device)
        self.tokenizer = copy.deepcopy(tokenizer).to(device)
        self.estimator = copy.deepcopy(estimator).to(device)
        self.content = content.to(device)
        self.sids = torch.as_tensor(sids, dtype=torch.int64, device=device)
        with torch.no_grad():
            self.latents = self.tokenizer.encoder(self.content)
            self.estimator.start(self.latents, self.tokenizer.codebooks)
        self.noise = torch.Generator(device=device).manual_seed(seed)
        self.loader = DataLoader(
            Rows(data, data.train_positions),
            batch_size=train.batch_size,
            shuffle=True,
            collate_fn=partial(pad_rows, data.max_history),
            num_workers=2 if self.device.type == "cuda" else 0,
            generator=torch.Generator().manual_seed(seed),
        )
        self.steps, self.total_steps = 0, train.epochs * len(self.loader)
        self.optimizer = torch.optim.AdamW(self._groups(), weight_decay=train.weight_decay)
        self.schedule = LambdaLR(self.optimizer, self._factor)

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters with a learning rate each for model, tokenizer and noise scale."""
        moved = [self.tokenizer.codebooks] if self.estimator.trains_tokenizer else []
        if moved and not self.config.freeze_encoder:
            moved += list(self.tokenizer.encoder.parameters())
        own = list(self.estimator.parameters())
        groups: list[dict[str, Any]] = [
            {"params": list(self.model.parameters()), "lr": self.config.learning_rate},
            {"params": moved, "lr": self.config.lr_tokenizer},
            {"params": own, "lr": self.config.lr_sigma, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def _factor(self, step: int) -> float:
        """The learning rate's factor: up in a line, then down in half a cosine."""
        warm_up = self.config.warmup_steps
        if step < warm_up:
            return (step + 1) / warm_up
        share = (step - warm_up) / max(self.total_steps - warm_up, 1)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))

    def copy_weights(self, generator: Generator) -> None:
        """Start from the weights of a ``Generator`` of the same sizes.

        Raises:
            ValueError: it has other weights than this model.
        """
        theirs = generator.state_dict()
        start, tables = theirs.pop("start"), theirs.pop("tables")
        parts = self.model.t5.named_parameters()
        ours = {our_name(name): part for name, part in parts if not name.startswith("shared")}
        odd = sorted(set(ours) ^ set(theirs))
        if odd:
            raise ValueError(f"only one of the generator and the plain model has {odd[0]}")
        with torch.no_grad():
            self.model.start.copy_(start)
            for table, source in zip(self.model.tables, tables, strict=True):
                table.copy_(source)
            for name, part in ours.items():
                part.copy_(theirs[name])

    def batch(self, positions: NDArray[np.int64]) -> PlainBatch:
        """The rows at these positions."""
        rows = Rows(self.data, positions)
        return pad_rows(self.data.max_history, [rows[i] for i in range(len(rows))])

    def loss(self, positions: NDArray[np.int64]) -> dict[str, Tensor]:
        """The losses of the rows at these positions: scalars ``total`` and its parts."""
        return self.losses(self.batch(positions))[0]

    def losses(self, batch: PlainBatch) -> tuple[dict[str, Tensor], SoftCodes | None]:
        """Scalars ``total`` and its parts, and the batch's soft codes if the tokenizer trains."""
        batch = PlainBatch(*(tensor.to(self.device) for tensor in batch))
        if not self.estimator.trains_tokenizer:
            target = self.sids[batch.target]
            history = self.model.embed(self.sids[batch.history])
            logits = self.model(history, batch.mask, self.model.embed(target))
            rec = F.cross_entropy(logits.flatten(0, 1), target.flatten())
            return {"total": rec, "rec": rec}, None
        rec, soft = self._soft_loss(batch)
        total = self.estimator.objective(rec) + self.config.w_vq * soft.vq
        total = total + self.config.w_reconstruction * soft.reconstruction
        parts = {"total": total, "rec": rec, "reconstruction": soft.reconstruction, "vq": soft.vq}
        return parts, soft

    def _soft_loss(self, batch: PlainBatch) -> tuple[Tensor, SoftCodes]:
        """Mean cross-entropy to the soft codes of the targets, and the batch's soft codes."""
        real = batch.history[batch.mask]
        distinct, index = torch.unique(torch.cat([real, batch.target]), return_inverse=True)
        history = torch.zeros_like(batch.history)
        history[batch.mask], target = index[: len(real)], index[len(real) :]
        soft = self._tokenize(distinct)
        suffix = self.sids[distinct, -1]
        items = self.model.embed_soft(soft.y, suffix)
        log_q = self.model(items[history], batch.mask, items[target]).log_softmax(-1)
        wanted = soft.y[:, target].transpose(0, 1)  # [B, m, K]
        codes = -(wanted * log_q[:, :-1]).sum(-1)
        last = F.nll_loss(log_q[:, -1], suffix[target], reduction="none")
        return torch.cat([codes, last[:, None]], 1).mean(), soft

    def _tokenize(self, distinct: Tensor) -> SoftCodes:
        encoder, books = self.tokenizer.encoder, self.tokenizer.codebooks
        frozen = self.config.freeze_encoder
        latent = self.latents[distinct] if frozen else encoder(self.content[distinct])
        stale = self.sids[distinct, :-1]
        return self.estimator.tokenize(latent, books, self.tokenizer.beta, self.noise, stale)

    def step(self, batch: PlainBatch) -> float:
        """One optimiser step; returns the total loss."""
        parts, soft = self.losses(batch)
        self.optimizer.zero_grad()
        parts["total"].backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        if soft is not None:
            nn.utils.clip_grad_norm_(self.tokenizer.parameters(), self.config.clip)
        self.optimizer.step()
        self.schedule.step()
        if soft is not None:
            self.estimator.observe(soft.nearest)
        self.steps += 1
        return parts["total"].item()

    def epoch(self) -> Iterator[float]:
        """Train on each row once, in a new order each time; yields the loss of every step."""
        self.model.train()
        for batch in self.loader:
            self.estimator.advance(self.steps / self.total_steps)
            yield self.step(batch)


def our_name(name: str) -> str:
    """Name in ``Generator.state_dict()`` of a weight of transformers' T5."""
    for theirs, ours in RENAMES:
        name = re.sub(theirs, ours, name)
    return f"seq2seq.{name}"
