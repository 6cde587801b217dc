"""LETTER's tokenizer: an RQ-VAE whose codes follow who consumes the items and spread out evenly.

Wang et al., "Learnable Item Tokenization for Generative Recommendation", CIKM 2024
(arXiv 2405.07314): L = L_sem + alpha L_CF + beta L_div, where L_sem is the loss of the RQ-VAE.
What its formulas leave open is as in the authors' code (github.com/HonghuiBao2000/LETTER, commit
0d4a115, folder RQ-VAE): L_CF moves the encoder only, straight through the quantiser; L_div moves
the codebooks only, through both sides of its products; the codes are clustered anew before each
epoch. Here as elsewhere in this suite

* losses are sums over levels and dimensions, as in the paper's formulas. The released code takes
  means of both (m = 4 levels, width D = 32), the products apart, so that its alpha is 1 / (m D)
  and its beta 1 / D of what has the same effect on the codes here;
* codes are chosen, and items that share codes are told apart, as for TIGER, so that the two differ
  by alpha and beta alone;
* clusters are as even as they can be, where the released code lets 256 codes fall into ten
  clusters of 10 to 60.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.cluster import kmeans_plusplus
from torch import Tensor

from diger.checks import SettingError, at_least, below, whole
from diger.rqvae import RQVAE, RQVAEConfig, RQVAELoss

KMEANS_ITERATIONS = 10  # at most; as released


@dataclass(frozen=True)
class LetterConfig:
    """Weights of L_CF (``alpha``) and L_div (``beta``), and the clusters of codes on each level."""

    alpha: float
    beta: float
    clusters: int

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            at_least(f"letter.{name}", getattr(self, name), 0)
            below(f"letter.{name}", getattr(self, name), math.inf)
        whole("letter.clusters", self.clusters, 1)


def collaborative_loss(quantized_BxD: Tensor, collaborative_BxD: Tensor) -> Tensor:
    """L_CF = -1/B sum_i log(exp<z_i, h_i> / sum_j exp<z_i, h_j>), j over the batch; a scalar.

    Args:
        quantized_BxD: z, the sum of an item's code vectors. collaborative_BxD: h, its embedding in
            a collaborative model. A batch of one item has nothing to compare: 0.
    """
    own = torch.arange(len(quantized_BxD), device=quantized_BxD.device)
    return F.cross_entropy(quantized_BxD @ collaborative_BxD.T, own)


def diversity_loss(codebook_KxD: Tensor, codes_B: Tensor, positives_B: Tensor) -> Tensor:
    """L_div = -1/B sum_i log(exp<e_i, e_+> / sum_{j != i} exp<e_i, e_j>), j over all codes.

    Args:
        codes_B: int64, the code i of each item on this level. positives_B: int64, another code of
            the same cluster for each.
    """
    own = F.one_hot(codes_B, len(codebook_KxD)).bool()
    products = codebook_KxD[codes_B] @ codebook_KxD.T
    return F.cross_entropy(products.masked_fill(own, -torch.inf), positives_B)


def even_clusters(points_KxD: NDArray[np.float64], clusters: int, seed: int) -> NDArray[np.int64]:
    """k-means whose clusters differ in size by one at most; int64 [K], the cluster of each point.

    Each round gives the points to the centres at the least sum of squared distances that equal
    sizes allow, which is an assignment problem (Bradley et al., "Constrained K-Means Clustering",
    MSR-TR-2000-65); the first ``K % clusters`` clusters hold the odd points.
    """
    places = np.arange(len(points_KxD)) % clusters  # the cluster that each place belongs to
    centres, _ = kmeans_plusplus(points_KxD, clusters, random_state=seed)
    labels = np.full(len(places), -1)
    for _ in range(KMEANS_ITERATIONS):
        distances = cdist(points_KxD, centres, "sqeuclidean")
        before, labels = labels, places[linear_sum_assignment(distances[:, places])[1]]
        if np.array_equal(before, labels):
            break
        centres = np.stack([points_KxD[labels == cluster].mean(0) for cluster in range(clusters)])
    return labels.astype(np.int64)


class Clusters:
    """Codes by cluster; draws another code of the same one. Every cluster needs two codes."""

    def __init__(self, labels_K: NDArray[np.int64]) -> None:
        sizes = np.bincount(labels_K)
        if sizes.min() < 2:
            raise ValueError("a cluster of fewer than two codes has no other code to draw")
        order = np.argsort(labels_K, kind="stable")
        self._order = torch.from_numpy(order)  # codes, cluster by cluster
        self._rank = torch.from_numpy(np.argsort(order))  # where in that order a code is
        self._start = torch.from_numpy((np.cumsum(sizes) - sizes)[labels_K])  # [K]
        self._size = torch.from_numpy(sizes[labels_K])  # [K]

    def draw(self, codes_B: Tensor, generator: torch.Generator) -> Tensor:
        """int64 [B], on the device of ``codes_B``: uniform over the other codes of the cluster."""
        codes = codes_B.cpu()
        size, start = self._size[codes], self._start[codes]
        uniform = torch.rand(len(codes), generator=generator, dtype=torch.float64)
        steps = 1 + (uniform * (size - 1)).long()  # 1 .. size - 1 places on, round the cluster
        drawn = self._order[start + (self._rank[codes] - start + steps) % size]
        return drawn.to(codes_B.device)


class LetterRQVAE(RQVAE):
    """The RQ-VAE with LETTER's two further losses; with both weights 0 it is the plain one.

    Args:
        collaborative: float32 [n_items, latent], one row an item. It serves training alone and is
            no part of the stored state.
        seed: of clusters and draws. Every epoch seeds its own, so that training may be cut
            between any two.

    Raises:
        ValueError: ``collaborative`` is not as wide as the latents, or a cluster would have fewer
            than two codes.
    """

    recordable = False  # an epoch's clusters are another tensor, and their draws are the host's

    collaborative: Tensor  # [n_items, latent]

    def __init__(
        self,
        width: int,
        levels: int,
        codebook_size: int,
        config: RQVAEConfig,
        letter: LetterConfig,
        collaborative: NDArray[np.float32],
        seed: int,
    ) -> None:
        check_sizes(codebook_size, config, letter, collaborative.shape[1])
        super().__init__(width, levels, codebook_size, config)
        self.letter, self._seed = letter, seed
        self._clusters: list[Clusters] = []
        self._draws = torch.Generator()
        self.register_buffer("collaborative", torch.as_tensor(collaborative), persistent=False)

    def begin_epoch(self, epoch: int) -> None:
        """Cluster the codes as they now are and start the epoch's draws.

        Raises:
            SettingError: training has diverged.
        """
        super().begin_epoch(epoch)
        if not self.letter.beta:
            return
        if not self.codebooks.isfinite().all():
            raise SettingError(
                "a code vector is not a number: lower method.tokenizer.learning_rate or "
                "method.letter.beta"
            )
        draws, *starts = np.random.SeedSequence([self._seed, epoch]).generate_state(
            1 + len(self.codebooks)
        )
        self._draws.manual_seed(int(draws))
        books = self.codebooks.detach().cpu().double().numpy()
        self._clusters = [
            Clusters(even_clusters(book, self.letter.clusters, int(start)))
            for book, start in zip(books, starts, strict=True)
        ]

    def loss(self, content_BxW: Tensor, items_B: Tensor | None = None) -> RQVAELoss:
        """As ``RQVAE.loss``; total holds the two further terms, too."""
        plain = super().loss(content_BxW, items_B)
        total = plain.total
        if self.letter.alpha:
            loss = collaborative_loss(plain.quantized, self.collaborative[items_B])
            total = total + self.letter.alpha * loss
        if self.letter.beta:
            for codebook, clusters, codes in zip(
                self.codebooks, self._clusters, plain.codes.T, strict=True
            ):
                loss = diversity_loss(codebook, codes, clusters.draw(codes, self._draws))
                total = total + self.letter.beta * loss
        return plain._replace(total=total)


def check_sizes(
    codebook_size: int, config: RQVAEConfig, letter: LetterConfig, collaborative_width: int
) -> None:
    """Raises ValueError where settings that are possible alone do not fit together."""
    if collaborative_width != config.latent:
        raise ValueError(
            f"method.collaborative.hidden_size must be method.tokenizer.latent ({config.latent}), "
            f"for their inner products, got {collaborative_width}"
        )
    if 2 * letter.clusters > codebook_size:
        raise ValueError(
            f"method.letter.clusters must be at most half of method.codebook_size "
            f"({codebook_size}), so that every code has another in its cluster, "
            f"got {letter.clusters}"
        )
