"""How the recommendation loss reaches the codes: one class per estimator.

For items with latents r_1 = E(x) and, per level l, squared distances D_l to the K codes:

    a_l = -D_l / unit_l                  unit_l = 1 as in the paper; see ``logit_scale``. (Computed
                                         but for a constant a row, which nothing below can see.)
    p_l = softmax((a_l + s_l g) / tau)   g ~ Gumbel(0, 1)^K
    h_l = onehot(argmax p_l)
    y_l = h_l + p_l - sg(p_l)            hard forward, soft backward
    e_l = y_l C_l;  r_{l+1} = r_l - e_l

An estimator decides the noise scale s_l, the temperature tau, the codes h_l of the forward pass,
what of y the recommender may differentiate, whether the tokenizer trains at all, and what becomes
of the recommendation loss. Families: the sampled ones are here, ``diger.cached`` has those that
read the semantic IDs of the last refresh, ``diger.schedules`` those that follow a timetable.
Source: DIGER (arXiv 2601.19711); Gumbel-softmax: Jang et al., ICLR 2017; straight-through: Bengio
et al., 2013.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diger.checks import SettingError, above, at_least, one_of
from diger.codes import largest, quantisation_loss, relaxed, relaxed_rows, straight_through
from diger.gpu import kernels_for
from diger.keep import draw_keys
from diger.passes import loops_for
from diger.quantizer import (
    PART,
    Nearest,
    nearness,
    quantize,
    squared_distances,
    squared_error,
)

GUMBEL_STD = 1.2825498301618641  # pi / sqrt(6), the standard deviation of Gumbel(0, 1)


class SoftCodes(NamedTuple):
    """A batch of n items, tokenised with gradients.

    y: [m, n, K], exactly one-hot in value, as the recommender reads it. nearest: int64 [n, m],
    what no noise would have chosen at each level, given the codes above it. reconstruction: scalar
    ||sum_l e_l - r_1||^2; vq: scalar, codebook plus beta times commitment loss, summed over
    levels. Both are means over the items.
    """

    y: Tensor
    nearest: Tensor
    reconstruction: Tensor
    vq: Tensor

    @property
    def codes(self) -> Tensor:
        """int64 [n, m], the codes of the forward pass."""
        return self.y.argmax(-1).T


def sample_gumbel(like: Tensor, generator: torch.Generator) -> Tensor:
    """Gumbel(0, 1) noise of the shape of ``like``: -log(-log U)."""
    uniform = torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return uniform.clamp_(1e-20, 1 - 1e-7).log_().neg_().log_().neg_()


class Estimator(nn.Module):
    """The interface; on its own it is ``gumbel``'s family with no noise scale defined.

    Args:
        levels: m. codebook_size: K.
        tau: temperature of the soft codes, > 0.
        logit_scale: ``none`` (as in the paper and on the authors' branch gradient-fix; their main
            branch scales the distances of each batch to [-1, 1]); ``gap``: scale each level's
            logits so that the median gap between its two best ones over the catalogue is
            ``gap_target`` at the start, and noise of standard deviation 1.28 means the same for
            any text encoder; ``latent``: scale the quantisation losses with them, as if the
            latents were that much larger. With the logits alone, the recommendation loss reads
            small latents through a magnifying glass and the quantisation loss does not: its
            gradient, tens of times the other's, then drags the codebooks away from the items.
        gap_target: in units of the logits, > 0; the larger, the quieter the noise.
    """

    #: False: the tokenizer is frozen and items keep the semantic IDs they start with.
    trains_tokenizer: bool = True

    unit: Tensor  # [m], what each level's distances are divided by

    def __init__(
        self,
        levels: int,
        codebook_size: int,
        tau: float = 2.0,
        logit_scale: str = "none",
        gap_target: float = 1.0,
    ) -> None:
        super().__init__()
        above("estimator.gap_target", gap_target, 0)
        above("estimator.tau", tau, 0)
        one_of("estimator.logit_scale", logit_scale, ("none", "gap", "latent"))
        self.levels, self.codebook_size = levels, codebook_size
        self.tau, self.logit_scale, self.gap_target = tau, logit_scale, gap_target
        self.register_buffer("unit", torch.ones(levels))

    @property
    def scale_label(self) -> str:
        """How the logits are scaled, as tables show it: ``none``, or the way and its target."""
        return "none" if self.logit_scale == "none" else f"{self.logit_scale} {self.gap_target:g}"

    # What a subclass decides ---------------------------------------------------------------

    def noise_scale(self, level: int) -> Tensor:
        """s_l: a scalar, or one value per code [K]."""
        raise NotImplementedError

    def temperature(self) -> Tensor | float:
        """tau of the soft codes, > 0: a scalar."""
        return self.tau

    def forward_codes(self, logits_nxK: Tensor, cached_n: Tensor | None) -> Tensor:
        """int64 [n]: the codes of the forward pass, given the noisy logits of a level and, where
        the caller has them, the items' codes of the last refresh."""
        return largest(logits_nxK)

    def present(self, y: Tensor) -> Tensor:
        """y as the recommender gets it, with or without its gradient."""
        return y

    def objective(self, recommendation_loss: Tensor) -> Tensor:
        """The term that stands for the recommendation loss in the total."""
        return recommendation_loss

    def observe(self, nearest_nxm: Tensor, weight_n: Tensor | None = None) -> None:
        """Called after each step with the noiseless codes of its items; weights as of
        ``tokenize``."""

    def advance(self, share: float) -> None:
        """Called before each step with the share of the planned steps that are done, in [0, 1)."""

    def state(self) -> dict[str, Any]:
        """What to log of the noise, one value a level."""
        scales = [self.noise_scale(level).detach() for level in range(self.levels)]
        return {"noise_scale": [float(scale.mean()) for scale in scales]}

    # What all share ------------------------------------------------------------------------

    def tokenize(
        self,
        latent_nxD: Tensor,
        codebooks: Tensor,
        beta: float,
        generator: torch.Generator | None,
        cached_nxm: Tensor | None = None,
        weight_n: Tensor | None = None,
        there: int | None = None,
    ) -> SoftCodes:
        """Soft codes of n items; without a generator there is no noise (inference).

        Args:
            cached_nxm: int64, the items' codes of the last refresh, for estimators that read them.
            weight_n: what each item counts in the means, summing to 1: 0 for those that only fill
                a fixed number; None: all the same.
            there: how many are no such filling, where they come first: noise is drawn for them
                alone, so that it does not depend on how much filling there is. None: for all.
        """
        residual = latent_nxD
        quantized = torch.zeros_like(latent_nxD)
        vq = latent_nxD.new_zeros(())
        ys, nearest = [], []
        for level, codebook in enumerate(codebooks):
            logits = nearness(residual, codebook) / self.unit[level]
            nearest.append(largest(logits.detach()))
            cached = None if cached_nxm is None else cached_nxm[:, level]
            y = self.relax(logits, level, generator, cached, there)
            chosen = y @ codebook
            unit = self.unit[level] if self.logit_scale == "latent" else 1.0
            vq = vq + quantisation_loss(chosen, residual, beta, weight_n) / unit
            quantized = quantized + chosen
            residual = residual - chosen
            ys.append(y)
        # What all levels leave over is what the last one does: its unit is theirs.
        reconstruction = squared_error(quantized, latent_nxD, weight_n) / unit
        y = self.present(torch.stack(ys))
        return SoftCodes(y, torch.stack(nearest, 1), reconstruction, vq)

    def relax(
        self,
        logits_nxK: Tensor,
        level: int,
        generator: torch.Generator | None,
        cached_n: Tensor | None,
        there: int | None = None,
    ) -> Tensor:
        """y_l [n, K]: exactly one-hot in value, the gradient of the soft codes; ``there`` as of
        ``tokenize``."""
        at_once = self._draws_plainly and loops_for(logits_nxK) is not None
        if generator is not None:
            scale = self.noise_scale(level)
            if self._in_one_launch(logits_nxK, scale):
                return relaxed(
                    logits_nxK, scale, draw_keys(logits_nxK, 1, generator), float(self.tau)
                )
            noise = sample_gumbel(logits_nxK[:there], generator)
            if at_once:
                return relaxed_rows(logits_nxK, scale, noise, float(self.tau))
            if filling := len(logits_nxK) - len(noise):
                noise = F.pad(noise, (0, 0, 0, filling))
            logits_nxK = logits_nxK + scale * noise
        elif at_once:
            nothing = logits_nxK.new_zeros(())
            return relaxed_rows(logits_nxK, nothing, logits_nxK[:0].detach(), float(self.tau))
        soft = (logits_nxK / self.temperature()).softmax(-1)
        codes = self.forward_codes(logits_nxK, cached_n)
        return straight_through(soft, codes)

    def _in_one_launch(self, logits: Tensor, scale: Tensor) -> bool:
        """Whether ``relaxed`` does what this estimator does: it does not learn the noise."""
        return self._draws_plainly and not scale.requires_grad and kernels_for(logits) is not None

    @property
    def _draws_plainly(self) -> bool:
        """Whether nothing overrules the draw, and the temperature is a number."""
        cls = type(self)
        own = cls.forward_codes is Estimator.forward_codes, cls.temperature is Estimator.temperature
        return all(own)

    @torch.no_grad()
    def median_gaps(self, latent_NxD: Tensor, codebooks: Tensor) -> Tensor:
        """[m]: median over items of the gap between the two smallest squared distances."""
        gaps = []
        for part in latent_NxD.split(PART):
            residuals = quantize(part, codebooks, Nearest()).residuals
            for level, codebook in enumerate(codebooks):
                two = squared_distances(residuals[:, level], codebook).topk(2, largest=False).values
                gaps.append(two[:, 1] - two[:, 0])
        levels = len(codebooks)
        return torch.stack([torch.cat(gaps[level::levels]).median() for level in range(levels)])

    @torch.no_grad()
    def start(self, latent_NxD: Tensor, codebooks: Tensor) -> None:
        """Fix the logit scale on the catalogue as it is before training.

        Raises:
            SettingError: there is no gap between the best two codes to scale by.
        """
        if self.logit_scale != "none":
            gaps = self.median_gaps(latent_NxD, codebooks)
            if not bool((gaps > 0).all()):
                level = int((gaps > 0).float().argmin()) + 1
                raise SettingError(
                    f"half of the items lie as near to a second code as to their own on level "
                    f"{level}, so there is no gap to scale by: set "
                    "method.estimator.logit_scale=none, or fewer codes (method.codebook_size)"
                )
            self.unit.copy_(gaps / self.gap_target)

    @torch.no_grad()
    def signal_to_noise(self, latent_NxD: Tensor, codebooks: Tensor) -> list[float | None]:
        """Median logit gap over the noise's standard deviation, per level; None: no noise.

        Where only some codes get noise, that is the noise of those.
        """
        gaps = self.median_gaps(latent_NxD, codebooks) / self.unit
        ratios: list[float | None] = []
        for level, gap in enumerate(gaps):
            scale = self.noise_scale(level)
            loud = scale[scale > 0]
            ratios.append(float(gap / loud.mean()) / GUMBEL_STD if len(loud) else None)
        return ratios


