"""Estimators in a world whose clusters are known: see ``planted``. Ten seeds, fixed."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import mutual_info_score

from tests.planted import (
    ESTIMATORS,
    SEEDS,
    Result,
    World,
    column,
    p_greater,
    plant,
    run_all,
    table,
)

END_TO_END = [name for name, kind in ESTIMATORS.items() if kind.trains_tokenizer]
LEVEL = 0.01  # of each one-sided test

Results = dict[str, list[Result]]


@pytest.fixture(scope="module")
def results() -> Results:
    """Every estimator on every seed, trained once."""
    made = run_all()
    print(table(made))
    return made


def test_users_follow_the_planted_transition() -> None:
    world = World()
    planted = plant(world, 0)
    steps = planted.cluster[planted.split.items].reshape(world.users, world.length)
    onward = planted.successor[steps[:, :-1]] == steps[:, 1:]
    # A jump anywhere lands on the successor, too, once in C times.
    expected = world.stay + (1 - world.stay) / world.clusters
    error = np.sqrt(expected * (1 - expected) / onward.size)
    assert abs(onward.mean() - expected) < 4 * error
    visited, here = set(), 0
    for _ in range(world.clusters):
        visited.add(here)
        here = int(planted.successor[here])
    assert visited == set(range(world.clusters))


def test_items_of_a_cluster_are_equally_likely() -> None:
    world = World()
    planted = plant(world, 0)
    counts = np.bincount(planted.split.items, minlength=planted.split.n_items)
    for cluster in range(world.clusters):
        inside = counts[planted.cluster == cluster]
        assert len(inside) == world.items_per_cluster
        # Poisson counts: a chi-square of 15 degrees of freedom is below 45 but once in 10,000.
        assert ((inside - inside.mean()) ** 2 / inside.mean()).sum() < 45


def test_content_misleads_but_does_not_hide_the_clusters() -> None:
    """As many k-means groups as clusters: right on the clear part, far off on the whole."""
    world = World()
    for seed in SEEDS[:3]:
        planted = plant(world, seed)
        clear, plane = planted.content[:, :-2], planted.content[:, -2:]
        assert plane.var(0).min() > 2 * clear.var(0).max()
        right = KMeans(world.clusters, n_init=10, random_state=0).fit_predict(clear)
        wrong = KMeans(world.clusters, n_init=10, random_state=0).fit_predict(planted.content)
        everything = np.log(world.clusters)
        assert mutual_info_score(right, planted.cluster) > 0.99 * everything
        assert mutual_info_score(wrong, planted.cluster) < 0.5 * everything


def test_a_world_depends_on_its_seed_alone() -> None:
    one, same, other = plant(World(), 0), plant(World(), 0), plant(World(), 1)
    assert (one.content == same.content).all() and one.split.sha256 == same.split.sha256
    assert one.split.sha256 != other.split.sha256


def test_p_greater_is_one_sided_and_paired() -> None:
    noisy = [0.0, 10.0, 20.0, 30.0]
    above = [1.0, 11.5, 21.0, 31.5]
    # Differences 1, 1.5, 1, 1.5: t = 1.25 / (0.2887 / 2) = 8.66 with 3 degrees of freedom.
    assert p_greater(above, noisy) == pytest.approx(0.00162, abs=2e-5)
    assert p_greater(noisy, above) == pytest.approx(1 - 0.00162, abs=2e-5)
    assert p_greater(noisy, noisy) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", END_TO_END)
def test_end_to_end_codes_know_more_of_the_clusters(results: Results, name: str) -> None:
    two_stage = column(results["tiger"], "information")
    p = p_greater(column(results[name], "information"), two_stage)
    assert p < LEVEL, table(results)


@pytest.mark.slow
@pytest.mark.parametrize("name", END_TO_END)
def test_end_to_end_ranks_better_than_two_stage(results: Results, name: str) -> None:
    p = p_greater(column(results[name], "ndcg"), column(results["tiger"], "ndcg"))
    assert p < LEVEL, table(results)


@pytest.mark.slow
def test_codes_of_ste_fall(results: Results) -> None:
    start, end = column(results["ste"], "start"), column(results["ste"], "end")
    assert p_greater(start, end) < LEVEL, table(results)


@pytest.mark.slow
def test_codes_under_learned_noise_are_not_found_to_fall(results: Results) -> None:
    """Not found at the level at which STE's are, which is less than shown to stay. Plain Gumbel's
    are not held to it: they were found to fall, too (p = 0.009), though less far than STE's."""
    sdud = results["diger_sdud"]
    assert p_greater(column(sdud, "start"), column(sdud, "end")) > LEVEL, table(results)


@pytest.mark.slow
def test_learned_noise_keeps_more_codes_than_none(results: Results) -> None:
    sdud, ste = column(results["diger_sdud"], "end"), column(results["ste"], "end")
    assert p_greater(sdud, ste) < LEVEL, table(results)


@pytest.mark.slow
def test_all_start_from_the_same_codes(results: Results) -> None:
    """A tokenizer is shared by the estimators of a seed, and two-stage IDs never change."""
    for name in ESTIMATORS:
        assert column(results[name], "start") == column(results["tiger"], "start")
    for result in results["tiger"]:
        assert len(set(result.used)) == 1
