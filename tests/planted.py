"""A small planted world, in which the clusters that matter are known, and estimators in it.

Items belong to one of C clusters. Users walk over the clusters by a known rule: mostly from each
to its one successor, else anywhere; the item inside a cluster is random. So an item's cluster is
all that helps to predict what comes next. The content shows the clusters, noisily, and beside
them a plane in which items lie without regard to their cluster, with more variance than every
direction that tells clusters apart. Level-1 codes made from content alone must therefore waste
themselves on tiling that plane; codes that also hear the recommendation loss need not.

``python -m tests.planted`` prints the table that ``test_planted.py`` asserts.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import ttest_rel
from sklearn.metrics import mutual_info_score

from baselines.ste import StraightThrough
from baselines.tiger import TwoStage
from benchmark.data.split import Split
from benchmark.execution import Execution
from benchmark.metrics import METRICS, target_ranks
from benchmark.recommender import BenchmarkData
from diger.estimators import Estimator, FrequencyDecay, Gumbel, StandardDeviationDecay
from diger.recommender import GenerativeRecommender
from tests.conftest import make_split

SEEDS = tuple(range(10))  # fixed; how the settings were chosen is said with them


@dataclass(frozen=True)
class World:
    """What is planted.

    ``stay``: chance of going on to the successor cluster. ``signal``: length of a cluster's
    vector, each on an axis of its own. ``noise``: standard deviation on those axes, in units of
    ``signal``. ``misleading``: standard deviation on each axis of the irrelevant plane.
    """

    clusters: int = 8
    items_per_cluster: int = 16
    users: int = 500
    length: int = 7
    stay: float = 0.9
    signal: float = 0.7
    noise: float = 0.15
    misleading: float = 1.0


class Planted(NamedTuple):
    """cluster: int64 [N]; successor: int64 [C], a single cycle; content: float32 [N, C + 2]."""

    split: Split
    content: NDArray[np.float32]
    cluster: NDArray[np.int64]
    successor: NDArray[np.int64]


def plant(world: World, seed: int) -> Planted:
    """The world of a seed."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 20]))
    size, per = world.clusters, world.items_per_cluster
    n_items = size * per
    # Item numbers say nothing of the cluster, or the suffix would give it away.
    cluster = rng.permutation(np.repeat(np.arange(size), per))
    members = [np.flatnonzero(cluster == c) for c in range(size)]
    order = rng.permutation(size)
    successor = np.empty(size, dtype=np.int64)
    successor[order] = np.roll(order, -1)
    clear = np.eye(size)[cluster] + world.noise * rng.standard_normal((n_items, size))
    plane = world.misleading * rng.standard_normal((n_items, 2))
    content = np.concatenate([world.signal * clear, plane], axis=1).astype(np.float32)
    sequences = []
    for _ in range(world.users):
        here = int(rng.integers(size))
        sequence = []
        for _ in range(world.length):
            sequence.append(int(rng.choice(members[here])))
            onward = rng.random() < world.stay
            here = int(successor[here]) if onward else int(rng.integers(size))
        sequences.append(sequence)
    return Planted(make_split(sequences, n_items, max_history=3), content, cluster, successor)


@dataclass(frozen=True)
class Settings:
    """One set of settings for all estimators; only the class differs (and its own arguments).

    Why these. One level: it alone has to carry the cluster. 32 codes, four a cluster: too few for
    clusters times tiles of the plane. A linear encoder, frozen as released: only codebooks move.
    Logits in units of their gap, and a target of 4, so that noise swaps near codes and is not
    the whole choice; the temperature at half of it reaches a code's neighbours. Tokenizer and
    generator learn at about the same rate, as a run has hundreds of steps. The weight is low: the
    codebook losses hold the codes where the content put them. Found by hand on earlier forms of
    this world, on other seeds. The weight: 0.07 was the first choice (of 0.07, 0.1 and 0.15, on
    seeds 100 to 102) and was run on seeds 0 to 9, where plain Gumbel's NDCG@10 beat two-stage with
    p = 0.02 only; then 0.1 and 0.15 were compared on seeds 100 to 109, and 0.1 taken, where STE
    lost codes at p < 0.001.
    """

    codebook_size: int = 32
    gap_target: float = 4.0
    tau: float = 2.0
    weight: float = 0.1  # of L_vq and of the reconstruction loss
    lr_tokenizer: float = 3e-3
    epochs: int = 24
    own: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"diger_sdud": {"lambda_": 1.0}}
    )  # the loss starts near 3 here, not near the 5 that the released lambda is for


ESTIMATORS: dict[str, type[Estimator]] = {
    "tiger": TwoStage,
    "ste": StraightThrough,
    "gumbel": Gumbel,
    "diger_sdud": StandardDeviationDecay,
    "diger_frqud": FrequencyDecay,
}


class Result(NamedTuple):
    """One run. information: of level-1 codes and clusters, in nats, of the epoch that validation
    chose; ndcg: test NDCG@10; used: level-1 codes in use before training and after each epoch."""

    information: float
    ndcg: float
    used: list[int]


