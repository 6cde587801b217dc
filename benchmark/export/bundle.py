"""Write a bundle: what a report needs of each run, with sizes and checksums, in one zip file."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmark.errors import UserError
from benchmark.export.manifest import MANIFEST, RUNS, Entry, Manifest, cell_entry, made_by
from benchmark.kept import RECORD, kept_files, kept_record
from benchmark.store import StoredRun, atomic, sha256_file

#: Of every entry: the earliest time a zip file can name, a file that its owner may write.
WHEN = (1980, 1, 1, 0, 0, 0)
MODE = 0o100644 << 16
UNIX = 3


def write_bundle(
    runs: Sequence[StoredRun],
    path: Path,
    command: str,
    report: Sequence[str] = (),
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Write the runs to ``path``, and return it; ``report`` are the arguments, besides the store,
    of the report on them.

    The same runs give the same bytes, in any order and on any machine, but for what the manifest
    says of how it was made: command, commit and versions.

    Raises:
        UserError: no runs, one cell twice, or a file that changes meanwhile.
    """
    if not runs:
        raise UserError("no finished runs to bundle; run the benchmark first")
    cells = {cell_entry(run): run for run in runs}
    ordered = sorted(cells, key=lambda cell: cell.path)
    if len(ordered) < len(runs) or len({cell.path for cell in ordered}) < len(ordered):
        raise UserError("a cell is there twice; bundle one results folder only")
    entries: list[Entry] = []
    sources: dict[str, Path | bytes] = {}
    for cell in ordered:
        folder = cells[cell].folder
        record = json.dumps(kept_record(folder), indent=2, sort_keys=True) + "\n"
        sources[f"{RUNS}{cell.path}/{RECORD}"] = record.encode()
        for name in sorted(kept_files(folder)):
            sources[f"{RUNS}{cell.path}/{name}"] = folder / name
    for name, source in sources.items():
        entries.append(_entry(name, source))
    manifest = Manifest(made_by(command, report), tuple(ordered), tuple(entries))
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as bundle:
        bundle.writestr(_info(MANIFEST), manifest.as_text())
        for number, entry in enumerate(entries, 1):
            _add(bundle, entry, sources[entry.path])
            if progress is not None:
                progress(number, len(entries), "file")
    return path


def _entry(name: str, source: Path | bytes) -> Entry:
    if isinstance(source, bytes):
        return Entry(name, len(source), hashlib.sha256(source).hexdigest())
    return Entry(name, source.stat().st_size, sha256_file(source))


def _info(name: str, size: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, WHEN)
    info.compress_type, info.external_attr, info.create_system = zipfile.ZIP_STORED, MODE, UNIX
    info.file_size = size
    return info


def _add(bundle: zipfile.ZipFile, entry: Entry, source: Path | bytes) -> None:
    if isinstance(source, bytes):
        bundle.writestr(_info(entry.path), source)
        return
    with source.open("rb") as file, bundle.open(_info(entry.path, entry.bytes), "w") as target:
        shutil.copyfileobj(file, target, 2**20)
    if bundle.getinfo(entry.path).file_size != entry.bytes:
        raise UserError(f"{source} was changed while it was bundled; run the command again")
