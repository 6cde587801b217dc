"""Paired tests: hand-computed values, agreement with the libraries, degenerate input, the table of
pairs and the command that times them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from benchmark.aggregate import aggregate
from benchmark.errors import UserError
from benchmark.paired import (
    TESTS,
    Floats,
    Outcome,
    Sample,
    effect,
    flips_for,
    holm,
    name_tests,
    paired_t,
    wilcoxon_signed_rank,
)
from benchmark.report import tables
from benchmark.resampling import bootstrap, sign_flip
from benchmark.seed_aware import seed_aware, trainings
from benchmark.significance import compare_all, compare_each, in_words, is_significant
from benchmark.speed.report import TABLES as speed_tables
from benchmark.speed.statistics import made_up_runs, made_up_values, measure
from tests.store_fixture import add_run, example_store


def run(name: str, differences: Floats) -> Outcome:
    """A test of one pair with these differences."""
    values = np.stack([differences, np.zeros_like(differences)], axis=1)
    return TESTS[name].run(Sample(values, np.array([[0, 1]]), flips=1000, seed=0))


def test_paired_t_by_hand() -> None:
    # mean 2, sd sqrt((1 + 0 + 1) / 2) = 1: t = 2 / (1 / sqrt(3)), 2 degrees of freedom, whose
    # two-sided p-value is 1 - t / sqrt(t^2 + 2).
    result = paired_t(np.array([1.0, 2.0, 3.0]))
    t = 2 * math.sqrt(3)
    assert result.statistic == pytest.approx(t)
    assert result.p_value == pytest.approx(1 - t / math.sqrt(t**2 + 2))


def test_wilcoxon_by_hand() -> None:
    # Ranks 1..5 of which only rank 1 is negative: W = 1. Of the 32 sign patterns 2 have a
    # negative rank sum of at most 1 (none, {1}), twice for both sides.
    result = wilcoxon_signed_rank(np.array([-1.0, 2.0, 3.0, 4.0, 5.0]))
    assert result.statistic == 1.0
    assert result.p_value == pytest.approx(2 * 2 / 32)


def test_wilcoxon_leaves_zeros_out() -> None:
    values = np.array([-1.0, 2.0, 3.0, 4.0, 5.0])
    many = np.concatenate([np.zeros(4), values])
    assert wilcoxon_signed_rank(many).statistic == wilcoxon_signed_rank(values).statistic == 1.0


def test_tests_agree_with_scipy_on_two_samples() -> None:
    rng = np.random.default_rng(0)
    a = np.where(rng.random(500) < 0.3, rng.random(500), 0.0)
    b = np.where(rng.random(500) < 0.2, rng.random(500), 0.0)
    t, w = stats.ttest_rel(a, b), stats.wilcoxon(a, b)
    assert paired_t(a - b) == pytest.approx((t.statistic, t.pvalue))
    assert wilcoxon_signed_rank(a - b) == pytest.approx((w.statistic, w.pvalue))


@pytest.mark.parametrize("name", sorted(TESTS))
@pytest.mark.parametrize("n_users", [2, 10, 100])
def test_all_zero_differences_give_p_one(name: str, n_users: int) -> None:
    assert np.array_equal(run(name, np.zeros(n_users)), [[0.0], [1.0]])


def test_t_of_equal_differences_is_infinite() -> None:
    assert np.array_equal(paired_t(np.full(5, -0.25)), [-np.inf, 0.0])
    # The mean of ten times 0.3 is not 0.3 in floats: taken as they are, t would be finite.
    assert np.array_equal(paired_t(np.full(10, 0.3)), [np.inf, 0.0])


@pytest.mark.parametrize("name", sorted(TESTS))
@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_bad_input_is_refused(name: str, values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"at least 2 users|finite"):
        run(name, np.array(values))


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1 = 0.03, 0.06, 0.04; never falling: 0.03, 0.06, 0.06.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]).shape == (0,)


def test_holm_agrees_with_statsmodels() -> None:
    p_values = np.random.default_rng(1).random(40) ** 3
    p_values[5] = p_values[6]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_probability(bad: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([0.5, bad])


def test_effect_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, sd 1; mean of b = 4.
    result = effect(np.array([4.0, 6.0, 8.0]), np.array([3.0, 4.0, 5.0]))
    assert result == pytest.approx((2.0, 0.5, 2.0))


def test_effect_of_nothing() -> None:
    same = effect(np.zeros(3), np.zeros(3))
    assert (same.difference, same.d_z) == (0.0, 0.0)
    assert math.isnan(same.relative)
    assert effect(np.ones(3), np.zeros(3)).d_z == np.inf
    with pytest.raises(ValueError, match="same users"):
        effect(np.ones(3), np.ones(2))


def test_compare_all_lists_every_pair_and_corrects_over_all_of_them() -> None:
    rng = np.random.default_rng(2)
    values = pd.DataFrame(rng.random((50, 3)), columns=["x", "y", "z"])
    values["z"] += 0.3
    frame = compare_all(values)
    assert list(zip(frame["a"], frame["b"], strict=True)) == [("x", "y"), ("x", "z"), ("y", "z")]
    assert set(frame["n"]) == {50}
    for name in TESTS:
        raw = frame[f"{name}_p"].to_numpy()
        assert frame[f"{name}_p_holm"].to_list() == holm(raw).tolist()
        assert raw[0] > 0.1 > 0.001 > raw[1:].max()
    assert [is_significant(row) for _, row in frame.iterrows()] == [False, True, True]
    assert frame["difference"][1] == pytest.approx((values["x"] - values["z"]).mean())
    assert frame["flip_statistic"].to_list() == frame["difference"].to_list()


@pytest.mark.parametrize("n_users", [10, 50, 51, 400])
def test_pairs_together_are_tested_as_each_alone(n_users: int) -> None:
    values = made_up_values(5, 40 * n_users).to_numpy()
    values = values[values.any(axis=1)][:n_users]  # few zeros: below 51 scipy's choices differ
    values[:, 3] = np.linspace(0, 1, n_users)
    values[:, 4] = values[:, 3] - 0.25
    frame = compare_all(pd.DataFrame(values))
    for _, row in frame.iterrows():
        differences = values[:, int(row["a"])] - values[:, int(row["b"])]
        w = stats.wilcoxon(differences, zero_method="wilcox", correction=False)
        assert (row["wilcoxon_statistic"], row["wilcoxon_p"]) == (w.statistic, w.pvalue)
        if (row["a"], row["b"]) != ("3", "4"):
            t = stats.ttest_1samp(differences, 0.0)
            assert (row["t_statistic"], row["t_p"]) == (t.statistic, t.pvalue)


def test_constant_differences_among_others() -> None:
    values = pd.DataFrame({"a": [0.0, 1.0, 3.0], "b": [0.0, 1.0, 3.0], "c": [1.0, 2.0, 4.0]})
    values["d"] = [1.0, 0.0, 0.0]
    frame = compare_all(values).set_index(["a", "b"])
    assert frame["t_statistic"].loc[("a", "b")] == 0
    assert frame["t_p"].loc[("a", "b")] == frame["flip_p"].loc[("a", "b")] == 1
    assert frame["t_statistic"].loc[("a", "c")] == -np.inf
    assert frame["t_p"].loc[("a", "c")] == 0
    assert tuple(frame.loc[("a", "c"), ["ci_low", "ci_high"]]) == pytest.approx((-1, -1))
    assert frame["t_p"].loc[("a", "d")] == stats.ttest_1samp([-1.0, 1.0, 3.0], 0).pvalue


def test_compare_all_flips_and_draws_as_told() -> None:
    values = made_up_values(3, 2000)
    frame = compare_all(values, flips=700, draws=300, seed=5)
    matrix, pairs = values.to_numpy(), np.array([[0, 1], [0, 2], [1, 2]])
    assert frame["flip_p"].to_list() == sign_flip(matrix, pairs, 700, 5).tolist()
    assert np.array_equal(frame[["ci_low", "ci_high"]].T, bootstrap(matrix, pairs, 300, 5))
    assert (frame["ci_low"] < frame["difference"]).all()
    assert (frame["difference"] < frame["ci_high"]).all()
    again = compare_all(values)
    assert again.equals(compare_all(values, flips=10_000, draws=10_000, seed=0))


def test_holm_leaves_something_to_find_with_any_number_of_pairs() -> None:
    assert flips_for(66) == 10_000
    for n_pairs in (101, 780, 4950):
        assert holm([1 / (1 + flips_for(n_pairs))] * n_pairs).max() <= 0.01
    assert "sign-flip permutation test (78,000 flips" in name_tests(780)


def test_a_difference_counts_only_if_every_test_finds_it() -> None:
    found = {f"{name}_p_holm": 0.049 for name in ("t", "wilcoxon", "flip")}
    assert is_significant(pd.Series(found))
    for name in found:
        assert not is_significant(pd.Series({**found, name: 0.05}))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 0.02, True), (-0.02, -0.01, True), (-0.01, 0.02, False), (0.0, 0.02, False),
     (-0.02, 0.0, False), (math.nan, math.nan, True)],
)  # fmt: skip
def test_a_difference_counts_only_if_the_seed_aware_interval_agrees(
    low: float, high: float, expected: bool
) -> None:
    found = {f"{name}_p_holm": 0.001 for name in TESTS}
    assert is_significant(pd.Series({**found, "seed_low": low, "seed_high": high})) == expected


def seeded(trainings: dict[str, int], effects: float = 0.0) -> pd.DataFrame:
    """``compare_all`` of made-up methods with so many trainings, of which the last is better, and
    whose trainings are this far apart."""
    runs = made_up_runs(len(trainings), 3000, list(trainings.values()))
    runs = {name: run + effects * np.arange(run.shape[1])
            for name, run in zip(trainings, runs.values(), strict=True)}  # fmt: skip
    runs[list(trainings)[-1]] += 0.05
    values = pd.DataFrame({name: run.mean(axis=1) for name, run in runs.items()})
    return compare_all(values, runs, flips=500, draws=500)


def test_seed_columns_are_those_of_each_pair() -> None:
    rng = np.random.default_rng(0)
    runs = {"x": rng.random((40, 3)), "y": rng.random((40, 5)), "z": rng.random((40, 2))}
    values = pd.DataFrame({name: run.mean(axis=1) for name, run in runs.items()})
    frame = compare_all(values, runs, flips=10, draws=10)
    row, few = frame.iloc[0], frame.iloc[1]
    assert (row["a"], row["b"], few["a"], few["b"]) == ("x", "y", "x", "z")
    assert (row["seeds_a"], row["seeds_b"]) == (3, 5)
    assert row["sd_a"] == pytest.approx(runs["x"].mean(axis=0).std(ddof=1))
    assert row["sd_b"] == pytest.approx(runs["y"].mean(axis=0).std(ddof=1))
    differences = (values["x"] - values["y"]).to_numpy()
    expected = seed_aware(differences.mean(), differences.var(ddof=1) / 40, 40,
                          trainings(runs["x"]), trainings(runs["y"]))  # fmt: skip
    found = row[["seed_low", "seed_high", "seed_mdd"]].astype(float)
    assert tuple(found) == pytest.approx(tuple(expected))
    assert few[["seed_low", "seed_high", "seed_mdd"]].isna().all()
    assert few["sd_b"] == pytest.approx(runs["z"].mean(axis=0).std(ddof=1))


def test_found_says_what_it_rests_on() -> None:
    mixed = seeded({"x": 3, "y": 3, "z": 2})
    assert mixed["found"].to_list() == ["yes", "users only: yes", "users only: yes"]
    close = seeded({"x": 3, "y": 3})
    assert close["found"].to_list() == ["yes"]
    # The same difference, which every test finds, between trainings that are far apart.
    far = seeded({"x": 3, "y": 3}, effects=0.1)
    assert far["t_p_holm"].max() < 1e-6
    assert far["found"].to_list() == ["no"]
    values = pd.DataFrame({"x": [0.0, 1.0, 0.5], "y": [0.0, 1.0, 0.5]})
    assert compare_all(values)["found"].to_list() == ["users only: no"]
    assert compare_all(values)["seeds_a"].to_list() == [1]


@pytest.mark.parametrize("wrong", [{}, {"x": np.ones((3, 2)), "y": np.ones((4, 2))}])
def test_values_of_seeds_must_fit(wrong: dict[str, Floats]) -> None:
    with pytest.raises(ValueError, match="values of its seeds are missing or of other users"):
        compare_all(pd.DataFrame({"x": [1.0, 2, 3], "y": [0.0, 1, 0]}), wrong)


def test_smallest_difference_is_of_the_pairs_own_sd() -> None:
    values = pd.DataFrame({"x": [0.0, 0, 1], "y": [1.0, 2, 4], "z": [1.0, 1, 2]})
    frame = compare_all(values, flips=10, draws=10)
    # Differences of x and z are all -1: nothing is too small. For three users, 2 degrees of
    # freedom, TTestPower().solve_power(None, 3, 0.05, 0.8) of statsmodels gives 3.26 sds.
    assert frame["mdd"][1] == 0
    assert frame["mdd"][0] == pytest.approx(3.26 * np.std([-1, -2, -3], ddof=1), rel=0.01)


def words(**changes: object) -> str:
    row = {"a": "x", "b": "y", "n": 100, "mean_a": 0.3, "mean_b": 0.2, "difference": 0.1,
           "relative": 0.5, "ci_low": 0.05, "ci_high": 0.15, "mdd": 0.07, "seeds_a": 5,
           "seeds_b": 5, "seed_low": 0.02, "seed_high": 0.18, "seed_mdd": 0.09, "t_p_holm": 0.0001,
           "wilcoxon_p_holm": 0.002, "flip_p_holm": 0.03}  # fmt: skip
    return in_words(pd.Series({**row, **changes}), {"x": "X & co"})


def test_a_found_difference_in_words() -> None:
    assert words() == (
        "X & co is above y by 0.1000 (+50.0%); 95% interval over users 0.0500 to 0.1500, over "
        "users and trainings 0.0200 to 0.1800; p after Holm's correction: t-test <0.001, Wilcoxon "
        "0.002, sign flips 0.030; found by every test and with trainings counted."
    )


def test_the_higher_mean_comes_first_in_words() -> None:
    turned = words(mean_a=0.2, mean_b=0.4, difference=-0.2, ci_low=-0.3, ci_high=-0.1,
                   seed_low=-0.35, seed_high=-0.05)  # fmt: skip
    assert turned.startswith(
        "y is above X & co by 0.2000 (+100.0%); 95% interval over users 0.1000 to 0.3000, over "
        "users and trainings 0.0500 to 0.3500;"
    )


def test_a_difference_that_is_not_found_in_words() -> None:
    assert words(seed_low=-0.01, wilcoxon_p_holm=0.2).endswith(
        "not found by Wilcoxon or the interval over trainings; four times in five such data find, "
        "before correction, a difference of 0.0700 over users and 0.0900 over users and trainings."
    )
    nowhere = words(t_p_holm=1.0, wilcoxon_p_holm=1.0, flip_p_holm=1.0)
    assert "X & co is not found to differ from y, though its mean is higher by 0.1000" in nowhere
    assert "not found by any test;" in nowhere


@pytest.mark.parametrize(
    ("seeds", "told"),
    [((1, 1), "one training"), ((2, 2), "two trainings"),
     ((1, 5), "fewer than three trainings of one")],
)  # fmt: skip
def test_users_only_in_words(seeds: tuple[int, int], told: str) -> None:
    none = {"seed_low": math.nan, "seed_high": math.nan, "seed_mdd": math.nan}
    counts = {"seeds_a": seeds[0], "seeds_b": seeds[1]}
    assert words(**none, **counts).endswith(f"found by every test (users only: {told}).")
    missed = words(**none, **counts, t_p_holm=0.5)
    assert f"not found by t-test (users only: {told}); four times in five" in missed
    assert missed.endswith("a difference of 0.0700 over users.")


def test_equal_methods_in_words() -> None:
    same = words(mean_a=0.0, mean_b=0.0, difference=0.0, ci_low=0.0, ci_high=0.0, t_p_holm=1.0)
    assert same.startswith("X & co and y have the same mean; 95% interval over users 0.0000 to")
    nothing = words(mean_b=0.0)
    assert nothing.startswith("X & co is above y by 0.1000; 95%")


def test_report_marks_nothing_that_trainings_alone_could_explain(tmp_path: Path) -> None:
    # Every second training of SASRec and DIGER hits with all of 200 users, the others with none
    # or half of them: the means differ, for every user, and trainings differ more.
    shares = {"sasrec": [0.0, 0.0, 0.5], "diger_frqud": [0.0, 0.5, 1.0]}
    runs = [add_run(tmp_path, method, seed, ranks=[int(user < 200 * share) for user in range(200)])
            for method, each in shares.items() for seed, share in enumerate(each)]  # fmt: skip
    table = tables.pairwise_table(aggregate(runs)["toy"])
    assert table is not None
    row = table.frame.iloc[0]
    assert row["t_p_holm"] < 1e-6
    assert row["seed_low"] < 0 < row["seed_high"]
    assert row["found"] == "no"
    overall = tables.overall_table(aggregate(runs)["toy"])
    assert not overall.frame["ndcg@10/mark"].any()
    two = aggregate([run for run in runs if run.seed < 2])["toy"]
    assert tables.overall_table(two).frame["ndcg@10/mark"].any()


def test_pairs_show_what_trainings_add_and_the_best_method_in_words(tmp_path: Path) -> None:
    methods = ["pop", "tiger", "diger_frqud"]
    three = tables.pairwise_table(aggregate(example_store(tmp_path, methods, (0, 1, 2)))["toy"])
    assert three is not None
    shown = {column.key for column in three.columns}
    assert {"mdd", "seeds_a", "seed_low", "seed_high", "seed_mdd", "found"} <= shown
    spreads = {column.key: column.spread for column in three.columns}
    assert (spreads["mean_a"], spreads["mean_b"]) == ("sd_a", "sd_b")
    assert "seed-aware 95% interval" in three.caption
    assert "Users only" not in three.caption
    assert len(three.frame["words"]) == 3
    assert [note for note in three.notes if note in set(three.frame["words"])] == [
        three.frame["words"][0], three.frame["words"][1],
    ]  # fmt: skip
    one = tables.pairwise_table(aggregate(example_store(tmp_path / "one", methods, (0,)))["toy"])
    assert one is not None
    assert not {column.key for column in one.columns} & {"seeds_a", "seed_low", "seed_mdd"}
    assert "seed-aware 95% interval" not in one.caption
    assert "Users only: fewer than three trainings of a method" in one.caption


def test_report_shows_intervals_and_sign_flips_and_compares_each_column_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[tuple[str, int]]] = []

    def counted(values: Any, per_seed: Any) -> Any:
        asked.append(list(values))
        return compare_each(values, per_seed)

    monkeypatch.setattr(tables, "compare_each", counted)
    result = aggregate(example_store(tmp_path, ["pop", "tiger", "diger_frqud"]))["toy"]
    for _ in range(2):
        tables.overall_table(result)
        table = tables.pairwise_table(result)
    assert asked == [[(metric, k) for metric in ("recall", "ndcg") for k in (5, 10, 20)]]
    assert table is not None
    assert set(table.frame["a"]) == {"Popularity", "DIGER (FrqUD)"}
    shown = {column.key: column.header for column in table.columns}
    assert (shown["ci_low"], shown["ci_high"]) == ("low", "high")
    assert shown["flip_p_holm"] == "sign flips, Holm"
    frame = compare_all(result.values("ndcg", 10))
    assert table.frame["flip_p_holm"].to_list() == frame["flip_p_holm"].to_list()
    # Six metrics share the bootstrap's samples: the same intervals but for the draws.
    for key in ("ci_low", "ci_high"):
        assert table.frame[key].to_numpy() == pytest.approx(frame[key].to_numpy(), abs=2e-3)
    assert "95% BCa bootstrap interval of A - B (10,000 draws of users)" in table.caption
    for caption in (table.caption, tables.overall_table(result).caption):
        assert f"{name_tests(3)}" in caption
        assert "n = 200" in caption
        assert "3 pairs" in caption


def test_metrics_together_are_compared_as_each_alone() -> None:
    rng = np.random.default_rng(5)
    hit = rng.random((300, 3)) < [0.2, 0.3, 0.5]
    recall = pd.DataFrame(hit.astype(float), columns=["x", "y", "z"])
    ndcg = recall * 0.5  # of every hit, so all of its intervals are half as long
    found = compare_each({"recall": recall, "ndcg": ndcg, "one": recall[["x"]]})
    alone = compare_all(recall)
    resampled = ["ci_low", "ci_high"]
    pd.testing.assert_frame_equal(
        found["recall"].drop(columns=resampled), alone.drop(columns=resampled)
    )
    for key in resampled:
        assert found["ndcg"][key].to_numpy() == pytest.approx(found["recall"][key].to_numpy() / 2)
        assert found["recall"][key].to_numpy() == pytest.approx(alone[key].to_numpy(), abs=6e-3)
    assert list(found) == ["recall", "ndcg", "one"] and len(found["one"]) == 0


def test_compare_all_of_one_method_is_empty() -> None:
    frame = compare_all(pd.DataFrame({"x": [1.0, 2.0]}))
    assert len(frame) == 0
    assert "wilcoxon_p_holm" in frame
    assert len(compare_all(pd.DataFrame({"x": [1.0]}))) == 0


def test_measured_statistics() -> None:
    found = measure(methods=4, users=300, seeds=3, flips=50, draws=60, seed=1)
    sizes = {name: found[name] for name in ("methods", "users", "seeds", "pairs", "flips", "draws")}
    assert sizes == {
        "methods": 4, "users": 300, "seeds": 3, "pairs": 6, "flips": 50, "draws": 60,
    }  # fmt: skip
    assert found["seconds"] > 0
    shown = [column.key for column in speed_tables["statistics"]([found], {}).columns]
    assert set(sizes) < set(shown)
    assert 20e6 < found["peak_memory_bytes"] < 1e9
    with pytest.raises(UserError, match="methods=1 is too small; 2 is the least"):
        measure(methods=1)


def test_measuring_statistics_needs_no_torch_and_no_memory_of_the_parents() -> None:
    code = (
        "import sys; held = bytearray(b'x') * 700_000_000\n"
        "from benchmark.speed.statistics import measure\n"
        "print(measure(3, 100, 2, 10, 10)['peak_memory_bytes'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 600_000_000


def test_command_that_measures_statistics() -> None:
    command = [sys.executable, "-m", "benchmark.speed.statistics"]
    done = subprocess.run([*command, "users=90", "methods=2", "flips=9", "draws=9"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert json.loads(done.stdout)["users"] == 90
    for wrong in ("people=3", "users=many"):
        bad = subprocess.run([*command, wrong], capture_output=True, text=True, check=False)
        assert bad.returncode == 2
        assert bad.stderr.startswith(f"error: unknown argument '{wrong}'")


def test_made_up_values_are_sparse_values_of_ndcg() -> None:
    values = made_up_values(12, 5000).to_numpy()
    possible = 1 / np.log2(np.arange(2, 12))
    assert np.isin(values[:, 0], [0.0, *possible]).all()
    assert not np.isin(values[:, 1], [0.0, *possible]).all()
    assert (values == 0).all(axis=1).mean() == pytest.approx(0.7, abs=0.05)
    assert (values[:, 0] > 0).mean() < 0.1
