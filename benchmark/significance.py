"""Every pair of methods: paired tests over users, effect sizes, and what trainings add.

A difference counts as found only if every user-level test finds it after Holm's correction over
all pairs and, where both methods were trained three times or more, the seed-aware 95% interval
leaves 0 out, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TypeVar

import numpy as np
import pandas as pd

from benchmark.paired import TESTS, Effect, Floats, Sample, effect, flips_for, holm, name_tests
from benchmark.power import ALPHA, minimal_detectable_difference
from benchmark.resampling import DRAWS, SEED, Interval, Pairs, bootstrap
from benchmark.seed_aware import MIN_SEEDS, Trainings, seed_aware, trainings

__all__ = ["ALPHA", "MIN_SEEDS", "TESTS", "compare_all", "compare_each", "flips_for", "found_word",
           "has_seeds", "holm", "in_words", "is_significant", "name_tests"]  # fmt: skip

Key = TypeVar("Key")


def compare_all(
    values: pd.DataFrame,
    per_seed: Mapping[str, Floats] | None = None,
    *,
    flips: int | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> pd.DataFrame:
    """Compare every pair of methods.

    Args:
        values: [n_users x n_methods], one metric's per-user values averaged over seeds.
        per_seed: for each column, the values before averaging, [n_users, n_seeds]; None: every
            method was trained once.
        flips: random sign patterns of the sign-flip test; None: ``flips_for`` the pairs.
        draws: bootstrap samples.
        seed: decides both; the same seed gives the same numbers anywhere.

    Returns:
        One row a pair (first column before second), no rows for fewer than two methods:

        - a, b, n (users), mean_a, mean_b, difference (a - b), relative, d_z;
        - ci_low, ci_high: 95% BCa bootstrap interval of the mean difference over users;
        - mdd: smallest difference found with a power of 80%, by users and before correction;
        - seeds_a, seeds_b, and sd_a, sd_b: sd over seeds of the mean (NaN for one seed);
        - seed_low, seed_high, seed_mdd: the seed-aware interval and its smallest difference, NaN
          where a method has fewer than three seeds;
        - for each test ``<name>_statistic``, ``<name>_p`` and ``<name>_p_holm``, Holm's correction
          over all pairs of this frame;
        - found: ``yes`` or ``no``, by tests and seed-aware interval; ``users only: yes`` or
          ``users only: no``, by tests alone, where a method has fewer than three seeds.

    Raises:
        ValueError: fewer than two users, values that are not finite, or seeds' values that do not
            fit the columns.
    """
    given = None if per_seed is None else {"": per_seed}
    return compare_each({"": values}, given, flips=flips, draws=draws, seed=seed)[""]


def compare_each(
    values: Mapping[Key, pd.DataFrame],
    per_seed: Mapping[Key, Mapping[str, Floats]] | None = None,
    *,
    flips: int | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> dict[Key, pd.DataFrame]:
    """``compare_all`` of several metrics of the same users, by the metric.

    The metrics share the samples of the bootstrap, whose drawing takes longer than all else, so
    that six take little more time than one. A metric's intervals are what they would be alone but
    for the chance of the draws.
    """
    pairs = {key: _pairs(frame.shape[1]) for key, frame in values.items()}
    matrices = {key: frame.to_numpy(dtype=np.float64) for key, frame in values.items()}
    intervals = _intervals(matrices, pairs, draws, seed)
    return {
        key: _compare(
            values[key], pairs[key], intervals[key], per_seed[key] if per_seed else None,
            flips_for(len(pairs[key])) if flips is None else flips, seed,
        )
        for key in values
    }  # fmt: skip


def _pairs(columns: int) -> Pairs:
    """[n_pairs, 2], the first before the second."""
    return np.array(list(combinations(range(columns), 2)), dtype=np.intp).reshape(-1, 2)


def _intervals(
    matrices: Mapping[Key, Floats], pairs: Mapping[Key, Pairs], draws: int, seed: int
) -> dict[Key, Interval]:
    """Bootstrap intervals of each metric's pairs, from the same samples of users."""
    keys = [key for key in matrices if len(pairs[key])]
    nothing = Interval(np.empty(0), np.empty(0))
    if not keys:
        return dict.fromkeys(matrices, nothing)
    offsets = np.cumsum([0, *(matrices[key].shape[1] for key in keys)])
    together = np.concatenate([matrices[key] for key in keys], axis=1)
    shifted = [pairs[key] + offset for key, offset in zip(keys, offsets, strict=False)]
    found = bootstrap(together, np.concatenate(shifted), draws, seed)
    ends = np.cumsum([len(pairs[key]) for key in keys])[:-1]
    lows, highs = (np.split(part, ends) for part in found)
    made = {key: Interval(lows[i], highs[i]) for i, key in enumerate(keys)}
    return {key: made.get(key, nothing) for key in matrices}


