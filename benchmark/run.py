"""Run one cell: ``python -m benchmark.run dataset=ml-100k method=diger_frqud seed=0``.

With Hydra's ``-m``, a grid: ``python -m benchmark.run -m method=tiger,diger_frqud seed=0,1``.
A finished cell is skipped; an interrupted one goes on. Bad input: one line, exit code 2.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from benchmark import mps, provenance, store
from benchmark.config import Settings, build_method, check_cell, expand_sweep, settings_from
from benchmark.data.prepare import Prepared, prepare
from benchmark.errors import UserError
from benchmark.execution import begin
from benchmark.guard import guard
from benchmark.metrics import coverage, per_user_frame
from benchmark.progress import end_with_scheduler, make_progress
from benchmark.recommender import Ranking, Recommender

# A run whose scheduler was killed needs a moment to notice and let go of its cell.
LOCK_SECONDS = 10
CACHE_OPTION = "cache= or DIGER_BENCH_CACHE"
RANK_BATCH = 4096  # users a call of rank(), a bound on memory


def resolve_device(device: str) -> str:
    """``auto`` becomes cuda where there is one. Raises UserError for a cuda that is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no GPU here; use device=cpu or device=auto")
    return device


def limit_threads(threads: int) -> None:
    """Hold torch, BLAS and OpenMP to ``threads``: cells run side by side, and sums whose order
    depends on the number of threads would differ."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(limits=threads)


def check_writable(folder: Path, option: str = "results=") -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror}); choose another folder with {option}"
        ) from None


def seen_rule(settings: Settings, method: Recommender) -> bool:
    """Whether seen items are left out: as the settings say or, where they do not, the method."""
    return method.excludes_seen if settings.exclude_seen is None else settings.exclude_seen


@contextmanager
def method_errors(name: str) -> Iterator[None]:
    """What a method finds out about its settings on the data is bad input, in one line; it says
    so by the mark ``bad_setting``."""
    try:
        yield
    except ValueError as error:
        if getattr(error, "bad_setting", False):
            raise UserError(f"method {name}: {error}") from None
        raise


@contextmanager
def visit(
    settings: Settings, method: Recommender, label: str
) -> Iterator[tuple[Prepared, store.RunFolder]]:
    """Data with vectors and a run that leaves nothing behind but the cache, for commands that
    look at a part of a method; on the run's device, with its threads, progress and errors."""
    check_writable(settings.cache, CACHE_OPTION)
    device = resolve_device(settings.device)
    execution = settings.execution.on(device)
    limit_threads(settings.threads)
    begin(execution, device)
    protocol = settings.protocol
    prepared = prepare(
        settings.dataset, protocol.max_history, protocol.train_prefixes, settings.cache,
        need="vectors", options=settings.embedding,
    )  # fmt: skip
    progress = make_progress(label)
    try:
        with method_errors(settings.method_name), tempfile.TemporaryDirectory() as folder:
            exclude = seen_rule(settings, method)
            yield (
                prepared,
                store.RunFolder(Path(folder), settings.cache, device, progress, exclude, execution),
            )
    finally:
        progress.close()


def check_ranking(ranking: Ranking, n_users: int, n_items: int, k: int) -> None:
    """The harness trusts no method: shapes, range, distinct items, order.

    Raises:
        ValueError: the method broke the interface's contract.
    """
    items, scores = ranking
    if items.shape != (n_users, k) or scores.shape != (n_users, k):
        raise ValueError(f"expected lists of shape {(n_users, k)}, got {items.shape}")
    if items.min() < -1 or items.max() >= n_items:
        raise ValueError("a list names an item outside the catalogue")
    listed = items >= 0
    if np.isnan(scores).any() or not np.isfinite(scores[listed]).all():
        raise ValueError("a listed item has no finite score")
    if (listed[:, 1:] & ~listed[:, :-1]).any():
        raise ValueError("a list has a hole")
    if (np.diff(scores, axis=1)[listed[:, 1:]] > 0).any():
        raise ValueError("a list is not sorted by score")
    ordered = np.sort(items, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("a list names an item twice")


def rank_all(method: Recommender, prepared: Prepared, k: int, exclude_seen: bool) -> Ranking:
    """Test lists of every user, in user order, checked."""
    split = prepared.data.split
    parts = [
        method.rank(prepared.data, users, k, "test", exclude_seen)
        for users in np.split(
            np.arange(split.n_users), range(RANK_BATCH, split.n_users, RANK_BATCH)
        )
    ]
    ranking = Ranking(np.concatenate([p.items for p in parts]),
                      np.concatenate([p.scores for p in parts]))  # fmt: skip
    check_ranking(ranking, split.n_users, split.n_items, k)
    return ranking


def ranks_frame(ranking: Ranking) -> pd.DataFrame:
    """Columns user, rank (from 1), item, score; users without a list have no rows."""
    users, columns = np.nonzero(ranking.items >= 0)
    return pd.DataFrame(
        {
            "user": users.astype(np.int32),
            "rank": (columns + 1).astype(np.int32),
            "item": ranking.items[users, columns],
            "score": ranking.scores[users, columns],
        }
    )


def run_cell(settings: Settings, say: Callable[[str], None] = print) -> Path:
    """Run a cell to its end, or find it done; returns its folder.

    Raises:
        UserError: bad input, a damaged result, or another process at work on the same cell.
    """
    method = build_method(settings)
    check_writable(settings.results)
    check_writable(settings.cache, CACHE_OPTION)
    cell, folder = settings.cell, settings.cell.folder
    if store.is_done(folder):
        say(f"done before: {cell}")
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=LOCK_SECONDS):
            if not store.is_done(folder):
                _run(settings, method, folder)
    except Timeout:
        raise UserError(f"another process is running {cell}; wait for it or stop it") from None
    say(f"done: {cell}")
    return folder


