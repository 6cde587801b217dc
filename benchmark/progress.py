"""Progress of one cell: a bar with the time left, or a small file that the scheduler reads."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmark import mps
from benchmark.store import write_text

FILE_VARIABLE = "DIGER_BENCH_PROGRESS_FILE"
PARENT_VARIABLE = "DIGER_BENCH_PARENT"
#: Less than a run waits for a cell of a scheduler that is gone.
END_SECONDS = 5.0


def end_with_scheduler() -> None:
    """End this process soon after the scheduler that started it, if one did.

    A cell that lived on after a kill -9 of its scheduler would be in the way of the same command
    started again. What it loses, at most an epoch, the next start does again.
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(0.5)
        if mps.in_use():  # others may share the GPU
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(END_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Bar:
    """Shows (done, total, unit, note) on standard error; one bar per phase of the work."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None
        self._unit: str | None = None

    def __call__(self, done: int, total: int, unit: str, note: str = "") -> None:
        if self._unit != unit:
            self.close()
            # In a log file a line now and then is enough.
            pause = 0.2 if sys.stderr.isatty() else 15.0
            self._bar = tqdm(
                total=total, unit=unit, desc=self._label, initial=done, mininterval=pause
            )
            self._unit = unit
        self._bar.total = total  # a phase may find out that it ends sooner
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._unit = None, None


class File:
    """Writes the same facts to a file, at most twice a second."""

    def __init__(self, path: Path) -> None:
        self._path, self._last = path, 0.0

    def __call__(self, done: int, total: int, unit: str, note: str = "") -> None:
        now = time.monotonic()
        if now - self._last < 0.5 and done < total:
            return
        self._last = now
        write_text(
            self._path, json.dumps({"done": done, "total": total, "unit": unit, "note": note})
        )

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


def make_progress(label: str) -> Bar | File:
    path = os.environ.get(FILE_VARIABLE)
    return File(Path(path)) if path else Bar(label)
