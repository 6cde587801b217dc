"""Which tokenizer the settings choose: trained here by one of two recipes, or a released one.

``method.tokenizer`` may hold three keys beyond those of ``RQVAEConfig``:

* ``kind``: ``rqvae`` (without the key, too) or ``rq-kmeans``, which uses ``beta`` and
  ``assignment`` of the others and nothing else of them.
* ``checkpoint``: the name of a released RQ-VAE or the path of such a file; nothing is trained.
  Its layers are the file's: ``hidden``, ``latent`` and what is said of training are not used, nor
  is ``beta`` where the file has its own.
* ``checkpoint_sha256``: the file that is trusted; a path needs it, and a name where there are
  several releases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diger.checks import one_of
from diger.released import released_rqvae
from diger.rq_kmeans import shared_rq_kmeans
from diger.rqvae import RQVAEConfig, shared_rqvae
from diger.tokenizer import Tokenizer

RQVAE_KIND, RQ_KMEANS_KIND = "rqvae", "rq-kmeans"


class Lender(Protocol):
    """What is used of a ``Run``."""

    @property
    def cache(self) -> Path: ...
    @property
    def device(self) -> str: ...
    def progress(self, done: int, total: int, unit: str, note: str = "") -> None: ...
    def released_tokenizer(
        self, name: str, sha256: str | None
    ) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]: ...


@dataclass(frozen=True)
class TokenizerChoice:
    """The keys of ``method.tokenizer`` that say where the tokenizer comes from."""

    kind: str = RQVAE_KIND
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None

    def __post_init__(self) -> None:
        one_of("tokenizer.kind", self.kind, (RQVAE_KIND, RQ_KMEANS_KIND))
        if self.checkpoint is not None and (
            not isinstance(self.checkpoint, str) or not self.checkpoint
        ):
            raise ValueError(
                f"tokenizer.checkpoint must be a name or path, got {self.checkpoint!r}"
            )
        if self.checkpoint is not None and self.kind != RQVAE_KIND:
            raise ValueError(
                f"tokenizer.checkpoint is an RQ-VAE: it does not go with tokenizer.kind={self.kind}"
            )
        if self.checkpoint_sha256 is None:
            return
        if self.checkpoint is None:
            raise ValueError("tokenizer.checkpoint_sha256 needs tokenizer.checkpoint")
        if not re.fullmatch("[0-9a-f]{64}", str(self.checkpoint_sha256)):
            raise ValueError(
                "tokenizer.checkpoint_sha256 must be 64 hexadecimal digits in quotes, "
                f"got {self.checkpoint_sha256!r}"
            )

    @property
    def plain(self) -> bool:
        """Whether it is an RQ-VAE that is trained here."""
        return self == TokenizerChoice()


def tokenizer_settings(settings: Mapping[str, Any]) -> tuple[TokenizerChoice, RQVAEConfig]:
    """Both parts of ``method.tokenizer``.

    Raises:
        ValueError: an unknown key or an impossible value.
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f"method.tokenizer must be a group of settings, got {settings!r}")
    own = {field.name for field in fields(TokenizerChoice)}
    known = own | {field.name for field in fields(RQVAEConfig)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(
            f"unknown key method.tokenizer.{unknown[0]}; known: {', '.join(sorted(known))}"
        )
    choice = TokenizerChoice(**{key: settings[key] for key in settings if key in own})
    return choice, RQVAEConfig(**{key: settings[key] for key in settings if key not in own})


def make_tokenizer(
    choice: TokenizerChoice,
    config: RQVAEConfig,
    levels: int,
    codebook_size: int,
    content: NDArray[np.float32],
    content_sha256: str,
    seed: int,
    run: Lender,
) -> Tokenizer:
    """The trained tokenizer, on the run's device; the same for all that share its settings.

    Args:
        content: [N, W] embeddings of the catalogue. content_sha256: says which they are.

    Raises:
        SettingError: fewer items than codes, or a released tokenizer that does not fit.
    """
    if choice.checkpoint is not None:
        settings, state = run.released_tokenizer(choice.checkpoint, choice.checkpoint_sha256)
        released = released_rqvae(settings, state, content.shape[1], levels, codebook_size, config)
        return released.to(run.device)
    make, note = (
        (shared_rqvae, "RQ-VAE") if choice.kind == RQVAE_KIND else (shared_rq_kmeans, "RQ-KMeans")
    )
    unit = "epoch" if choice.kind == RQVAE_KIND else "level"
    return make(
        content, content_sha256, levels, codebook_size, config, seed, run.cache, run.device,
        lambda done, total: run.progress(done, total, unit, note),
    )  # fmt: skip
