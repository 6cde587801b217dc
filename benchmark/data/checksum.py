"""What a pinned file is, and whether a file on disk is that one."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file of a pinned revision.

    Attributes:
        name: its place in a mirror and in the download folder, such as letter/Yelp.inter.json.
        url: where it is fetched from.
        sha256: of its content; None if only the git blob id is on record.
        git_blob: sha1 of ``blob <size>\\0`` and the content, as git computes it.
        bytes: its size, where known.
    """

    name: str
    url: str
    sha256: str | None = None
    git_blob: str | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*", self.name):
            raise ValueError(f"a file's name must be a plain relative path, not {self.name!r}")
        if not re.match("https?://", self.url):
            raise ValueError(f"a file's url must start with http:// or https://, not {self.url!r}")
        if self.sha256 is None and self.git_blob is None:
            raise ValueError(f"{self.name} needs a sha256 or a git_blob: nothing else verifies it")
        for key, digits in (("sha256", 64), ("git_blob", 40)):
            value = getattr(self, key)
            if value is not None and not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
                raise ValueError(f"{key} of {self.name} must be {digits} hexadecimal digits")

    @property
    def checksum(self) -> str:
        """``sha256:<hex>``, or ``git-blob:<hex>`` where that is all there is."""
        return f"sha256:{self.sha256}" if self.sha256 else f"git-blob:{self.git_blob}"


class Mismatch(NamedTuple):
    """A checksum that is not the one on record."""

    kind: str  # "sha256" or "git blob"
    found: str
    expected: str

    def __str__(self) -> str:
        return f"its {self.kind} is {self.found}, expected {self.expected}"


def mismatch(file: RemoteFile, path: Path) -> Mismatch | None:
    """The first checksum on record that the content of ``path`` does not have; None if it has all.

    The content is read once, a piece at a time. Raises ``OSError`` where it cannot be.
    """
    sums = {
        "sha256": (hashlib.sha256(), file.sha256),
        "git blob": (hashlib.sha1(usedforsecurity=False), file.git_blob),
    }
    with path.open("rb") as content:
        size = content.seek(0, 2)
        content.seek(0)
        sums["git blob"][0].update(b"blob %d\0" % size)
        wanted = {kind: both for kind, both in sums.items() if both[1] is not None}
        while piece := content.read(CHUNK_BYTES):
            for digest, _ in wanted.values():
                digest.update(piece)
    for kind, (digest, expected) in wanted.items():
        if digest.hexdigest() != expected:
            return Mismatch(kind, digest.hexdigest(), str(expected))
    return None


def is_web_page(path: Path) -> bool:
    """Whether the file begins as an HTML page does."""
    with path.open("rb") as file:
        head = file.read(512)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))
