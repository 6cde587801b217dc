"""Methods compared with themselves: what is drawn, the table, the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark import aa
from benchmark.aggregate import aggregate
from benchmark.errors import UserError
from benchmark.paired import TESTS
from benchmark.report.aa import MADE_UP, STORED, USERS, aa_table, verdict
from benchmark.self_comparison import (
    INTERVAL,
    LABELS,
    SEED_AWARE,
    Size,
    binomial_interval,
    by_made_up_trainings,
    by_trainings,
    by_users,
    made_up_trainings,
    splits,
    training_ratio,
    varying,
)
from benchmark.speed.statistics import made_up_runs
from tests.store_fixture import add_run, example_store

Floats = NDArray[np.float64]
SMALL = Size(repeats=60, users=300, flips=200, draws=200)


def runs(seeds: int, apart: float = 0.0, users: int = 2000) -> dict[str, Floats]:
    """Two methods whose trainings hit with a share of users that varies by ``apart``."""
    found = made_up_runs(2, users, [seeds] * 2)
    rng = np.random.default_rng(3)
    return {name: np.where(rng.random(values.shape) < apart * rng.random(seeds), 1.0, values)
            for name, values in found.items()}  # fmt: skip


def rates(found: dict[str, NDArray[np.bool_]]) -> dict[str, float]:
    return {name: float(flags.mean()) for name, flags in found.items()}


def test_splits_by_hand() -> None:
    assert list(splits(1)) == []
    assert list(splits(2)) == [((0,), (1,))]
    assert list(splits(3)) == [((0,), (1, 2)), ((1,), (0, 2)), ((2,), (0, 1))]
    assert list(splits(4)) == [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    assert len(list(splits(5))) == len(list(splits(6))) == len(list(splits(20))) == 10


@pytest.mark.parametrize("seeds", [1, 3])
def test_users_drawn_anew_differ_by_chance_only(seeds: int) -> None:
    # Trainings that are far apart: with their values in random order nothing is left of that.
    size = Size(repeats=600, users=500, flips=500, draws=500)
    found = rates(by_users(runs(seeds, apart=0.2), size, 0))
    assert set(found) == {*TESTS, INTERVAL}
    assert all(0.02 <= rate <= 0.085 for rate in found.values()), found


def test_stored_trainings_that_differ_are_found_by_tests_of_users() -> None:
    found = by_trainings(runs(4, apart=0.3), SMALL, 0)
    assert {len(flags) for flags in found.values()} == {6}  # two methods, three splits
    assert found["t"].mean() > 0.5
    assert found[SEED_AWARE].mean() < found["t"].mean()
    assert SEED_AWARE not in by_trainings(runs(3), SMALL, 0)
    assert by_trainings(runs(1), SMALL, 0) == {}


def test_made_up_trainings_differ_as_much_as_the_stored_ones() -> None:
    size = Size(repeats=600, users=500, flips=500, draws=500)
    apart = rates(by_made_up_trainings(runs(5, apart=0.3), size, 0))
    assert apart["t"] > 0.3
    assert 0.02 <= apart[SEED_AWARE] <= 0.08
    alike = rates(by_made_up_trainings({"x": np.tile([[0.0, 1.0], [1.0, 0.0]], (300, 1))}, size, 0))
    assert alike["t"] <= 0.08
    assert by_made_up_trainings(runs(1), size, 0) == {}


def test_ratio_by_hand() -> None:
    # As in the test of the components: between 1, rest 1, so nothing beyond chance; then trainings
    # 1 and 5 with the same rest: variance 8, / 2 = 4, and (4 - 1) / 1.
    one = np.array([[1.0, 1.0], [1.0, 5.0]])
    apart = one + np.array([0.0, 2.0])
    assert training_ratio([one]) == pytest.approx(0)
    assert training_ratio([apart]) == pytest.approx(3)
    assert training_ratio([apart, one]) == pytest.approx(1.5)
    assert training_ratio([np.ones((3, 2)) * [0.0, 1.0]]) == 0  # no noise to compare with


def test_made_up_trainings_have_the_ratio_and_the_values_of_the_stored_ones() -> None:
    stored = made_up_runs(2, 3000, [4, 4])["method_1"]
    made = made_up_trainings(stored, 9.0, (200, 400, 4), np.random.default_rng(0))
    assert set(np.unique(made)) <= set(np.unique(stored))
    assert made.mean() == pytest.approx(stored.mean(), rel=0.05)
    each = np.array([training_ratio([values]) for values in made])
    assert 5 < each.mean() < 13
    flat = made_up_trainings(stored, 0.0, (200, 400, 4), np.random.default_rng(0))
    assert np.mean([training_ratio([values]) for values in flat]) < 0.5


def test_methods_that_tell_nothing_are_left_out() -> None:
    one, same = np.eye(3)[:, :1], np.ones((3, 2))
    assert list(varying({"one": one, "same": same, "none": np.zeros((3, 1)), "two": np.eye(3)})) \
        == ["one", "two"]  # fmt: skip


def test_binomial_interval_and_verdict_by_hand() -> None:
    # No rejection in 100: the upper end p has (1 - p)^100 = 0.005.
    assert binomial_interval(0, 100) == pytest.approx((0.0, 1 - 0.005**0.01))
    assert [verdict(*ends) for ends in ((0.06, 0.1), (0.04, 0.06), (0.01, 0.04))] == [
        "too often", "as promised", "less often",
    ]  # fmt: skip


def test_table_of_two_trainings_each(tmp_path: Path) -> None:
    stored = example_store(tmp_path, ["pop", "tiger", "diger_frqud"])
    stored += [add_run(tmp_path, "ste", seed, ranks=[1, 0] * 100) for seed in (0, 1)]
    table = aa_table(aggregate(stored)["toy"], SMALL)
    assert table is not None
    frame = table.frame
    by_user = [LABELS[name] for name in (*TESTS, INTERVAL)]
    shown = frame.groupby("check", sort=False)["test"].agg(list).to_dict()
    assert shown == {USERS: by_user, STORED: by_user, MADE_UP: [*by_user, LABELS[SEED_AWARE]]}
    assert set(frame.loc[frame["check"] == STORED, "of"]) == {3}
    assert frame.loc[frame["check"] == STORED, ["low", "verdict"]].isna().all(axis=None)
    assert (frame["rate"] == frame["rejected"] / frame["of"]).all()
    assert set(frame["sides"].dropna()) == {"1 and 1", "5 and 5"}
    assert "Left out, all trainings the same or without a hit: STE." in table.notes
    assert any("would take four of a method" in note for note in table.notes)
    assert "for the store has few" in table.caption
    assert "200 users with replacement" in table.caption
    again = aa_table(aggregate(stored)["toy"], SMALL)
    assert again is not None
    assert again.to_markdown("x") == table.to_markdown("x")


def test_table_where_there_is_little_to_compare(tmp_path: Path) -> None:
    one = aa_table(aggregate([add_run(tmp_path, "tiger", 0)])["toy"], SMALL)
    assert one is not None
    assert set(one.frame["check"]) == {USERS}
    assert "Trained once, so by users alone: TIGER." in one.notes
    none = add_run(tmp_path / "none", "tiger", 0, ranks=[0] * 200)
    assert aa_table(aggregate([none])["toy"], SMALL) is None


def test_command_writes_the_tables_and_names_what_it_cannot_check(tmp_path: Path) -> None:
    example_store(tmp_path / "store", ["tiger", "gumbel"])
    add_run(tmp_path / "store", "tiger", 0, dataset="empty", ranks=[0] * 200)
    made = aa.check([f"store={tmp_path / 'store'}", f"out={tmp_path / 'out'}", "repeats=20"])
    assert [path.name for path in made.written] == ["toy-aa.md", "toy-aa.tex"]
    text = made.written[0].read_text(encoding="utf-8")
    assert text.startswith("<!-- Made by: python -m benchmark.aa store=")
    assert made.problems == ["empty: no method's values could tell anything"]
    assert set(made.tables[0].frame["of"]) == {20, 2}


@pytest.mark.parametrize(
    ("argument", "message"),
    [("repeats=0", "repeats=0: give a whole number, 1 or more"),
     ("users=many", "users=many: give a whole number, 2 or more"),
     ("more", "expected key=value, got 'more'"),
     ("colour=red", "unknown option colour; overrides need experiment="),
     ("store=/nowhere", "no results folder /nowhere")],
)  # fmt: skip
def test_bad_arguments_are_one_line(argument: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        aa.check([argument])


def test_command_ends_with_one_line_and_code_2_and_needs_no_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmark.aa", f"store={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no finished runs to compare")
    assert len(done.stderr.splitlines()) == 1
    code = "import sys, benchmark.aa; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