def _compare(
    values: pd.DataFrame,
    pairs: Pairs,
    interval: Interval,
    per_seed: Mapping[str, Floats] | None,
    flips: int,
    seed: int,
) -> pd.DataFrame:
    """The frame of one metric; see ``compare_all``."""
    if len(pairs) == 0:
        return pd.DataFrame(columns=_columns())
    names, matrix = [str(name) for name in values.columns], values.to_numpy(dtype=np.float64)
    sample = Sample(matrix, pairs, flips, seed)
    frame = pd.DataFrame([_describe(matrix, names, (int(a), int(b))) for a, b in pairs])
    frame["ci_low"], frame["ci_high"] = interval
    for name, test in TESTS.items():
        frame[f"{name}_statistic"], frame[f"{name}_p"] = test.run(sample)
        frame[f"{name}_p_holm"] = holm(frame[f"{name}_p"].to_numpy(dtype=np.float64))
    variance = sample.differences.var(axis=1, ddof=1)
    frame["mdd"] = minimal_detectable_difference(np.sqrt(variance), len(matrix))
    _add_seeds(frame, variance / len(matrix), pairs, _trainings(matrix, names, per_seed))
    frame["found"] = [found_word(row) for _, row in frame.iterrows()]
    return frame[_columns()]


def is_significant(row: pd.Series, alpha: float = ALPHA) -> bool:
    """Whether every test finds the pair's difference after correction and, if there is one, the
    seed-aware interval leaves 0 out."""
    tests = all(float(row[f"{name}_p_holm"]) < alpha for name in TESTS)
    return tests and not (has_seeds(row) and row["seed_low"] <= 0 <= row["seed_high"])


def has_seeds(row: pd.Series) -> bool:
    """Whether the pair has a seed-aware interval."""
    return bool(np.isfinite(row.get("seed_low", np.nan)))


def in_words(row: pd.Series, labels: Mapping[str, str] | None = None) -> str:
    """One sentence on a row of ``compare_all``.

    Args:
        labels: names for readers by the names in ``a`` and ``b``; others stay as they are.
    """
    labels = labels or {}
    sign = 1 if row["difference"] >= 0 else -1
    upper, lower = ("a", "b") if sign > 0 else ("b", "a")
    high, low = (labels.get(str(row[side]), str(row[side])) for side in (upper, lower))
    base, by = float(row[f"mean_{lower}"]), abs(float(row["difference"]))
    amount = f"{by:.4f} ({by / base:+.1%})" if base else f"{by:.4f}"
    if row["difference"] == 0:
        head = f"{high} and {low} have the same mean"
    elif is_significant(row):
        head = f"{high} is above {low} by {amount}"
    else:
        head = f"{high} is not found to differ from {low}, though its mean is higher by {amount}"
    intervals = f"95% interval over users {_interval(row, 'ci', sign)}"
    if has_seeds(row):
        intervals += f", over users and trainings {_interval(row, 'seed', sign)}"
    p_values = ", ".join(f"{t.short} {_p(row[f'{name}_p_holm'])}" for name, t in TESTS.items())
    return f"{head}; {intervals}; p after Holm's correction: {p_values}; {_verdict(row)}."


