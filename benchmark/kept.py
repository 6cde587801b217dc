"""What of a cell a report needs: the files that are published and that a bundle carries.

Ranked lists, kept IDs of all epochs but the last and checkpoints stay behind.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmark import store

KEPT = ("config.yaml", "metrics.parquet", "train.jsonl", "sids.npy")
RECORD = "run.json"


def kept_files(folder: Path) -> list[str]:
    """Those of a cell's files that a report needs and that are there, but for ``run.json``: paths
    relative to the folder, with slashes."""
    last = store.last_sids(folder)
    names = [*KEPT, *([] if last is None else [last.relative_to(folder).as_posix()])]
    return [name for name in names if (folder / name).exists()]


def kept_record(folder: Path) -> dict[str, Any]:
    """run.json of a finished cell, without the checksum of lists that are not kept: nobody should
    look for them."""
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    record["sha256"].pop("ranks.parquet", None)
    return record
