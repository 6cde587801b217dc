"""Copy an experiment's finished runs to the published store: what a report needs, no more.

``python -m benchmark.publish experiment=ml-100k``. Ranked lists, kept IDs of all epochs but the
last and checkpoints stay behind; a cell that is published already is replaced.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark import store
from benchmark.errors import UserError
from benchmark.experiment import plan
from benchmark.guard import guard
from benchmark.kept import RECORD, kept_files, kept_record


def publish(arguments: Sequence[str], target: Path = Path("results/published")) -> list[Path]:
    """Copy every finished cell of the experiment named by ``experiment=``.

    Raises:
        UserError: no experiment named, or none of its cells is finished.
    """
    names = [a.removeprefix("experiment=") for a in arguments if a.startswith("experiment=")]
    if len(names) != 1:
        raise UserError("name one experiment to publish: experiment=ml-100k")
    overrides = [a for a in arguments if not a.startswith("experiment=")]
    copied = []
    for cell in plan(names[0], overrides, check=False):
        settings = cell.settings
        if not store.is_done(settings.cell.folder):
            continue
        source = settings.cell.folder
        folder = target / source.relative_to(settings.results)
        if folder.exists():
            shutil.rmtree(folder)
        for name in kept_files(source):
            with store.atomic(folder / name) as temporary:
                shutil.copyfile(source / name, temporary)
        store.write_json(folder / RECORD, kept_record(source))
        copied.append(folder)
    if not copied:
        raise UserError(f"no cell of {names[0]} is finished; run ./run_all.sh {names[0]} first")
    return copied


def main() -> None:
    guard(lambda: print(f"{len(publish(sys.argv[1:]))} runs published"), __doc__)


if __name__ == "__main__":
    main()