def _run(settings: Settings, method: Recommender, folder: Path) -> None:
    for leftover in folder.rglob(".*.tmp"):  # half-written files of a run that was killed
        leftover.unlink()
    device = resolve_device(settings.device)
    execution = settings.execution.on(device)
    limit_threads(settings.threads)
    executed = begin(execution, device)
    protocol = settings.protocol
    prepared = prepare(
        settings.dataset, protocol.max_history, protocol.train_prefixes, settings.cache,
        need="vectors" if method.needs_text else "rows", options=settings.embedding,
    )  # fmt: skip
    if protocol.top_k > prepared.data.split.n_items:
        raise UserError(
            f"protocol.top_k {protocol.top_k} is more than the {prepared.data.split.n_items} "
            "items of the data set; lower protocol.top_k and protocol.ks"
        )
    exclude = seen_rule(settings, method)
    record = _record(settings, prepared, exclude, device, folder) | {"execution": executed}
    store.write_json(folder / "run.json", record)
    identity = OmegaConf.create({**settings.identity, "seed": settings.seed})
    store.write_text(folder / "config.yaml", OmegaConf.to_yaml(identity))
    earlier = sum(row.get("seconds", 0.0) for row in store.StoredRun(folder, {}).train_log())
    started = time.perf_counter()
    progress = make_progress(f"{settings.method_name} seed {settings.seed}")
    try:
        with method_errors(settings.method_name):
            run = store.RunFolder(folder, settings.cache, device, progress, exclude, execution)
            method.fit(prepared.data, settings.seed, run)
    finally:
        progress.close()
    fitted = time.perf_counter()
    ranking = rank_all(method, prepared, protocol.top_k, exclude)
    ranked = time.perf_counter()
    _store(settings, method, prepared, ranking, folder, record)
    record["status"] = "done"
    # What cells share (the tokenizer) is not charged to whichever came first; the epochs before
    # an interruption count, the part of an epoch that was lost with it does not.
    shared = float(record["describe"].get("shared_seconds", 0.0))
    record["seconds"] = {
        "fit": earlier + fitted - started - shared,
        "shared": shared,
        "earlier": earlier,
        "rank": ranked - fitted,
    }
    record["peak_memory_bytes"] = provenance.peak_memory_bytes()
    record["peak_device_bytes"] = provenance.peak_device_bytes(device)
    store.write_json(folder / "run.json", record)
    for leftover in folder.glob("checkpoint*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _record(
    settings: Settings, prepared: Prepared, exclude_seen: bool, device: str, folder: Path
) -> dict[str, Any]:
    """What run.json says of a cell before it is run: settings, data, provenance."""
    protocol = settings.protocol
    before = store.read_run_json(folder) or {}
    git = provenance.git_state()
    return {
        "status": "running",
        "starts": int(before.get("starts", 0)) + 1,
        "commits": sorted({*before.get("commits", []), str(git["commit"])}),
        "dataset": settings.dataset.store_name,
        "dataset_info": prepared.manifest,
        "counts": prepared.manifest["counts"],
        "method": settings.method_name,
        "method_label": settings.method_label,
        "seed": settings.seed,
        "config_sha256": settings.cell.config_sha256,
        "split_sha256": prepared.data.split.sha256,
        "embeddings_sha256": prepared.data.embeddings_sha256,
        "exclude_seen": exclude_seen,
        "tuning": dict(settings.tuning),
        "protocol": {**vars(protocol), "ks": list(protocol.ks), "users": settings.dataset.users},
        "git": git,
        "versions": provenance.versions(),
        "device": provenance.device_facts(device, settings.threads),
    }


def _store(
    settings: Settings,
    method: Recommender,
    prepared: Prepared,
    ranking: Ranking,
    folder: Path,
    record: dict[str, Any],
) -> None:
    """Write lists, metrics and semantic IDs, and what the lists say into the record."""
    protocol, split = settings.protocol, prepared.data.split
    sids = method.semantic_ids()
    if sids is not None:
        store.write_npy(folder / "sids.npy", sids.astype(np.int32))
    store.write_parquet(folder / "ranks.parquet", ranks_frame(ranking))
    users = np.arange(split.n_users)
    frame = per_user_frame(
        users, ranking.items, split.targets("test"), tuple(protocol.ks),
        None if sids is None else sids[:, :-1],
    )  # fmt: skip
    store.write_parquet(folder / "metrics.parquet", frame)
    record["describe"] = method.describe()
    listed = (ranking.items >= 0).sum(axis=1)
    record["missing_users"] = int((listed == 0).sum())
    record["short_lists"] = int((listed < protocol.top_k).sum())
    record["coverage"] = {str(k): coverage(ranking.items, split.n_items, k) for k in protocol.ks}
    present = [name for name in store.CHECKED_FILES if (folder / name).exists()]
    record["sha256"] = {name: store.sha256_file(folder / name) for name in present}


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def hydra_main(config: DictConfig) -> None:
    guard(lambda: print(run_cell(settings_from(config))))


def check_command_line(arguments: list[str]) -> None:
    """Check every cell that the command line names, before the first one starts."""
    parsed = get_args_parser().parse_args(arguments)
    if parsed.help or parsed.hydra_help or parsed.cfg or parsed.info:
        return
    cells = expand_sweep(parsed.overrides) if parsed.multirun else [parsed.overrides]
    for overrides in cells:
        check_cell(overrides)


def main() -> None:
    end_with_scheduler()
    with mps.ended_between_kernels():
        guard(lambda: check_command_line(sys.argv[1:]))
        guard(hydra_main)


if __name__ == "__main__":
    main()
