"""What every method must keep to, run on each file in conf/method: a new one inherits it all."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from benchmark.config import build_method, compose_config, settings_from
from benchmark.data.prepare import prepare
from benchmark.data.split import Phase
from benchmark.recommender import BenchmarkData, Ranking, Recommender
from benchmark.run import check_ranking, limit_threads
from benchmark.store import RunFolder, StoredRun
from diger.generator import ROADS
from tests.estimators import END_TO_END, ESTIMATORS, FROZEN
from tests.test_config import METHODS

K = 20
PHASES: tuple[Phase, ...] = ("valid", "test")


class Fitted(NamedTuple):
    method: Recommender
    data: BenchmarkData
    folder: Path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, data_cache: Path):  # type: ignore[no-untyped-def]
    """Each method, fitted once on 150 users as in the smoke experiment."""

    @cache
    def fit(name: str) -> Fitted:
        overrides = ["dataset=ml-100k-150u", "protocol=smoke", f"method={name}"]
        settings = settings_from(compose_config(overrides))
        limit_threads(1)
        method = build_method(settings)
        protocol = settings.protocol
        made = prepare(
            settings.dataset, protocol.max_history, protocol.train_prefixes, data_cache,
            need="vectors" if method.needs_text else "rows",
        )  # fmt: skip
        folder = tmp_path_factory.mktemp(name)
        method.fit(made.data, 0, RunFolder(folder, data_cache, "cpu"))
        return Fitted(method, made.data, folder)

    return fit


def rank(
    made: Fitted, phase: Phase, exclude_seen: bool, users: np.ndarray | None = None
) -> Ranking:
    if users is None:
        users = np.arange(made.data.split.n_users)
    return made.method.rank(made.data, users, K, phase, exclude_seen)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_lists_are_sound(fitted, name: str, exclude_seen: bool, phase: Phase) -> None:  # type: ignore[no-untyped-def]
    made = fitted(name)
    split = made.data.split
    ranking = rank(made, phase, exclude_seen)
    check_ranking(ranking, split.n_users, split.n_items, K)
    assert (ranking.items >= 0).all()  # 1,327 items and 20 beams: every list can be filled
    repeats = [
        len(np.intersect1d(row, split.seen(user, phase))) for user, row in enumerate(ranking.items)
    ]
    if exclude_seen:
        assert sum(repeats) == 0


@pytest.mark.parametrize("name", METHODS)
def test_lists_do_not_depend_on_who_else_is_asked_for(fitted, name: str) -> None:  # type: ignore[no-untyped-def]
    made = fitted(name)
    whole = rank(made, "test", False)
    users = np.array([17, 3, 140])
    some = rank(made, "test", False, users)
    # Batches of other widths round differently in the last bits, so a near-tie may swap.
    np.testing.assert_allclose(some.scores, whole.scores[users], rtol=1e-4, atol=1e-4)
    assert (some.items == whole.items[users]).mean() > 0.9
    assert (some.items[:, 0] == whole.items[users, 0]).all()


@pytest.mark.parametrize("name", METHODS)
def test_ranking_twice_is_the_same(fitted, name: str) -> None:  # type: ignore[no-untyped-def]
    made = fitted(name)
    first, second = rank(made, "test", True), rank(made, "test", True)
    assert np.array_equal(first.items, second.items)
    assert np.array_equal(first.scores, second.scores)


@pytest.mark.parametrize("name", METHODS)
def test_log_and_description(fitted, name: str) -> None:  # type: ignore[no-untyped-def]
    made = fitted(name)
    rows = StoredRun(made.folder, {}).train_log()
    assert [row["epoch"] for row in rows] == list(range(len(rows)))
    facts = made.method.describe()
    if rows:
        assert facts["parameters"] > 0
        best = max(rows, key=lambda row: row.get("valid/ndcg@10", -1.0))
        assert rows[facts["best_epoch"]]["valid/ndcg@10"] == best["valid/ndcg@10"]


@pytest.mark.parametrize("name", METHODS)
def test_semantic_ids_name_every_item_once(fitted, name: str) -> None:  # type: ignore[no-untyped-def]
    made = fitted(name)
    sids = made.method.semantic_ids()
    if sids is None:
        pytest.skip("has no semantic IDs")
    assert sids.shape == (made.data.split.n_items, 4)
    assert len(np.unique(sids, axis=0)) == len(sids)


@pytest.mark.parametrize("name", METHODS)
def test_training_log_shows_whether_the_loss_reached_the_tokenizer(fitted, name: str) -> None:  # type: ignore[no-untyped-def]
    made = fitted(name)
    if name not in ESTIMATORS:
        pytest.skip("has no tokenizer")
    reached = name in END_TO_END
    for row in StoredRun(made.folder, {}).train_log():
        norms = [*row["grad/codebook"], row["grad/encoder"]]
        assert all(norm > 0 for norm in norms) if reached else norms == [0.0] * len(norms)


@pytest.mark.parametrize("name", METHODS)
def test_audit_tells_roads_and_parts_apart(fitted, name: str) -> None:  # type: ignore[no-untyped-def]
    made = fitted(name)
    if name not in ESTIMATORS:
        pytest.skip("has no tokenizer")
    facts = made.method.describe()["audit"]
    for road in (*ROADS, "rec"):
        norms = [*facts["norms"][road]["codebook"], facts["norms"][road]["encoder"]]
        if name in END_TO_END:
            assert all(norm > 0 for norm in norms), road
        else:
            assert norms == [0.0] * len(norms), road
    assert facts["moved"] == ([] if name in FROZEN else ["codebooks"])
    assert ("vq" in facts["norms"]) == (name not in FROZEN)


@pytest.mark.parametrize("name", METHODS)
def test_training_log_has_the_instruments(fitted, name: str) -> None:  # type: ignore[no-untyped-def]
    made = fitted(name)
    if name not in ESTIMATORS:
        pytest.skip("has no tokenizer")
    rows = StoredRun(made.folder, {}).train_log()
    levels = {"grad/codebook", "codes/entropy", "codes/used", "drift/level", "noise/flipped"}
    for row in rows:
        assert all(len(row[key]) == 3 for key in levels)
        assert {"grad/encoder", "codes/collision_rate", "drift/full", "drift/sid"} <= set(row)
        assert row["drift/sid"] >= row["drift/full"] >= max(row["drift/level"])
        assert ("sigma" in row) == ("sdud" in name)
        assert ("hot_share" in row) == ("frqud" in name)
        assert ("snr" in row) == (name not in FROZEN)
        sids = np.load(made.folder / "sids" / f"epoch={row['epoch']:04d}.npy")
        assert sids.shape == (made.data.split.n_items, 4)
