"""What a source of interactions and item texts is; the kinds themselves are in `sources`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from benchmark.data.download import Downloads, RemoteFile
from benchmark.data.interactions import Rows


class ItemText(NamedTuple):
    """What a source says of an item; "" where it says nothing."""

    title: str
    description: str


class Vectors(NamedTuple):
    """A table of item vectors that a source brings along.

    Attributes:
        path: a plain .npy file, float [n_rows, d].
        row: the row of each item, by item token; no item is without one.
    """

    path: Path
    row: Mapping[str, int]


class Source(Protocol):
    """A place that interactions come from.

    ``row_inputs`` and ``text_inputs`` are asked for on every run, and what they name is read only
    where the cache has nothing for it: they are cheap, and for a pinned remote file they fetch
    nothing. Their values are checksums, ``sha256:<hex>`` or ``git-blob:<hex>``, or
    ``git-commit:<hex>`` for a file at that commit whose own checksum is not on record.
    """

    @property
    def revision(self) -> str:
        """Names the version of the data, for the manifest."""

    @property
    def text_source(self) -> str | None:
        """Says in words what the item texts (or vectors) are made of; None if there are none."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What of the options decides the data, as JSON: part of a result's identity. A local
        file counts by its content, not by its path."""

    def row_inputs(self) -> dict[str, str]:
        """Checksum of each file that the interactions come from, by file name.

        Raises:
            UserError: a local input is missing.
        """

    def text_inputs(self) -> dict[str, str]:
        """The same for the item texts; empty for a source without."""

    def read_rows(self, downloads: Downloads) -> Rows:
        """Read the interactions.

        Raises:
            Unavailable: a remote file cannot be had.
            UserError: an input is missing or malformed; the message names file and line.
        """

    def read_texts(self, downloads: Downloads) -> dict[str, ItemText] | None:
        """Read the texts, by item token; None for a source without. Errors: as `read_rows`."""

    def read_vectors(self, downloads: Downloads) -> Vectors | None:
        """The vectors that the source brings along; None for a source without. Errors: as
        `read_rows`."""


def check_keys(
    where: str,
    options: Mapping[str, Any],
    required: tuple[str, ...],
    optional: tuple[str, ...] = (),
) -> None:
    """Raise ``ValueError`` for a missing or unknown key."""
    for key in required:
        if key not in options:
            raise ValueError(f"{where} needs the key {key!r}")
    for key in options:
        if key not in required + optional:
            raise ValueError(
                f"{where} has no key {key!r}; it knows {', '.join(required + optional)}"
            )


def pinned_file(
    where: str, options: Mapping[str, Any], entry: Mapping[str, Any], folder: str
) -> RemoteFile:
    """The remote file that a yaml describes.

    Args:
        where: names the entry in errors.
        options: the source's options: ``url``, a template with ``{path}`` and any other of the
            source's options, such as ``{commit}``.
        entry: ``path`` in the repository, ``sha256``, ``git_blob`` (one of them at least),
            ``bytes``, and ``name`` where the last part of the path does not tell the file apart.
        folder: of the file in a mirror and among the downloads.

    Raises:
        ValueError: a missing or unknown key, or an impossible value.
    """
    check_keys(where, entry, ("path",), ("name", "sha256", "git_blob", "bytes"))
    path = str(entry["path"])
    try:
        url = str(options["url"]).format(**{**options, "path": path})
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"source.url {options['url']!r} cannot be filled in: {error}") from None
    return RemoteFile(
        f"{folder}/{entry.get('name') or path.rpartition('/')[2]}", url,
        entry.get("sha256"), entry.get("git_blob"), entry.get("bytes"),
    )  # fmt: skip
