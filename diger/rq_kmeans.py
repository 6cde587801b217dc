"""RQ-KMeans: residual k-means on the embeddings themselves, without encoder and decoder.

Each level clusters what the levels before leave over; the centres are its codes. It is what the
RQ-VAE starts from, taken as it is: as used by Deng et al., "OneRec" (arXiv 2502.18965).
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from diger.quantizer import residual_kmeans
from diger.rqvae import RQVAEConfig
from diger.tokenizer import Progress, Tokenizer, shared

FORMAT = "rq-kmeans-1"  # raise when the same settings give other codebooks


class RQKMeans(Tokenizer):
    """The identity as encoder, codebooks [m, K, W] as wide as the embeddings.

    Of the settings it uses ``beta``, where the codebooks go on training, and ``assignment``.
    """

    def __init__(self, width: int, levels: int, codebook_size: int, config: RQVAEConfig) -> None:
        super().__init__()
        self.beta, self.assignment = config.beta, config.assignment
        self.encoder = nn.Identity()
        self.codebooks = nn.Parameter(torch.zeros(levels, codebook_size, width))


def train_rq_kmeans(
    model: RQKMeans,
    content: NDArray[np.float32],
    seed: int,
    progress: Progress | None = None,
) -> RQKMeans:
    """Fill the codebooks from the whole catalogue [N, W]; it runs on the CPU."""
    levels, codebook_size, _ = model.codebooks.shape
    started = time.perf_counter()
    with torch.no_grad():
        books = residual_kmeans(torch.as_tensor(content), levels, codebook_size, seed, progress)
        model.codebooks.copy_(books)
    model.facts = {"stopped": "kmeans", "seconds": time.perf_counter() - started}
    return model


def shared_rq_kmeans(
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
    """The RQ-KMeans of these settings, made once; see ``diger.tokenizer.shared``.

    The key holds nothing of ``config``: its codebooks depend on none of it.
    """

    def make() -> RQKMeans:
        return RQKMeans(content.shape[1], levels, codebook_size, config)

    key = [FORMAT, content_sha256, levels, codebook_size, seed]
    return shared(
        key, make(), lambda: train_rq_kmeans(make(), content, seed, progress), cache, device
    )
