"""Made-up runs, as many as a full experiment's: ``python -m benchmark.speed.synthetic_store``.

    store=FOLDER                                       where to write them; must not be there
    datasets=3 methods=12 seeds=5 users=30000 items=12000 epochs=60 seed=0      the sizes

Every file that a report reads is there, in the form in which the harness writes it: per-user values
at three cut-offs, code-level ones for the generative methods, logs of every epoch, semantic IDs of
3 x 256 codes, settings. The numbers mean nothing. Equal sizes give equal bytes. Exit code 2 for a
bad argument. Needs no torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmark import store
from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.metrics import CODE_LEVEL, frame_of_ranks
from benchmark.progress import make_progress
from benchmark.speed.synthetic import synthetic_sids

KS = (5, 10, 20)
LEVELS, CODES = 3, 256
HIT = 0.1  # mean chance that a target is in a list at all
TRAINING_SD = 0.03  # of a method's strength from one training to the next, relative
PAPERS = ("beauty", "instruments", "yelp")  # whose reported numbers stand beside the made-up ones


class Kind(NamedTuple):
    """A method of the store: whether it has semantic IDs, trains them, and by which noise."""

    name: str
    label: str
    generative: bool = True
    trains: bool = True


METHODS = (
    Kind("pop", "Pop", False), Kind("lightgcn", "LightGCN", False),
    Kind("sasrec_ce", "SASRec (CE)", False), Kind("sasrec_bce", "SASRec (BCE)", False),
    Kind("tiger", "TIGER (two-stage)", trains=False),
    Kind("letter_tiger", "LETTER (two-stage)", trains=False), Kind("ste", "STE"),
    Kind("gumbel", "Gumbel (no decay)"), Kind("diger_sdud", "DIGER (SDUD)"),
    Kind("diger_frqud", "DIGER (FrqUD)"), Kind("diger_sdud_frqud", "DIGER (SDUD + FrqUD)"),
    Kind("diger_frqud_detached", "DIGER (FrqUD, detached)"),
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How much there is of everything; ``seed`` decides the numbers."""

    datasets: int = 3
    methods: int = len(METHODS)
    seeds: int = 5
    users: int = 30_000
    items: int = 12_000
    epochs: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name == "seed" else 2 if name in ("users", "items") else 1
            if value < least:
                raise UserError(f"{name}={value} is too small; {least} is the least")
        if self.methods > len(METHODS):
            raise UserError(f"methods={self.methods} is too many; there are {len(METHODS)}")


def write_store(
    root: Path, sizes: Sizes, progress: Callable[[int, int, str], None] | None = None
) -> int:
    """Write every cell below ``root``; returns how many.

    Raises:
        UserError: ``root`` is there already.
    """
    if root.exists():
        raise UserError(f"{root} is there already; name a folder that is not with store=")
    total = sizes.datasets * sizes.methods * sizes.seeds
    done = 0
    for dataset in range(sizes.datasets):
        chance = _chances(sizes, dataset)
        for kind in METHODS[: sizes.methods]:
            for seed in range(sizes.seeds):
                _write_cell(root, sizes, dataset, kind, seed, chance)
                done += 1
                if progress is not None:
                    progress(done, total, "run")
    return total


def _chances(sizes: Sizes, dataset: int) -> NDArray[np.float64]:
    """float64 [users]: how likely each user's target is found by a method of strength 1.

    A beta distribution: for half the users next to none, as in real data, where the same users
    are hard for all methods.
    """
    rng = np.random.default_rng([sizes.seed, dataset])
    return rng.beta(2 * HIT / (1 - HIT), 2, sizes.users)


