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
    if made.method.semantic_ids() is None:
        pytest.skip("has no tokenizer")
    trains = made.method.describe()["trains_tokenizer"]
    for row in StoredRun(made.folder, {}).train_log():
        norms = [*row["grad/codebook"], row["grad/encoder"]]
        assert all(norm > 0 for norm in norms) if trains else norms == [0.0] * len(norms)
        assert (row["drift/full"] > 0) or not trains
