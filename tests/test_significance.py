"""Paired tests: hand-computed values, agreement with the libraries, degenerate input, the table of
pairs and the command that times them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from benchmark.aggregate import aggregate
from benchmark.errors import UserError
from benchmark.report import tables
from benchmark.resampling import bootstrap, sign_flip
from benchmark.significance import (
    TESTS,
    Floats,
    Outcome,
    Sample,
    compare_all,
    effect,
    flips_for,
    holm,
    is_significant,
    name_tests,
    paired_t,
    wilcoxon_signed_rank,
)
from benchmark.speed.statistics import made_up_values, measure
from tests.store_fixture import example_store


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


def test_report_shows_intervals_and_sign_flips_and_compares_each_column_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[pd.DataFrame] = []

    def counted(values: pd.DataFrame) -> pd.DataFrame:
        asked.append(values)
        return compare_all(values)

    monkeypatch.setattr(tables, "compare_all", counted)
    result = aggregate(example_store(tmp_path, ["pop", "tiger", "diger_frqud"]))["toy"]
    for _ in range(2):
        tables.overall_table(result)
        table = tables.pairwise_table(result)
    assert len(asked) == 6  # Recall and NDCG at three cut-offs
    assert table is not None
    assert set(table.frame["a"]) == {"Popularity", "DIGER (FrqUD)"}
    shown = {column.key: column.header for column in table.columns}
    assert (shown["ci_low"], shown["ci_high"]) == ("low", "high")
    assert shown["flip_p_holm"] == "sign flips, Holm"
    frame = compare_all(result.values("ndcg", 10))
    for key in ("ci_low", "ci_high", "flip_p_holm"):
        assert table.frame[key].to_list() == frame[key].to_list()
    assert "95% BCa bootstrap interval of A - B (10,000 draws of users)" in table.caption
    for caption in (table.caption, tables.overall_table(result).caption):
        assert f"{name_tests(3)}" in caption
        assert "n = 200" in caption
        assert "3 pairs" in caption


def test_compare_all_of_one_method_is_empty() -> None:
    frame = compare_all(pd.DataFrame({"x": [1.0, 2.0]}))
    assert len(frame) == 0
    assert "wilcoxon_p_holm" in frame
    assert len(compare_all(pd.DataFrame({"x": [1.0]}))) == 0


def test_measured_statistics() -> None:
    found = measure(methods=4, users=300, flips=50, draws=60, seed=1)
    sizes = {name: found[name] for name in ("methods", "users", "pairs", "flips", "draws")}
    assert sizes == {"methods": 4, "users": 300, "pairs": 6, "flips": 50, "draws": 60}
    assert found["seconds"] > 0
    assert 20e6 < found["peak_memory_bytes"] < 1e9
    with pytest.raises(UserError, match="methods=1 is too small; 2 is the least"):
        measure(methods=1)


def test_measuring_statistics_needs_no_torch_and_no_memory_of_the_parents() -> None:
    code = (
        "import sys; held = bytearray(b'x') * 700_000_000\n"
        "from benchmark.speed.statistics import measure\n"
        "print(measure(3, 100, 10, 10)['peak_memory_bytes'])\n"
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
