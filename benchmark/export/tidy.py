"""Per-user metrics of many runs as tidy files: ``metrics.parquet``, ``metrics.csv``, ``runs.*``.

One row a value. Users, zeros for missing ones, labels and notes are those of the reports
(``benchmark.aggregate``), and runs that a report would refuse to compare are refused. One data set
is in memory at a time, and rows are written run by run. Equal runs give equal bytes.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from benchmark.aggregate import DatasetResults, MethodRuns, aggregate
from benchmark.errors import UserError
from benchmark.export.summary import pairs_of, readme, run_row, run_table
from benchmark.store import StoredRun, atomic, write_parquet, write_text

#: How metrics.csv is written. A full experiment has 81 million rows, 6.4 GB of plain text.
CSV_KINDS = {"gz": "metrics.csv.gz", "plain": "metrics.csv", "none": None}
CONFIG_HASH = 12  # characters of a config hash, as in a cell's path

_WORD = pa.dictionary(pa.int32(), pa.string())  # in memory a number a row, in the file a string
SCHEMA = pa.schema(
    [
        ("dataset", _WORD), ("method", _WORD), ("config", _WORD), ("label", _WORD),
        ("seed", pa.int32()), ("user", pa.int32()), ("metric", _WORD), ("k", pa.int32()),
        ("value", pa.float64()),
    ]
)  # fmt: skip

Progress = Callable[[int, int, str], None]
Sink = Callable[[pa.Table], None]


def write_tidy(
    runs: Sequence[StoredRun],
    out: Path,
    command: str,
    method_order: Sequence[str] = (),
    csv: str = "gz",
    progress: Progress | None = None,
) -> list[Path]:
    """Write the runs' per-user metrics and a row on each run.

    Args:
        out: folder; files of the same names are replaced, together, once all are written.
        command: goes into the README.
        csv: ``gz``, ``plain`` or ``none``.
        progress: told (runs done, runs, unit).

    Returns:
        The files: ``metrics.parquet`` (a row group or more for each run), ``metrics.csv.gz`` or
        ``metrics.csv``, ``runs.parquet``, ``runs.csv`` and ``README.md``.

    Raises:
        UserError: no runs, runs that cannot be compared, or another ``csv``.
    """
    if csv not in CSV_KINDS:
        raise UserError(f"csv must be one of {', '.join(CSV_KINDS)}, got {csv!r}")
    if not runs:
        raise UserError("no finished runs to export; run the benchmark first")
    datasets: dict[str, list[StoredRun]] = {}
    for run in runs:
        datasets.setdefault(run.dataset, []).append(run)
    table = out / "metrics.parquet"
    text = None if CSV_KINDS[csv] is None else out / str(CSV_KINDS[csv])
    rows: list[dict[str, Any]] = []
    notes: dict[str, tuple[str, ...]] = {}
    with ExitStack() as files:
        sinks = [files.enter_context(_parquet(table))]
        sinks += [] if text is None else [files.enter_context(_csv(text))]
        for name in sorted(datasets):
            # In a function of its own, so that each data set is gone before the next one comes.
            notes[name], found = _write_dataset(
                datasets[name], method_order, sinks, partial(_tell, progress, len(rows), len(runs))
            )
            rows += found
    for other in CSV_KINDS.values():
        if other is not None and (text is None or other != text.name):
            (out / other).unlink(missing_ok=True)  # of an earlier export: it may say otherwise
    summary = run_table(rows)
    write_parquet(out / "runs.parquet", summary)
    write_text(out / "runs.csv", summary.to_csv(index=False, lineterminator="\n"))
    written = [table, *([] if text is None else [text]), out / "runs.parquet", out / "runs.csv"]
    write_text(out / "README.md", readme(command, written, len(rows), notes))
    return [*written, out / "README.md"]


def _write_dataset(
    runs: list[StoredRun], method_order: Sequence[str], sinks: Sequence[Sink],
    tell: Callable[[int], None],
) -> tuple[tuple[str, ...], list[dict[str, Any]]]:  # fmt: skip
    """Write one data set's runs to the sinks; its notes, and a row on each run."""
    (result,) = aggregate(runs, method_order).values()
    rows = []
    for method in result.methods:
        for run, frame in zip(method.runs, method.per_seed, strict=True):
            table = tidy_rows(result, method, run, frame)
            for sink in sinks:
                sink(table)
            rows.append(run_row(result, method, run, frame))
            tell(len(rows))
    return result.notes, rows


def _tell(progress: Progress | None, before: int, total: int, done: int) -> None:
    if progress is not None:
        progress(before + done, total, "run")


def tidy_rows(
    result: DatasetResults, method: MethodRuns, run: StoredRun, frame: pd.DataFrame
) -> pa.Table:
    """One run's values [n_users x (metric, k)] as rows of ``SCHEMA``, by metric, k and user."""
    pairs = pairs_of(frame)
    users, n = len(frame), frame.size

    def constant(word: str) -> pa.Array:
        return _words(np.zeros(n, dtype=np.int32), [word])

    columns = [
        constant(result.dataset), constant(method.method),
        constant(run.config_sha256[:CONFIG_HASH]), constant(method.label),
        pa.array(np.full(n, run.seed, dtype=np.int32)),
        pa.array(np.tile(frame.index.to_numpy(dtype=np.int32), len(pairs))),
        _words(np.repeat(np.arange(len(pairs), dtype=np.int32), users), [m for m, _ in pairs]),
        pa.array(np.repeat(np.array([k for _, k in pairs], dtype=np.int32), users)),
        pa.array(frame.to_numpy(dtype=np.float64).T.reshape(-1)),
    ]  # fmt: skip
    return pa.table(columns, schema=SCHEMA)


def _words(places: np.ndarray[Any, np.dtype[np.int32]], words: Sequence[str]) -> pa.Array:
    """Words by their places in a list that may name one twice."""
    distinct = list(dict.fromkeys(words))
    to = np.array([distinct.index(word) for word in words], dtype=np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(to[places]), pa.array(distinct, pa.string()))


@contextmanager
def _parquet(path: Path) -> Iterator[Sink]:
    with atomic(path) as temporary, pq.ParquetWriter(
        temporary, SCHEMA, compression="zstd"
    ) as writer:  # fmt: skip
        yield writer.write_table


@contextmanager
def _csv(path: Path) -> Iterator[Sink]:
    """Numbers are written so that they are read back as the same float64."""
    with ExitStack() as files:
        file: IO[bytes] = files.enter_context(files.enter_context(atomic(path)).open("wb"))
        stream: IO[bytes] = file
        if path.suffix == ".gz":  # no name and no time in it; most of the text repeats itself
            zipped = gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0)
            stream = cast(IO[bytes], files.enter_context(zipped))
        stream.write((",".join(f'"{name}"' for name in SCHEMA.names) + "\n").encode())
        options = pyarrow.csv.WriteOptions(include_header=False)

        def write(rows: pa.Table) -> None:
            buffer = pa.BufferOutputStream()
            pyarrow.csv.write_csv(rows, buffer, options)
            stream.write(buffer.getvalue())

        yield write
