"""Paired tests: hand-computed values, agreement with the libraries, degenerate input."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from benchmark.significance import (
    TESTS,
    compare_all,
    effect,
    holm,
    is_significant,
    paired_t,
    wilcoxon_signed_rank,
)


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
def test_all_zero_differences_give_p_one(name: str) -> None:
    assert TESTS[name].run(np.zeros(10)) == (0.0, 1.0)


def test_t_of_equal_differences_is_infinite() -> None:
    assert paired_t(np.full(5, -0.25)) == (-np.inf, 0.0)


@pytest.mark.parametrize("name", sorted(TESTS))
@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_bad_input_is_refused(name: str, values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"at least 2 users|finite"):
        TESTS[name].run(np.array(values))


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
    for name, test in TESTS.items():
        raw = [test.run((values[a] - values[b]).to_numpy()).p_value for a, b in
               zip(frame["a"], frame["b"], strict=True)]  # fmt: skip
        assert frame[f"{name}_p"].to_list() == pytest.approx(raw)
        assert frame[f"{name}_p_holm"].to_list() == pytest.approx(list(holm(raw)))
    assert [is_significant(row) for _, row in frame.iterrows()] == [False, True, True]
    assert frame["difference"][1] == pytest.approx((values["x"] - values["z"]).mean())


def test_a_difference_counts_only_if_every_test_finds_it() -> None:
    assert is_significant(pd.Series({"t_p_holm": 0.01, "wilcoxon_p_holm": 0.049}))
    assert not is_significant(pd.Series({"t_p_holm": 0.01, "wilcoxon_p_holm": 0.05}))


def test_compare_all_of_one_method_is_empty() -> None:
    frame = compare_all(pd.DataFrame({"x": [1.0, 2.0]}))
    assert len(frame) == 0
    assert "wilcoxon_p_holm" in frame
