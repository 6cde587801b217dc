"""Import a bundle: check all of it, then put its cells into a store.

Nothing is written to the store before every file has been checked, and nothing of the bundle is
opened but its two kinds of JSON: no array, no table and no pickle is read here. A cell is moved
into its place as a whole, so that an interrupted import is gone on with by the same command.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from benchmark import store
from benchmark.errors import UserError
from benchmark.export.manifest import (
    MANIFEST,
    MANIFEST_LIMIT,
    RUNS,
    CellEntry,
    Entry,
    Manifest,
    cell_entry,
    read_manifest,
    report_versions,
    split_path,
)
from benchmark.kept import RECORD, kept_files, kept_record
from benchmark.store import StoredRun, sha256_file

BLOCK = 2**20
#: What zipfile raises for files that are cut, changed or made to be odd.
BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, ValueError,
          KeyError, struct.error, RuntimeError, OverflowError)  # fmt: skip
Progress = Callable[[int, int, str], None]


class Imported(NamedTuple):
    """What an import did.

    Attributes:
        imported, present: cells put into the store, and cells that were there with equal content.
        command: made the bundle.
        report: the arguments, besides the store, that report the same runs; may be empty.
        differences: a line for each version here that is another than there, where reports can
            differ in their bytes.
    """

    imported: int
    present: int
    command: str
    report: str
    differences: list[str]


def import_bundle(
    path: Path, target: Path, sha256: str | None = None, progress: Progress | None = None
) -> Imported:
    """Put the bundle's runs into the store ``target``, which is made if it is not there.

    Args:
        sha256: checksum that the file must have; None: its own checksums must do.

    Raises:
        UserError: the file is no whole bundle, holds what a bundle cannot hold, or a cell that the
            store has with other content. The store is then as it was.
    """
    if not path.is_file():
        raise UserError(f"no bundle {path}; name a file with import=")
    if sha256 is not None and sha256_file(path) != sha256.strip().lower():
        raise UserError(f"{path} does not have the given sha256; get it again")
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is not a folder; name another with store=")
    try:
        with zipfile.ZipFile(path) as bundle:
            manifest = _manifest(bundle, path)
            with _staging(target) as staging:
                for number, entry in enumerate(manifest.files, 1):
                    _extract(bundle, entry, staging, path)
                    if progress is not None:
                        progress(number, len(manifest.files), "file")
                present = _check_cells(manifest, staging, target, path)
                return _put(manifest, staging, target, present)
    except BROKEN as error:
        raise UserError(f"{path} is not a whole bundle ({error}); get it again") from None


def _manifest(bundle: zipfile.ZipFile, path: Path) -> Manifest:
    """The manifest, after a check that the zip file has what it names and nothing else."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in bundle.infolist():
        mode = stat.S_IFMT(info.external_attr >> 16)
        if info.orig_filename != info.filename or mode not in (0, stat.S_IFREG) or info.is_dir():
            raise UserError(f"{path}: {info.orig_filename!r} is not a plain file; get it again")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise UserError(f"{path}: {info.filename!r} is compressed or encrypted, and nothing "
                            "in a bundle is; get it again")  # fmt: skip
        if info.filename in found:
            raise UserError(f"{path}: {info.filename} is there twice; get the bundle again")
        found[info.filename] = info
    if sum(info.file_size for info in found.values()) > path.stat().st_size:
        raise UserError(f"{path} says it holds more than its own size; get it again")
    if MANIFEST not in found or found[MANIFEST].file_size > MANIFEST_LIMIT:
        raise UserError(f"{path} has no {MANIFEST}, or one that is too large: it is no bundle")
    with bundle.open(MANIFEST) as file:
        manifest = read_manifest(file.read(MANIFEST_LIMIT + 1), path)
    wanted = {entry.path: entry.bytes for entry in manifest.files}
    for name in sorted(wanted.keys() ^ (found.keys() - {MANIFEST})):
        where = "the manifest but not in the file" if name in wanted else "the file only"
        raise UserError(f"{path}: {name!r} is in {where}; get the bundle again")
    for name, size in wanted.items():
        if found[name].file_size != size:
            raise UserError(f"{path}: {name} does not have the size in the manifest; get it again")
    return manifest


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A folder of its own among the cells, which no report looks into; what was made for it is
    gone at the end if nothing was put into the store."""
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    target.mkdir(parents=True, exist_ok=True)
    lock, staging = target / ".import.lock", target / ".import"
    try:
        with FileLock(lock, timeout=0):
            try:
                shutil.rmtree(staging, ignore_errors=True)  # of an import that was killed
                staging.mkdir()
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
                lock.unlink(missing_ok=True)
    except Timeout:
        raise UserError(f"another import into {target} is running; wait for it") from None
    finally:
        for folder in made:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


def _extract(bundle: zipfile.ZipFile, entry: Entry, staging: Path, path: Path) -> None:
    """Write one file of the size and checksum that the manifest gives it."""
    target = staging / entry.path.removeprefix(RUNS)
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), entry.bytes
    with bundle.open(entry.path) as source, target.open("xb") as file:
        while block := source.read(BLOCK):
            left -= len(block)
            if left < 0:
                break
            digest.update(block)
            file.write(block)
    if left or digest.hexdigest() != entry.sha256:
        raise UserError(f"{path}: {entry.path} does not have the checksum in the manifest; "
                        "get the bundle again")  # fmt: skip


def _check_cells(manifest: Manifest, staging: Path, target: Path, path: Path) -> set[CellEntry]:
    """Check each cell's record, and that the store has it not, or the same; those it has."""
    files: dict[str, dict[str, str]] = {cell.path: {} for cell in manifest.cells}
    for entry in manifest.files:
        cell_path, name = split_path(entry.path) or ("", "")
        files[cell_path][name] = entry.sha256
    present = set()
    for cell in manifest.cells:
        staged = staging / cell.path
        record = _record(staged, cell, files[cell.path], path)
        there = target / cell.path
        if there.is_symlink() or there.exists():
            if not _same(there, files[cell.path], record):
                raise UserError(
                    f"{there} is there already with other content; import into another store="
                )
            present.add(cell)
    return present


