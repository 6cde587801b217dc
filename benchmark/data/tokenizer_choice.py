"""Which released RQ-VAE the settings ``method.tokenizer.checkpoint`` and ``checkpoint_sha256``
mean, and what it is: its content. torch is imported when the file is loaded, not before."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.data.checkpoint import (
    HUB,
    Checkpoint,
    at_hand,
    checkpoint_records,
    fetch_checkpoint,
    load_checkpoint,
)
from benchmark.data.download import Downloads
from benchmark.errors import UserError

#: Keys of ``method.tokenizer`` that need not be there, and what holds without them.
OPTIONAL = {"kind": "rqvae", "checkpoint": None, "checkpoint_sha256": None}


def chosen_sha256(checkpoint: str, sha256: str | None, downloads: Downloads) -> str:
    """The checksum of the checkpoint that settings mean: what it is, wherever it lies.

    Args:
        checkpoint: a data set's name on record, or the path of a file.
        sha256: what the user trusts; None: one on record, if only one is on record or at hand.
        downloads: where files of a name may be at hand; nothing is fetched over the network.

    Raises:
        UserError: it takes a checksum to say which is meant, or the file is not there.
    """
    option = "method.tokenizer.checkpoint_sha256="
    records = checkpoint_records()
    if checkpoint not in records:
        path = Path(checkpoint).expanduser()
        if not path.is_file():
            raise UserError(
                f"method.tokenizer.checkpoint={checkpoint} is neither a file nor a data set with "
                f"checkpoints on record, which are {', '.join(records)}"
            )
        if sha256 is None:
            raise UserError(
                f"{path} is only loaded with its checksum: if you trust it, {option}..."
            )
        return sha256
    if sha256 is not None:
        return sha256
    sums = list(records[checkpoint].sha256)
    if len(sums) > 1:
        mirror = None if downloads.has_web_mirror else downloads.mirror
        near = replace(downloads, mirror=mirror, offline=True)
        sums = [path.stem for path in at_hand(checkpoint, sums, near)] or sums
    if len(sums) > 1:
        raise UserError(
            f"there are {len(sums)} released checkpoints of {checkpoint}: choose one with "
            f"{' or '.join(option + digest for digest in sums)}"
        )
    return sums[0]


def tokenizer_identity(
    settings: Mapping[str, Any], downloads: Callable[[], Downloads]
) -> dict[str, Any]:
    """The settings of a tokenizer as they decide a result: a checkpoint is its checksum, and keys
    that say what holds without them are left out.

    Args:
        settings: ``method.tokenizer``. downloads: as for `chosen_sha256`; made if need be.
    """
    known = {
        key: value
        for key, value in settings.items()
        if key not in OPTIONAL or value != OPTIONAL[key]
    }
    if isinstance(known.get("checkpoint"), str):
        sha256 = known.pop("checkpoint_sha256", None)
        known["checkpoint"] = chosen_sha256(known["checkpoint"], sha256, downloads())
    return known


def released_checkpoint(checkpoint: str, sha256: str | None, downloads: Downloads) -> Checkpoint:
    """Fetch and load the checkpoint that settings mean; arguments and errors as for
    `chosen_sha256`, `fetch_checkpoint` and `load_checkpoint`."""
    digest = chosen_sha256(checkpoint, sha256, downloads)
    path = Path(checkpoint).expanduser()
    if checkpoint in checkpoint_records():
        hub = os.environ.get("HF_ENDPOINT") or HUB
        path = fetch_checkpoint(checkpoint, downloads, hub, only=digest)[0]
    return load_checkpoint(path, [digest])
