"""Pinned files from the network, or from a mirror, verified before use.

pooch keeps the order of things: a file comes under another name, its hash is checked, then it is
renamed. What it does not do is done by the downloaders handed to it here: they resume what broke
off, try again with growing pauses, and know git blob ids.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
from filelock import FileLock, Timeout

from benchmark.data.checksum import RemoteFile, mismatch
from benchmark.data.transfer import Lacking, Wrong, check, fetch_http
from benchmark.errors import UserError

__all__ = ["MIRROR_VARIABLE", "OFFLINE_VARIABLE", "Downloads", "RemoteFile", "Unavailable"]

MIRROR_VARIABLE = "DIGER_BENCH_MIRROR"
OFFLINE_VARIABLE = "DIGER_BENCH_OFFLINE"


class Unavailable(UserError):
    """A remote file cannot be had here and now: the message says which, from where it would come,
    and where to put a copy."""


@dataclass(frozen=True)
class Downloads:
    """Where files are fetched from and kept.

    Attributes:
        folder: verified files are kept here under their names; such a folder is itself a mirror.
        mirror: a folder or an http(s) URL that is tried first; None: the network only.
        offline: use the folder and the mirror only.
    """

    folder: Path
    mirror: str | None = None
    offline: bool = False

    @classmethod
    def from_environment(cls, cache: Path) -> Downloads:
        """Files below ``cache``; mirror and offline mode as DIGER_BENCH_MIRROR and
        DIGER_BENCH_OFFLINE say."""
        said = os.environ.get(OFFLINE_VARIABLE, "").strip().lower()
        offline = said not in ("", "0", "false", "no")
        return cls(cache / "downloads", os.environ.get(MIRROR_VARIABLE) or None, offline)

    @property
    def has_web_mirror(self) -> bool:
        return self.mirror is not None and _is_url(self.mirror)

    def get(self, file: RemoteFile) -> Path:
        """The file on disk, fetched if need be, its checksum verified on this very call.

        Raises:
            Unavailable: neither the folder, nor the mirror, nor the network has it.
            UserError: what was fetched is not the file (wrong checksum), the mirror is none, or
                the folder cannot be written to.
        """
        path = self.folder / file.name
        try:
            if mismatch(file, path) is None:
                return path
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        self._check_mirror()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path):
                self._fetch(file, path)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write to {path.parent} ({reason})") from None
        return path

    def _check_mirror(self) -> None:
        if self.mirror and not _is_url(self.mirror) and not Path(self.mirror).is_dir():
            raise UserError(
                f"{MIRROR_VARIABLE} must be an existing folder or an http(s) URL, "
                f"not {self.mirror!r}"
            )

    def _fetch(self, file: RemoteFile, path: Path) -> None:
        reasons = []
        if path.exists():
            fault = mismatch(file, path)
            if fault is None:
                return  # Another process fetched it meanwhile.
            _warn(f"{path} is damaged ({fault}): it is removed and fetched anew")
            path.unlink()
            reasons.append("the copy kept here was damaged and is removed")
        if self.mirror:
            try:
                self._from_mirror(file, path, self.mirror)
                return
            except Lacking as error:
                reasons.append(f"mirror {_shown(self.mirror)}: {error}")
            except Wrong as error:
                _warn(f"{file.name} in the mirror {_shown(self.mirror)} is passed over: {error}")
                reasons.append(f"mirror {_shown(self.mirror)}: a wrong copy, {error}")
        if self.offline:
            reasons.append(f"network: not asked, since {OFFLINE_VARIABLE} is set")
        else:
            try:
                _retrieve(file.url, file, path, fetch_http)
                return
            except Lacking as error:
                reasons.append(f"network: {error}")
            except Wrong as error:
                raise UserError(
                    f"{file.name} from {_shown(file.url)} is not the file on record: {error}; it "
                    "is not kept, so try again later, or see whether the file at that address has "
                    f"changed, or put a good copy at {path}"
                ) from None
        if part_of(path).exists():
            reasons.append("what came so far is kept, and the next try goes on from there")
        raise Unavailable(
            f"{file.name} cannot be had from {_shown(file.url)} ({'; '.join(reasons)}): put a "
            f"copy at {path}, where its checksum is checked, or as {file.name} in a folder that "
            f"{MIRROR_VARIABLE} names"
        )

    def _from_mirror(self, file: RemoteFile, path: Path, mirror: str) -> None:
        if not _is_url(mirror):
            _retrieve(str(Path(mirror) / file.name), file, path, _copy)
        elif self.offline:
            raise Lacking(f"not asked, since {OFFLINE_VARIABLE} is set")
        else:
            url = f"{mirror.rstrip('/')}/{file.name}"
            _retrieve(url, file, path, fetch_http)


def _retrieve(
    url: str, file: RemoteFile, path: Path, fill: Callable[[str, RemoteFile, Path], None]
) -> None:
    """Have ``fill(url, file, part)`` bring a verified part, and make it the file."""
    part = part_of(path)

    def downloader(url: str, output_file: str, _: Any) -> None:
        # A process that is killed from here on leaves the part, and no empty file of pooch's.
        Path(output_file).unlink()
        fill(url, file, part)
        part.replace(output_file)

    pooch.get_logger().setLevel("ERROR")  # The user hears of it from the progress bar.
    known = f"sha256:{file.sha256}" if file.sha256 else None
    pooch.retrieve(url, known, fname=path.name, path=path.parent, downloader=downloader)


def _copy(source: str, file: RemoteFile, part: Path) -> None:
    """Copy from a folder. Nothing in a mirror is used in place: what is kept here must not
    depend on it."""
    if not Path(source).is_file():
        raise Lacking("no such file")
    try:
        Path(source).open("rb").close()
    except OSError as error:
        raise Lacking(f"cannot be read ({error.strerror})") from None
    shutil.copyfile(source, part)
    try:
        check(file, part)
    except Wrong:
        part.unlink()
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock; say so where that takes waiting."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _warn(f"waiting for another process that fetches {path}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _is_url(place: str) -> bool:
    return re.match("https?://", place, re.IGNORECASE) is not None


def _shown(place: str) -> str:
    """An address without the user name and password that may stand in it."""
    return re.sub(r"(?<=://)[^/]*@", "", place) if _is_url(place) else place


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
