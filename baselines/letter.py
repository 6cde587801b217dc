"""LETTER: the two-stage road with a tokenizer that follows who consumes the items.

Wang et al., "Learnable Item Tokenization for Generative Recommendation", CIKM 2024: SASRec's item
embeddings shape the semantic IDs (``letter_tokenizer``), which are then frozen; the recommender
trains on them as for TIGER. (The paper's ranking-guided loss is a temperature on the recommender's
logits, which the authors' command leaves at 1: the plain cross-entropy.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

import torch

from baselines.collaborative import item_embeddings, make_sasrec
from baselines.letter_tokenizer import LetterConfig, LetterRQVAE, check_sizes
from benchmark.recommender import BenchmarkData, Run
from diger import recommender
from diger.checks import build
from diger.rqvae import FORMAT as RQVAE_FORMAT
from diger.rqvae import train_rqvae
from diger.tokenizer import Tokenizer, shared, stored_at, unfinished

FORMAT = "letter-1"  # raise when the losses below RQ-VAE's change what the same settings give


class Letter(recommender.GenerativeRecommender):
    """A generative recommender on LETTER's semantic IDs.

    Args:
        collaborative: settings of SASRec by name, see SasRecCE; ``hidden_size`` must be the
            tokenizer's ``latent``. letter: see LetterConfig. others: see GenerativeRecommender.

    Raises:
        ValueError: an unknown key or an impossible value, before anything is trained.
    """

    def __init__(
        self, collaborative: Mapping[str, Any], letter: Mapping[str, Any], **others: Any
    ) -> None:
        super().__init__(**others)
        if not self.tokenizer_choice.plain:
            raise ValueError(
                "LETTER trains an RQ-VAE of its own: leave out method.tokenizer.checkpoint and "
                "every method.tokenizer.kind but rqvae"
            )
        self.letter = build(LetterConfig, letter, "method.letter")
        self.collaborative_width = make_sasrec(collaborative).hidden_size
        self.collaborative = dict(collaborative)
        check_sizes(self.codebook_size, self.tokenizer, self.letter, self.collaborative_width)
        self.settings += repr((self.collaborative, self.letter))

    def make_tokenizer(self, data: recommender.Data, seed: int, run: recommender.Run) -> Tokenizer:
        """SASRec first, then the tokenizer; both trained once for all that share their settings."""
        assert isinstance(data, BenchmarkData) and data.embeddings is not None
        content = data.embeddings
        # What lends to the one lends to the other: diger names less of it.
        items = item_embeddings(self.collaborative, data, seed, cast(Run, run))

        key = [
            FORMAT, RQVAE_FORMAT, data.embeddings_sha256, hashlib.sha256(items.data).hexdigest(),
            self.levels, self.codebook_size, seed, asdict(self.tokenizer), asdict(self.letter),
        ]  # fmt: skip
        keep = unfinished(stored_at(key, run.cache))

        def make() -> LetterRQVAE:
            torch.manual_seed(seed)
            return LetterRQVAE(
                content.shape[1], self.levels, self.codebook_size, self.tokenizer, self.letter,
                items, seed,
            )  # fmt: skip

        def train() -> Tokenizer:
            note = "LETTER tokenizer"
            show = lambda done, total: run.progress(done, total, "epoch", note)  # noqa: E731
            return train_rqvae(make(), content, seed, run.device, show, keep)

        return shared(key, make(), train, run.cache, run.device)

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "collaborative_width": self.collaborative_width,
            "letter": asdict(self.letter),
        }
