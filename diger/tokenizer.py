"""What every tokenizer is: an encoder and one codebook a level, trained once and shared."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from diger.quantizer import make_assignment, quantize
from diger.semantic_ids import Codes

Progress = Callable[[int, int], None]
#: What torch.load raises on files that are missing, cut or not its own.
LOAD_ERRORS = (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError)


class Tokenizer(nn.Module):
    """Encoder E and codebooks [m, K, D]; a subclass says how they come about.

    Attributes:
        encoder: maps content [n, W] to latents [n, D].
        codebooks: parameter [m, K, D].
        beta: weight of the commitment loss.
        assignment: how the catalogue is numbered once training is over, where the IDs then stay
            as they are: ``argmin`` or ``sinkhorn``.
    """

    encoder: nn.Module
    codebooks: nn.Parameter
    beta: float = 0.25
    assignment: str = "argmin"

    @torch.no_grad()
    def assign(self, content_NxW: Tensor, assignment: str = "argmin") -> Codes:
        """Codes of the catalogue, int32 [N, m]."""
        latent = self.encoder(content_NxW)
        codes = quantize(latent, self.codebooks, make_assignment(assignment)).codes
        return codes.cpu().numpy().astype(np.int32)


def shared(
    key: Sequence[Any],
    empty: Tokenizer,
    train: Callable[[], Tokenizer],
    cache: Path,
    device: str = "cpu",
) -> Tokenizer:
    """The tokenizer of these settings, trained once and shared by all methods and processes.

    Stored under ``cache`` by the hash of everything that decides it. Other processes that want
    the same one wait. The device is not part of the hash: whoever comes first trains it.

    Args:
        key: JSON values that decide the outcome, the version of its training among them.
        empty: the untrained tokenizer, whose state the stored one replaces.
        train: makes a trained one of the same shape; called if none is stored.
    """
    text = json.dumps(list(key), sort_keys=True, default=list)
    folder = cache / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.pt"
    with FileLock(f"{path}.lock"):
        if not _load(empty, path):
            trained = train()
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            torch.save(trained.state_dict(), temporary)
            temporary.replace(path)
            empty.load_state_dict(trained.state_dict())
    return empty.to(device)


def _load(tokenizer: Tokenizer, path: Path) -> bool:
    """Read the weights if the file is there and whole; a damaged one is trained again."""
    try:
        tokenizer.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    except LOAD_ERRORS:
        return False
    return True