def _write_cell(
    root: Path, sizes: Sizes, dataset: int, kind: Kind, seed: int, chance: NDArray[np.float64]
) -> None:
    name, position = f"made-up-{dataset + 1}", METHODS.index(kind)
    identity = _identity(name, kind, sizes)
    cell = store.Cell(root, name, kind.name, store.sha256_json(identity), seed)
    folder = cell.folder
    rng = np.random.default_rng([sizes.seed, dataset, position, seed])
    strength = (0.6 + 0.4 * position / len(METHODS)) * (1 + TRAINING_SD * rng.standard_normal())
    ranks = np.where(rng.random(sizes.users) < strength * chance,
                     rng.integers(1, max(KS) + 1, sizes.users), 0)  # fmt: skip
    kinds = {"": ranks}
    if kind.generative:
        # A few more are hits where an item with the same codes counts.
        near = (ranks == 0) & (rng.random(sizes.users) < HIT * 0.05)
        kinds[CODE_LEVEL] = np.where(near, rng.integers(1, max(KS) + 1, sizes.users), ranks)
        sids = synthetic_sids(sizes.items, LEVELS, CODES, seed=int(rng.integers(2**31)))
        store.write_npy(folder / "sids.npy", sids)
        moved = np.roll(sids, int(rng.integers(1, sizes.items)), axis=0) if kind.trains else sids
        store.write_npy(folder / "sids" / f"epoch={sizes.epochs - 1:04d}.npy", moved)
    store.write_parquet(folder / "metrics.parquet", frame_of_ranks(
        np.arange(sizes.users, dtype=np.int64), kinds, KS))  # fmt: skip
    store.write_text(folder / "config.yaml", yaml.safe_dump({**identity, "seed": seed}))
    if kind.name != "pop":
        rows = [json.dumps(_epoch(rng, kind, strength, e)) for e in range(sizes.epochs)]
        store.write_text(folder / "train.jsonl", "\n".join(rows) + "\n")
    record = _record(cell, sizes, kind, PAPERS[dataset % len(PAPERS)], rng)
    record["sha256"] = {file: store.sha256_file(folder / file) for file in store.CHECKED_FILES
                        if (folder / file).exists()}  # fmt: skip
    store.write_json(folder / "run.json", record)


def _identity(dataset: str, kind: Kind, sizes: Sizes) -> dict[str, Any]:
    """What decides a result, in the form of config.yaml."""
    method: dict[str, Any] = {"_target_": f"made_up.{kind.name}"}
    if kind.generative:
        estimator: dict[str, Any] = {"tau": 1.0, "logit_scale": "gap", "gap_target": 8.0}
        if "sdud" in kind.name:
            estimator |= {"sigma_start": 1.0, "lambda_": 1.7}
        if "frqud" in kind.name:
            estimator |= {"r": 2.0}
        method |= {"levels": LEVELS, "codebook_size": CODES, "estimator": estimator,
                   "train": {"epochs": sizes.epochs}}  # fmt: skip
    return {
        "dataset": {"name": dataset, "users": None}, "method": method,
        "protocol": {"ks": list(KS), "top_k": max(KS), "max_history": 50, "train_prefixes": None},
        "exclude_seen": True,
    }  # fmt: skip


