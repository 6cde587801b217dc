"""Files of a pinned revision on the Hugging Face hub, checked against the hub's own listing.

The listing is advice from a place that may be out of reach: it is asked once and without retries,
and only when a file could not be had, to tell a file that has moved or changed from a network
that is down; or when nothing else says what a file's checksum is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from benchmark.data.download import Downloads, RemoteFile, Unavailable
from benchmark.errors import UserError
from benchmark.store import write_text

LISTING_SECONDS = 10


@dataclass(frozen=True)
class Repository:
    """A repository on the hub at one revision.

    Attributes:
        hub: address of the hub or of a server that speaks as it does.
        name: owner/name.
        kind: dataset or model.
        revision: commit; None stands for the newest.
    """

    hub: str
    name: str
    kind: Literal["dataset", "model"]
    revision: str | None

    def __post_init__(self) -> None:
        if not re.match("https?://", str(self.hub)):
            raise ValueError(f"hub must start with http:// or https://, not {self.hub!r}")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(self.name)):
            raise ValueError(f"repository must be owner/name, not {self.name!r}")
        if self.revision is not None and not re.fullmatch("[0-9a-f]{40}", str(self.revision)):
            raise ValueError(f"revision must be a full commit, not {self.revision!r}")

    def __str__(self) -> str:
        return f"{self.page} at {self.revision or 'its newest revision'}"

    @property
    def page(self) -> str:
        folder = "datasets/" if self.kind == "dataset" else ""
        return f"{self.hub.rstrip('/')}/{folder}{self.name}"

    def url(self, path: str) -> str:
        return f"{self.page}/resolve/{self.revision or 'main'}/{quote(path)}"


class Listing(NamedTuple):
    """What a repository holds: the commit, and the sha256 of each file by path (None for a small
    one, which the hub lists without)."""

    commit: str
    sha256: dict[str, str | None]


def list_files(repository: Repository) -> Listing | None:
    """The hub's listing of a repository; None if it cannot be had here and now.

    Raises:
        UserError: the hub answers that there is no such repository or revision.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        # No token: the files are public, and another server has no business with a user's.
        info: Any = HfApi(endpoint=repository.hub.rstrip("/"), token=False).repo_info(
            repository.name, repo_type=repository.kind, revision=repository.revision,
            files_metadata=True, timeout=LISTING_SECONDS,
        )  # fmt: skip
        files = {file.rfilename: _sha256(file.lfs) for file in info.siblings or []}
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise UserError(
            f"the hub knows no {repository}: correct the repository or the revision"
        ) from None
    except Exception:
        # Releases of the library wrap different HTTP clients, whose errors have no common class;
        # and what an answer that is no listing raises is anybody's guess.
        return None
    commit = str(info.sha or repository.revision)
    return Listing(commit, files) if files and re.fullmatch("[0-9a-f]{40}", commit) else None


def _sha256(lfs: object) -> str | None:
    """The checksum in a listing's entry, which is an object or, in old releases, a dict."""
    value = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    return str(value) if value else None


@dataclass(frozen=True)
class HubFile:
    """One file of a repository.

    Attributes:
        repository: where it is.
        path: inside the repository.
        sha256: of its content; None if none is on record: then the hub's listing has to say.
        folder: of its place in a mirror and among the downloads.
        option: the file's entry in the data set's options, for errors.
    """

    repository: Repository
    path: str
    sha256: str | None
    folder: str
    option: str

    def __post_init__(self) -> None:
        if self.sha256 is None and self.repository.revision is None:
            raise ValueError(f"{self.path} needs a sha256 or its repository a revision")
        self._remote(self.sha256 or "0" * 64)  # refuses impossible values

    @property
    def name(self) -> str:
        return f"{self.folder}/{self.path}"

    @property
    def checksum(self) -> str:
        """``sha256:<hex>``, or ``git-commit:<hex>``, which decides the content just as well."""
        return f"sha256:{self.sha256}" if self.sha256 else f"git-commit:{self.repository.revision}"

    def _remote(self, sha256: str) -> RemoteFile:
        return RemoteFile(self.name, self.repository.url(self.path), sha256)

    def fetch(self, downloads: Downloads) -> Path:
        """The verified file on disk.

        Raises:
            Unavailable: it cannot be had, or nothing says what its checksum should be.
            UserError: the hub lists it elsewhere or with another checksum, or what was fetched is
                not the file.
        """
        remote = self._remote(self.sha256 or self._listed_sha256(downloads))
        try:
            return downloads.get(remote)
        except UserError:
            listing = None if downloads.offline else list_files(self.repository)
            if listing is not None:
                self._check(listing)
            raise

    def _check(self, listing: Listing) -> str | None:
        """The file's listed checksum; raises UserError unless path and checksum are as expected."""
        if self.path not in listing.sha256:
            name = self.path.rpartition("/")[2]
            same = [path for path in listing.sha256 if path.rpartition("/")[2] == name]
            elsewhere = (
                f"a file of that name is at {', '.join(same)}" if same else "nor has any other path"
            )
            raise UserError(
                f"{self.repository} has no file {self.path}: {elsewhere}; "
                f"correct dataset.{self.option}.path"
            )
        listed = listing.sha256[self.path]
        if None not in (listed, self.sha256) and listed != self.sha256:
            raise UserError(
                f"{self.path} in {self.repository} has the sha256 {listed} by the hub's listing, "
                f"not {self.sha256}: it is not the file that this config was written for"
            )
        return listed

    def _listed_sha256(self, downloads: Downloads) -> str:
        """The checksum by the listing, noted among the downloads: a commit never changes."""
        note = downloads.folder / f"{self.name}.{str(self.repository.revision)[:12]}.sha256"
        if note.is_file():
            noted = note.read_text(encoding="utf-8", errors="replace").strip()
            if re.fullmatch("[0-9a-f]{64}", noted):
                return noted
        listing = None if downloads.offline else list_files(self.repository)
        if listing is None:
            raise Unavailable(
                f"{self.name} has no sha256 on record, and the hub's listing of {self.repository}, "
                "which has it, cannot be reached: try again with a network, or put the file from "
                f"{self.repository.url(self.path)} at {downloads.folder / self.name} and give its "
                f"checksum as dataset.{self.option}.sha256=SUM"
            )
        listed = self._check(listing)
        if listed is None:
            raise UserError(
                f"{self.path} in {self.repository} has no sha256, neither on record nor in the "
                "hub's listing: nothing verifies it"
            )
        self._remote(listed)
        write_text(note, listed + "\n")
        return listed