class Gumbel(Estimator):
    """Sampled codes, full noise at all times: exploration that never ends."""

    def noise_scale(self, level: int) -> Tensor:
        return self.unit.new_ones(())


class StandardDeviationDecay(Estimator):
    """SDUD: the noise scale is learned and falls with the recommendation loss.

    L_rec / (2 (sigma + lambda)^2) + log(sigma + lambda), sigma the mean of |sigma_l|, is smallest
    at sigma = sqrt(L_rec) - lambda. (sigma also scales the noise inside y, so that every loss that
    reads y, L_vq and the reconstruction too, adds to its gradient.)

    Args:
        sigma_start: sigma_l before training, > 0. lambda_: the offset, >= 0.
        shared: see ``Estimator``.
    """

    def __init__(
        self,
        levels: int,
        codebook_size: int,
        sigma_start: float = 1.0,
        lambda_: float = 1.7,
        **shared: Any,
    ) -> None:
        super().__init__(levels, codebook_size, **shared)
        above("estimator.sigma_start", sigma_start, 0)
        at_least("estimator.lambda_", lambda_, 0)
        self.lambda_ = lambda_
        self.sigma = nn.Parameter(torch.full((levels,), float(sigma_start)))

    def noise_scale(self, level: int) -> Tensor:
        return self.sigma[level].abs()

    def objective(self, recommendation_loss: Tensor) -> Tensor:
        # With lambda = 0 the logarithm has no bottom; the floor keeps it finite.
        width = (self.sigma.abs().mean() + self.lambda_).clamp_min(1e-6)
        return recommendation_loss / (2 * width.square()) + width.log()

    def state(self) -> dict[str, Any]:
        return {**super().state(), "sigma": [float(value) for value in self.sigma.detach().abs()]}


