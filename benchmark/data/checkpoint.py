"""The RQ-VAE checkpoints that the authors of DIGER released, or a refusal.

They are pickles, which can run any code when they are loaded the usual way. So the checksum comes
first, and then torch's restricted loader with argparse.Namespace (where such files keep their
settings) as the only class beyond what tensors need. Tensors and plain settings come out, nothing
else. torch is imported when a file is loaded, not before.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from benchmark.data.download import Downloads, RemoteFile, Unavailable
from benchmark.data.hub import Repository, list_files
from benchmark.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

RECORDS = Path(__file__).with_name("rqvae_checkpoints.yaml")
HUB = "https://huggingface.co"
FOLDER = "diger_release/rqvae"
STATE_KEYS = ("state_dict", "model", "model_state_dict")


@dataclass(frozen=True)
class Checkpoint:
    """What is in a checkpoint.

    Attributes:
        settings: of the model's training, as JSON knows values; empty if the file has none.
        state: parameters by name, on the CPU.
        sha256: of the file.
    """

    settings: Mapping[str, Any]
    state: dict[str, Tensor]
    sha256: str


class Record(NamedTuple):
    """What is on record of a data set's checkpoints: where, and the checksums of all releases."""

    repository: Repository
    sha256: tuple[str, ...]


def checkpoint_records(hub: str = HUB) -> dict[str, Record]:
    """The records by data set; a ``hub`` that is no address raises UserError."""
    entries = yaml.safe_load(RECORDS.read_text(encoding="utf-8"))
    try:
        return {
            name: Record(
                Repository(hub, entry["repository"], "model", entry["revision"]),
                tuple(entry["sha256"]),
            )
            for name, entry in entries.items()
        }
    except ValueError as error:
        raise UserError(str(error)) from None


def fetch_checkpoint(
    name: str,
    downloads: Downloads,
    hub: str = HUB,
    trusted: Sequence[str] = (),
    only: str | None = None,
) -> list[Path]:
    """The verified files of a data set's checkpoints, at least one: all that are at hand, or all
    that are in the pinned revision.

    Args:
        name: beauty, instruments or yelp.
        downloads: where files come from.
        hub: address of the hub.
        trusted: checksums that the user adds to those on record.
        only: the one checksum that is wanted, on record or not; None: any of them.

    Raises:
        UserError: an unknown name, no file with such a checksum, or a wrong download.
        Unavailable: neither the files nor the hub's listing can be had.
    """
    records = checkpoint_records(hub)
    if name not in records:
        raise UserError(
            f"{name} is neither a file nor a data set with checkpoints on record, "
            f"which are {', '.join(records)}"
        )
    repository = records[name].repository
    sums = [*records[name].sha256, *trusted] if only is None else [only]
    found = at_hand(name, sums, downloads)
    if found:
        return found
    listing = None if downloads.offline else list_files(repository)
    if listing is None:
        places = " or ".join(str(downloads.folder / _path(name, digest)) for digest in sums)
        raise Unavailable(
            f"the checkpoints of {name} are not at hand, and the hub's listing of {repository}, "
            f"which has their paths, cannot be reached: put a file from there at {places}, where "
            "the name is the file's sha256"
        )
    pinned = replace(repository, revision=listing.commit)
    paths = {digest: path for path, digest in listing.sha256.items() if digest in sums}
    if not paths:
        listed = ", ".join(f"{path} ({digest})" for path, digest in listing.sha256.items())
        raise UserError(
            f"{pinned} has no file with a sha256 on record ({', '.join(sums)}); it has {listed}"
        )
    return [
        downloads.get(RemoteFile(_path(name, digest), pinned.url(path), digest))
        for digest, path in paths.items()
    ]


def at_hand(name: str, sums: Sequence[str], downloads: Downloads) -> list[Path]:
    """The files that the folder or the mirror has; the hub's address of them is not known yet."""
    web_mirror = downloads.has_web_mirror
    found = []
    for digest in sums:
        place = f"{downloads.mirror}/{_path(name, digest)}" if web_mirror else HUB
        near = downloads if web_mirror else replace(downloads, offline=True)
        with suppress(UserError):  # a wrong copy too: the hub may have the right one
            found.append(near.get(RemoteFile(_path(name, digest), place, digest)))
    return found


def _path(name: str, sha256: str) -> str:
    """A file's place in a mirror and among the downloads, its name on the hub being unknown."""
    return f"{FOLDER}/{name}/{sha256}.pth"


def load_checkpoint(path: Path, sha256: Sequence[str]) -> Checkpoint:
    """The settings and parameters of a checkpoint.

    Args:
        path: a file that torch.save has written.
        sha256: the checksums that are trusted.

    Raises:
        UserError: another checksum, not such a file, or one that holds more than tensors, plain
            values and an argparse.Namespace: it is not loaded, and nothing in it is run.
    """
    try:
        content = path.read_bytes()  # once: what is checked is what is loaded
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    found = hashlib.sha256(content).hexdigest()
    if found not in sha256:
        raise UserError(
            f"{path} has the sha256 {found}, not {' or '.join(sha256) or 'one that is on record'}: "
            "it is not loaded; if you trust it, name its sha256"
        )
    value = _load(path, content)
    return Checkpoint(_settings(path, value), _state(path, value), found)


def _load(path: Path, content: bytes) -> Any:
    import torch

    try:
        with _allowed(argparse.Namespace), warnings.catch_warnings(action="ignore"):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged or malicious file can raise anything here.
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise UserError(
                f"{path} wants to run {wanted[1]} when it is loaded, which is not on the list of "
                "what it may: it is not loaded"
            ) from None
        # Not torch's own words: they advise to load the file without its safeguards.
        raise UserError(
            f"{path} is not loaded: it is damaged, is no file of torch.save, or holds more than "
            f"tensors and plain settings ({type(error).__name__})"
        ) from None


@contextmanager
def _allowed(*classes: type) -> Iterator[None]:
    """Allow torch's restricted loader these classes and none that somebody has added before."""
    from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

    before = get_safe_globals()
    clear_safe_globals()
    try:
        add_safe_globals(list(classes))
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)


def _state(path: Path, value: Any) -> dict[str, Tensor]:
    import torch

    mapping = value if isinstance(value, dict) else {}
    for candidate in (*(mapping.get(key) for key in STATE_KEYS), mapping):
        if not isinstance(candidate, dict) or not candidate:
            continue
        if all(type(k) is str and isinstance(v, torch.Tensor) for k, v in candidate.items()):
            return {name: tensor.detach() for name, tensor in candidate.items()}
    raise UserError(
        f"{path} holds no parameters by name, neither itself nor under {', '.join(STATE_KEYS)}"
    )


def _settings(path: Path, value: Any) -> dict[str, Any]:
    entries = value.values() if isinstance(value, dict) else ()
    for entry in entries:
        if isinstance(entry, argparse.Namespace):
            return {str(key): _plain(path, str(key), inner) for key, inner in vars(entry).items()}
    return {}


def _plain(path: Path, key: str, value: Any, depth: int = 0) -> Any:
    """A setting as JSON knows it; tuples become lists."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else str(value)
    if type(value) in (list, tuple) and depth < 10:
        return [_plain(path, key, inner, depth + 1) for inner in value]
    if type(value) is dict and all(type(name) is str for name in value) and depth < 10:
        return {name: _plain(path, key, inner, depth + 1) for name, inner in value.items()}
    raise UserError(
        f"{path}: the setting {key[:40]!r} is a {type(value).__name__}, not a plain value"
    )
