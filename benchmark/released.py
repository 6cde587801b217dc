"""The authors' released files: ``python -m benchmark.released``.

    dataset=beauty               is our leave-one-out of LETTER's interactions the released split?
    checkpoint=beauty            fetch the released RQ-VAE, load it safely and say what is in it
    checkpoint=FILE sha256=SUM   the same for a file of your own

Exit code 0: the splits are equal, or the checkpoint is loaded; 2: they differ, or a file cannot be
had or is refused. ``dataset.``-options are those of the released data set (dataset.source.hub=URL);
a checkpoint knows hub=URL.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.config import Settings, compose_config, settings_from
from benchmark.data.checkpoint import HUB, checkpoint_records, fetch_checkpoint, load_checkpoint
from benchmark.data.download import Downloads
from benchmark.data.interactions import canonical
from benchmark.data.release import DigerRelease
from benchmark.data.release_rows import CUT, PhaseRows, compare_rows, split_rows
from benchmark.data.sources import open_source
from benchmark.errors import UserError
from benchmark.guard import guard


def our_rows(settings: Settings, downloads: Downloads) -> PhaseRows:
    """The leave-one-out rows of a data set of LETTER, items by LETTER's index."""
    data = canonical(open_source(settings.dataset.source).read_rows(downloads))
    number = [int(token) for token in data.item_tokens]
    return PhaseRows(
        *(
            [(tuple(number[item] for item in history), number[target]) for history, target in rows]
            for rows in split_rows(data.split(CUT))
        )
    )


def compare(name: str, overrides: Sequence[str]) -> bool:
    """Print how the released split of a data set differs from ours; whether they are equal."""
    # Both are composed before anything is read, so that a wrong option costs no time.
    general = [text for text in overrides if not text.lstrip("+~").startswith("dataset.")]
    settings = settings_from(compose_config([f"dataset={name}", *general]))
    released = settings_from(compose_config([f"dataset={name}/released", *overrides]))
    source = open_source(released.dataset.source)
    if not isinstance(source, DigerRelease):
        raise UserError(f"no released splits of {name} are on record: there is nothing to compare")
    downloads = Downloads.from_environment(settings.cache)
    theirs = source.read_phases(downloads)
    print(f"{settings.dataset.label}: leave-one-out of LETTER's interactions against the release")
    columns = ("rows", "ours", "theirs", "in both", "only ours", "only theirs")
    print("".join(f"{column:>13}" for column in columns))
    n_different = 0
    for phase, n_ours, n_theirs, only_ours, only_theirs in compare_rows(
        our_rows(settings, downloads), theirs
    ):
        own, other = only_ours.total(), only_theirs.total()
        counts = (n_ours, n_theirs, n_ours - own, own, other)
        print(f"{phase:>13}" + "".join(f"{count:>13,}" for count in counts))
        n_different += own + other
    if n_different:
        print(f"not the same: {n_different:,} rows are in one of them only")
    else:
        print("the same: every row of one is in the other, as often")
    return n_different == 0


def show_checkpoint(name: str, overrides: Sequence[str]) -> None:
    """Load a checkpoint, by the data set's name or by its path, and print what is in it."""
    options, general = {"sha256": "", "hub": os.environ.get("HF_ENDPOINT") or HUB}, []
    for text in overrides:
        key, _, value = text.partition("=")
        if key in options:
            options[key] = value
        else:
            general.append(text)
    trusted = [options["sha256"]] if options["sha256"] else []
    if trusted and not re.fullmatch("[0-9a-f]{64}", trusted[0]):
        raise UserError(f"sha256 must be 64 hexadecimal digits, not {trusted[0]!r}")
    settings = settings_from(compose_config(general))
    if Path(name).is_file():
        paths = [Path(name)]
    else:
        downloads = Downloads.from_environment(settings.cache)
        paths = fetch_checkpoint(name, downloads, options["hub"], trusted)
    for record in checkpoint_records().values():
        trusted += record.sha256
    for path in paths:
        checkpoint = load_checkpoint(path, trusted)
        print(f"{path}: sha256 {checkpoint.sha256}")
        for key, value in sorted(checkpoint.settings.items()):
            print(f"  {_shown(key)} = {value!r}")
        for key, tensor in checkpoint.state.items():
            print(
                f"  {_shown(key)}: {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            )


def _shown(key: str) -> str:
    """A name out of somebody's file, without what would move a terminal's cursor."""
    return key if key.isprintable() else repr(key)


def main(arguments: Sequence[str]) -> None:
    """Do what the command line says; a difference ends with exit code 2."""
    for text in arguments:
        key, _, value = text.partition("=")
        others = [other for other in arguments if other != text]
        if key == "dataset" and value:
            if not compare(value.removesuffix("/released"), others):
                raise SystemExit(2)
            return
        if key == "checkpoint" and value:
            show_checkpoint(value, others)
            return
    raise UserError("name a data set, dataset=beauty, or a checkpoint, checkpoint=beauty")


if __name__ == "__main__":
    guard(lambda: main(sys.argv[1:]), __doc__)
