"""The estimators of the method files, and a small world to run them in.

Whoever adds a method file with an estimator inherits every test that runs over ``ESTIMATORS``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import yaml
from hydra.utils import get_class
from torch import Tensor

from benchmark.config import CONF
from diger.estimators import Estimator, SoftCodes
from diger.generator import Batch, Generator
from diger.rqvae import RQVAE, RQVAEConfig
from diger.seq2seq import ModelConfig


def _configured() -> dict[str, type[Estimator]]:
    """The estimator class of every method file that names one."""
    found = {}
    for path in sorted((CONF / "method").glob("*.yaml")):
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "estimator" in settings:
            found[path.stem] = get_class(settings["estimator"]["_target_"])
    return found


ESTIMATORS = _configured()
# The table of the method's description says which is which; the code is held to it, not asked.
DETACHED = [name for name in ESTIMATORS if name.endswith("_detached")]
CACHED = [name for name in ESTIMATORS if name.endswith("_cached")]
FROZEN = [name for name in ESTIMATORS if name in ("tiger", "letter_tiger")]
SAMPLED = [name for name in ESTIMATORS if name not in (*DETACHED, *CACHED, *FROZEN)]
END_TO_END = [*SAMPLED, *CACHED]
TRAINING = [*END_TO_END, *DETACHED]
K, LEVELS, N = 6, 3, 20


class World(NamedTuple):
    tokenizer: RQVAE
    generator: Generator
    content: Tensor
    batch: Batch


def world() -> World:
    """Twenty items, a batch of four rows over twelve of them."""
    torch.manual_seed(0)
    tokenizer = RQVAE(10, LEVELS, K, RQVAEConfig(hidden=(12,), latent=5))
    torch.nn.init.normal_(tokenizer.codebooks)
    generator = Generator(LEVELS, K, ModelConfig(1, 16, 16, 2, 8, 0.0, init_std=0.3))
    content = torch.randn(N, 10)
    sids = torch.randint(0, K, (12, LEVELS + 1))
    history = torch.randint(0, 12, (4, 5))
    mask = torch.arange(5) < torch.tensor([5, 2, 4, 1])[:, None]
    return World(
        tokenizer, generator, content, Batch(history, mask, torch.tensor([3, 7, 1, 11]), sids)
    )


def soft_codes(estimator: Estimator, made: World, noise: int | None = 0) -> SoftCodes:
    """Soft codes of the batch's twelve items; ``noise`` seeds it, None: none."""
    source = None if noise is None else torch.Generator().manual_seed(noise)
    latent = made.tokenizer.encoder(made.content[:12])
    stale = made.batch.sids[:, :-1]  # the last refresh: random, and so not the nearest codes
    return estimator.tokenize(latent, made.tokenizer.codebooks, 0.25, source, stale)