class _Run:
    """What the harness lends to a method, without the harness."""

    device = "cpu"
    exclude_seen = None
    execution = Execution()

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self.sids: list[NDArray[np.int32]] = []

    def log(self, row: Mapping[str, Any]) -> None:
        pass

    def save_sids(self, epoch: int, sids: NDArray[np.int32]) -> None:
        self.sids.append(sids)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        pass

    def released_tokenizer(
        self, name: str, sha256: str | None
    ) -> tuple[Mapping[str, Any], Mapping[str, torch.Tensor]]:
        raise NotImplementedError("the planted world trains its own")


def recommender(name: str, settings: Settings) -> GenerativeRecommender:
    """The method of an estimator, at sizes that train in seconds."""
    s = settings
    shared: dict[str, Any] = {"tau": s.tau, "logit_scale": "gap", "gap_target": s.gap_target}
    return GenerativeRecommender(
        estimator=partial(ESTIMATORS[name], **shared, **s.own.get(name, {})),
        levels=1,
        codebook_size=s.codebook_size,
        tokenizer={
            "hidden": [], "latent": 10, "epochs": 100, "min_epochs": 50, "learning_rate": 1e-2,
            # TIGER's balanced numbering would be a second difference between the methods.
            "assignment": "argmin",
        },
        model={
            "layers": 1, "d_model": 32, "d_ff": 64, "heads": 2, "d_head": 16, "dropout": 0.0,
            "init_std": 0.1,
        },
        train={
            "epochs": s.epochs, "patience": s.epochs, "valid_every": 3, "batch_size": 128,
            "learning_rate": 5e-3, "weight_decay": 0.01, "warmup_steps": 20,
            "lr_tokenizer": s.lr_tokenizer, "lr_sigma": 1e-2, "freeze_encoder": True,
            "w_vq": s.weight, "w_reconstruction": s.weight,
        },
        decode={"beams": 10},
    )  # fmt: skip


def run(name: str, planted: Planted, settings: Settings, seed: int, cache: Path) -> Result:
    """Fit one estimator; ``cache`` keeps the tokenizer, which all estimators of a seed share."""
    digest = hashlib.sha256(planted.content.tobytes()).hexdigest()
    data = BenchmarkData("planted", planted.split, planted.content, digest)
    method = recommender(name, settings)
    with tempfile.TemporaryDirectory() as folder:
        lent = _Run(Path(folder), cache)
        method.fit(data, seed, lent)
    users = np.arange(planted.split.n_users)
    lists = method.rank(data, users, 10, "test", exclude_seen=False).items
    ranks = target_ranks(lists, planted.split.targets("test"))
    return Result(
        float(mutual_info_score(method.semantic_ids()[:, 0], planted.cluster)),
        float(METRICS["ndcg"].per_user(ranks, 10).mean()),
        [len(np.unique(sids[:, 0])) for sids in lent.sids],
    )


def run_all(
    seeds: Sequence[int] = SEEDS,
    world: World = World(),
    settings: Settings = Settings(),
    names: Sequence[str] = tuple(ESTIMATORS),
) -> dict[str, list[Result]]:
    """Every estimator in the worlds of the seeds, on one thread."""
    torch.set_num_threads(1)
    results: dict[str, list[Result]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as cache:
        for seed in seeds:
            planted = plant(world, seed)
            for name in names:
                results[name].append(run(name, planted, settings, seed, Path(cache)))
                print(".", end="", file=sys.stderr, flush=True)
    return results


def p_greater(first: Sequence[float], second: Sequence[float]) -> float:
    """One-sided paired t-test over seeds: how likely is ``first`` this much larger by chance?
    1.0 where both are the same on every seed."""
    if list(first) == list(second):
        return 1.0
    return float(ttest_rel(first, second, alternative="greater").pvalue)


def column(results: Sequence[Result], name: str) -> list[float]:
    """One figure of every seed: a field of ``Result``, or ``start`` or ``end`` of ``used``."""
    if name in ("start", "end"):
        return [float(result.used[0 if name == "start" else -1]) for result in results]
    return [float(getattr(result, name)) for result in results]


def table(results: Mapping[str, Sequence[Result]]) -> str:
    """One line an estimator: means over seeds, and p against ``tiger``, of a fall, against STE."""
    lines = [
        "method        MI    p(>tiger)  NDCG@10  p(>tiger)  used start  end    p(fall)  p(>ste)"
    ]
    for name, rows in results.items():
        start, end = column(rows, "start"), column(rows, "end")
        information, ndcg = column(rows, "information"), column(rows, "ndcg")
        p = {
            "MI": p_greater(information, column(results["tiger"], "information")),
            "NDCG": p_greater(ndcg, column(results["tiger"], "ndcg")),
            "fall": p_greater(start, end),
            "ste": p_greater(end, column(results["ste"], "end")),
        }
        lines.append(
            f"{name:12s}  {np.mean(information):.3f}  {p['MI']:<9.2g}  {np.mean(ndcg):.4f}   "
            f"{p['NDCG']:<9.2g}  {np.mean(start):<10.1f}  {np.mean(end):<5.1f}  "
            f"{p['fall']:<7.2g}  {p['ste']:.2g}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(run_all()))
