"""What every tokenizer is: an encoder and one codebook a level, trained once and shared."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from diger.quantizer import PART, make_assignment, quantize
from diger.semantic_ids import Codes, add_suffix

#: Called with what is done and how much there will be, as far as one can tell.
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
        facts: JSON facts of how it came about, such as ``seconds``; empty if not on record.
    """

    encoder: nn.Module
    codebooks: nn.Parameter
    beta: float = 0.25
    assignment: str = "argmin"
    facts: Mapping[str, Any] = MappingProxyType({})

    @torch.no_grad()
    def assign(self, content_NxW: Tensor, assignment: str = "argmin") -> Codes:
        """Codes of the catalogue, int32 [N, m]."""
        latent = self.encode(content_NxW)
        rule = make_assignment(assignment)
        # The nearest code of an item is its own affair; a balanced one depends on all the others.
        parts = latent.split(PART) if assignment == "argmin" else [latent]
        codes = torch.cat([quantize(part, self.codebooks, rule).codes for part in parts])
        return codes.cpu().numpy().astype(np.int32)

    def encode(self, content_NxW: Tensor) -> Tensor:
        """Latents [N, D] of the catalogue, some items at a time."""
        return torch.cat([self.encoder(part) for part in content_NxW.split(PART)])

    def semantic_ids(self, content_NxW: Tensor, assignment: str = "argmin") -> Codes:
        """Codes and suffix of the catalogue, int32 [N, m + 1]; errors as of ``add_suffix``."""
        return add_suffix(self.assign(content_NxW, assignment), self.codebooks.shape[1])


def shared(
    key: Sequence[Any],
    empty: Tokenizer,
    train: Callable[[], Tokenizer],
    cache: Path,
    device: str = "cpu",
) -> Tokenizer:
    """The tokenizer of these settings, trained once and shared by all methods and processes.

    Stored at ``stored_at(key, cache)``, its facts beside it. Other processes that want the same
    one wait. The device is not part of the key: whoever comes first trains it.

    Args:
        key: JSON values that decide the outcome, the version of its training among them.
        empty: the untrained tokenizer, whose state the stored one replaces.
        train: makes a trained one of the same shape; called if none is stored.
    """
    path = stored_at(key, cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        for leftover in path.parent.glob(f".{path.stem}*.tmp"):  # of a process that was killed
            leftover.unlink()
        if not _load(empty, path):
            trained = train()
            facts = json.dumps(dict(trained.facts), indent=2, sort_keys=True)
            replace_file(_facts_of(path), lambda file: file.write_bytes(facts.encode()))
            save_tensors(path, trained.state_dict())
            empty.load_state_dict(trained.state_dict())
            unfinished(path).unlink(missing_ok=True)
        empty.facts = _read_facts(path)
    return empty.to(device)


def stored_at(key: Sequence[Any], cache: Path) -> Path:
    """Where the tokenizer of this key is kept: by the hash of everything that decides it."""
    text = json.dumps(list(key), sort_keys=True, default=list)
    return cache / "tokenizer" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.pt"


def unfinished(path: Path) -> Path:
    """Where a training that may be interrupted keeps its state until the tokenizer is stored."""
    return path.with_suffix(".training.pt")


def save_tensors(path: Path, value: Any) -> None:
    """Write tensors and plain values atomically."""
    replace_file(path, lambda file: torch.save(value, file))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path`` that then takes its place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _load(tokenizer: Tokenizer, path: Path) -> bool:
    """Read the weights if the file is there and whole; a damaged one is trained again."""
    try:
        tokenizer.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    except LOAD_ERRORS:
        return False
    return True


def _facts_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_facts(path: Path) -> dict[str, Any]:
    """They decide nothing: where they are missing or damaged, there are none."""
    try:
        facts = json.loads(_facts_of(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