def _epoch(rng: np.random.Generator, kind: Kind, strength: float, epoch: int) -> dict[str, Any]:
    """A line of train.jsonl."""
    risen = 1 - 0.95 ** (epoch + 1)
    row: dict[str, Any] = {
        "epoch": epoch, "seconds": 10 + rng.random(), "loss/total": 5 - 2 * risen,
        "valid/ndcg@10": 0.05 * strength * risen + 0.001 * rng.random(),
        "valid/recall@10": 0.09 * strength * risen + 0.002 * rng.random(),
    }  # fmt: skip
    if not kind.generative:
        return row
    left = 0.9**epoch

    def levels(value: float, spread: float = 0.1) -> list[float]:
        return (value * (1 + spread * rng.random(LEVELS))).tolist()

    row |= {
        "loss/rec": 4 - risen, "loss/reconstruction": 8 * left, "loss/vq": 10 * left,
        "codes/used": rng.integers(CODES // 2, CODES + 1, LEVELS).tolist(),
        "codes/entropy": levels(5), "codes/perplexity": levels(150), "codes/balance": levels(0.7),
        "codes/collision_rate": 0.02 * rng.random(), "codes/largest_group": 4,
        "drift/full": left * kind.trains, "drift/level": levels(left * kind.trains, 0.5),
        "drift/sid": left * kind.trains, "snr": levels(0.5) if kind.trains else None,
        "grad/codebook": levels(0.3 * left * _reached(kind)), "grad/encoder": left * _reached(kind),
    }  # fmt: skip
    if "sdud" in kind.name:
        row |= {"sigma": levels(left), "noise_scale": levels(left)}
    if "frqud" in kind.name:
        row["hot_share"] = levels(0.1)
    return row


def _reached(kind: Kind) -> bool:
    """Whether the recommendation loss reaches the tokenizer."""
    return kind.trains and not kind.name.endswith("_detached")


def _audit(rng: np.random.Generator, kind: Kind) -> dict[str, Any]:
    def norms(on: bool) -> dict[str, Any]:
        return {"codebook": (on * (0.1 + rng.random(LEVELS))).tolist(),
                "encoder": on * (0.1 + rng.random()), "noise": None}  # fmt: skip

    found = {road: norms(_reached(kind)) for road in ("history", "input", "target", "rec")}
    if kind.trains:
        found |= {loss: norms(True) for loss in ("vq", "reconstruction")}
    return {"norms": found, "moved": ["codebooks", "encoder"] if kind.trains else [], "rows": 64}


def _record(
    cell: store.Cell, sizes: Sizes, kind: Kind, paper: str, rng: np.random.Generator
) -> dict[str, Any]:
    """run.json without the checksums."""
    describe: dict[str, Any] = {"parameters": int(rng.integers(10**6, 10**7)), "notes": [],
                                "best_epoch": sizes.epochs // 2}  # fmt: skip
    if kind.generative:
        describe |= {
            "assignment": "argmin" if kind.trains else "sinkhorn", "audit": _audit(rng, kind),
            "codebook_size": CODES, "levels": LEVELS, "logit_scale": "gap 8", "stopped": "",
            "trains_tokenizer": kind.trains,
        }  # fmt: skip
    counts = {"users": sizes.users, "items": sizes.items, "interactions": 9 * sizes.users,
              "train_rows": 6 * sizes.users, "valid_rows": sizes.users, "test_rows": sizes.users,
              "dropped_users": 0}  # fmt: skip
    return {
        "status": "done", "dataset": cell.dataset, "method": kind.name,
        "method_label": kind.label, "seed": cell.seed, "config_sha256": cell.config_sha256,
        "split_sha256": store.sha256_json(cell.dataset),
        "embeddings_sha256": "e" * 64 if kind.generative else None,
        "exclude_seen": True, "counts": counts,
        "protocol": {"name": "made-up", "max_history": 50, "train_prefixes": None, "users": None,
                     "top_k": max(KS), "ks": list(KS)},
        "dataset_info": {"label": f"Made up, as large as {paper.capitalize()}", "paper": paper,
                         "text_source": "none, made up", "encoder": "none, made up"},
        "git": {"commit": None, "dirty": None}, "versions": {},
        "device": {"kind": "none", "name": "none: made up", "threads": 1},
        "seconds": {"fit": 600 * (0.5 + rng.random()), "rank": 30 * (0.5 + rng.random())},
        "peak_memory_bytes": int(rng.integers(10**9, 2 * 10**9)),
        "coverage": {str(k): 0.1 + 0.01 * k for k in KS}, "short_lists": 0, "missing_users": 0,
        "describe": describe,
    }  # fmt: skip


def sizes_from(arguments: Sequence[str], *folders: str) -> tuple[dict[str, Path], Sizes]:
    """The options ``folders`` that are there, and the sizes, from ``key=value``.

    Raises:
        UserError: an unknown option, or a size that cannot be.
    """
    found: dict[str, Path] = {}
    sizes = asdict(Sizes())
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in folders and value:
            found[name] = Path(value)
        elif name in sizes and value.isdecimal():
            sizes[name] = int(value)
        else:
            raise UserError(
                f"unknown argument {argument!r}; give {', '.join(f'{f}=FOLDER' for f in folders)} "
                f"and whole numbers for {', '.join(sizes)}"
            )
    return found, Sizes(**sizes)


def main() -> None:
    def action() -> None:
        folders, sizes = sizes_from(sys.argv[1:], "store")
        if "store" not in folders:
            raise UserError("name the folder to write with store=")
        root = folders["store"]
        progress = make_progress("store")
        try:
            print(f"{write_store(root, sizes, progress)} runs in {root}")
        finally:
            progress.close()

    guard(action, __doc__)


if __name__ == "__main__":
    main()