def _verdict(row: pd.Series) -> str:
    """The end of the sentence: found or not, by what, and what could have been found."""
    few = "" if has_seeds(row) else f" (users only: {_seed_words(row)})"
    if is_significant(row):
        return f"found by every test{few or ' and with trainings counted'}"
    missed = [test.short for name, test in TESTS.items() if not row[f"{name}_p_holm"] < ALPHA]
    missed = ["any test"] if len(missed) == len(TESTS) else missed
    missed += ["the interval over trainings"] if has_seeds(row) and _covers(row) else []
    least = f"{row['mdd']:.4f} over users"
    least += f" and {row['seed_mdd']:.4f} over users and trainings" if has_seeds(row) else ""
    return (
        f"not found by {' or '.join(missed)}{few}; four times in five such data find, before "
        f"correction, a difference of {least}"
    )


def _seed_words(row: pd.Series) -> str:
    counts = {int(row["seeds_a"]), int(row["seeds_b"])}
    if counts == {1}:
        return "one training"
    return "two trainings" if counts == {2} else "fewer than three trainings of one"


def _covers(row: pd.Series) -> bool:
    return bool(row["seed_low"] <= 0 <= row["seed_high"])


def _interval(row: pd.Series, kind: str, sign: int) -> str:
    ends = sorted(sign * float(row[f"{kind}_{end}"]) for end in ("low", "high"))
    return f"{ends[0]:.4f} to {ends[1]:.4f}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def found_word(row: pd.Series) -> str:
    """``yes`` or ``no``, with ``users only:`` before it where trainings could not be counted."""
    word = "yes" if is_significant(row) else "no"
    return word if has_seeds(row) else f"users only: {word}"


def _columns() -> list[str]:
    tested = [f"{name}_{part}" for name in TESTS for part in ("statistic", "p")]
    return ["a", "b", "n", "mean_a", "mean_b", *Effect._fields, "ci_low", "ci_high", "mdd",
            "seeds_a", "seeds_b", "sd_a", "sd_b", "seed_low", "seed_high", "seed_mdd", *tested,
            *(f"{name}_p_holm" for name in TESTS), "found"]  # fmt: skip


def _describe(values: Floats, names: Sequence[str], pair: tuple[int, int]) -> dict[str, object]:
    first, second = (np.ascontiguousarray(values[:, column]) for column in pair)
    return {
        "a": names[pair[0]], "b": names[pair[1]], "n": len(values),
        "mean_a": first.mean(), "mean_b": second.mean(), **effect(first, second)._asdict(),
    }  # fmt: skip


def _trainings(
    matrix: Floats, names: Sequence[str], per_seed: Mapping[str, Floats] | None
) -> Trainings:
    """Components of every method, [n_methods]."""
    if per_seed is None:
        per_seed = {name: matrix[:, [column]] for column, name in enumerate(names)}
    wrong = [name for name in names if name not in per_seed or len(per_seed[name]) != len(matrix)]
    if wrong:
        raise ValueError(f"{wrong[0]}: values of its seeds are missing or of other users")
    each = [trainings(per_seed[name]) for name in names]
    return Trainings(*(np.array(part, dtype=np.float64) for part in zip(*each, strict=True)))


def _add_seeds(frame: pd.DataFrame, paired: Floats, pairs: Pairs, all_methods: Trainings) -> None:
    """Columns on seeds; the interval only where both methods have enough of them."""
    a, b = (Trainings(*(part[pairs[:, side]] for part in all_methods)) for side in (0, 1))
    for side, found in (("a", a), ("b", b)):
        frame[f"seeds_{side}"], frame[f"sd_{side}"] = found.seeds.astype(np.int64), found.sd
    n_users = int(frame["n"].iloc[0])
    difference = frame["difference"].to_numpy(dtype=np.float64)
    enough = np.minimum(a.seeds, b.seeds) >= MIN_SEEDS
    for name, part in seed_aware(difference, paired, n_users, a, b)._asdict().items():
        frame[f"seed_{name}"] = np.where(enough, part, np.nan)