class FrequencyDecay(Estimator):
    """FrqUD: noise on hot codes only, so that it fades as the load evens out.

    A code is hot if it is the noiseless nearest one more than r times as often as an even share,
    by a moving average that starts at that share.

    Args:
        r: > 0. momentum: of the moving average, in [0, 1). shared: see ``Estimator``.
    """

    usage: Tensor  # [m, K]

    def __init__(
        self,
        levels: int,
        codebook_size: int,
        r: float = 1.5,
        momentum: float = 0.99,
        **shared: Any,
    ) -> None:
        super().__init__(levels, codebook_size, **shared)
        above("estimator.r", r, 0)
        if not 0 <= momentum < 1:
            raise ValueError(f"estimator.momentum must be in [0, 1), got {momentum}")
        self.r, self.momentum = r, momentum
        start = torch.full((self.levels, self.codebook_size), 1 / self.codebook_size)
        self.register_buffer("usage", start)

    @torch.no_grad()
    def observe(self, nearest_nxm: Tensor, weight_n: Tensor | None = None) -> None:
        if weight_n is None:
            weight_n = self.usage.new_full((len(nearest_nxm),), 1 / len(nearest_nxm))
        codes = nearest_nxm.T
        share = torch.zeros_like(self.usage).scatter_add_(1, codes, weight_n.expand(codes.shape))
        self.usage.mul_(self.momentum).add_(share, alpha=1 - self.momentum)

    def noise_scale(self, level: int) -> Tensor:
        return self.hot(level).to(self.unit.dtype)

    def hot(self, level: int) -> Tensor:
        """bool [K]: codes used more than r times as often as an even share."""
        return self.usage[level] > self.r / self.codebook_size

    def state(self) -> dict[str, Any]:
        share = [float(self.hot(level).float().mean()) for level in range(self.levels)]
        return {**super().state(), "hot_share": share}


class CombinedDecay(FrequencyDecay, StandardDeviationDecay):
    """SDUD and FrqUD together: the learned noise scale, on hot codes only.

    Takes the settings of both.
    """

    def noise_scale(self, level: int) -> Tensor:
        return StandardDeviationDecay.noise_scale(self, level) * self.hot(level)