def _record(staged: Path, cell: CellEntry, files: dict[str, str], path: Path) -> dict[str, Any]:
    """run.json of a staged cell: done, of this cell, and of one mind with the manifest."""
    try:
        record = store.read_run_json(staged) or {}
        own, sums = cell_entry(StoredRun(staged, record)), dict(record.get("sha256") or {})
    except (UserError, TypeError, ValueError, AttributeError):
        own, sums = None, {}
    done = own == cell and record.get("status") == "done" and "metrics.parquet" in sums
    if not done or any(files.get(name) != digest for name, digest in sums.items()):
        raise UserError(
            f"{path}: {cell.path}/{RECORD} is not that of this run, finished and with the files "
            "that are there; get the bundle again"
        )
    return record


def _same(there: Path, files: dict[str, str], record: dict[str, Any]) -> bool:
    """Whether the store's own cell is finished and would have been bundled as the same files."""
    try:
        if there.is_symlink() or not store.is_done(there):
            return False
        if kept_record(there) != record:
            return False
    except (UserError, OSError, ValueError, KeyError):
        return False
    own = {name: sha256_file(there / name) for name in kept_files(there)}
    return own == {name: digest for name, digest in files.items() if name != RECORD}


def _put(manifest: Manifest, staging: Path, target: Path, present: set[CellEntry]) -> Imported:
    """Move the cells that the store has not into their places."""
    new = [cell for cell in manifest.cells if cell not in present]
    for cell in new:
        place = target / cell.path
        place.parent.mkdir(parents=True, exist_ok=True)
        (staging / cell.path).rename(place)
    here, there = report_versions(), manifest.made_by.get("versions")
    lines = [
        f"{name} is {here[name]} here, {_line(version)} there: reports may differ in bytes"
        for name, version in (there.items() if isinstance(there, dict) else [])
        if name in here and here[name] != version
    ]
    made_by = {key: _line(manifest.made_by.get(key)) for key in ("command", "report")}
    return Imported(len(new), len(present), made_by["command"], made_by["report"], lines)


def _line(words: Any) -> str:
    """Words of a manifest, or a list of them, as a line that is safe to print."""
    text = " ".join(map(str, words)) if isinstance(words, list) else str(words or "")
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
