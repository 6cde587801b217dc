"""Two stores of the same cells, side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark.against import compare, main
from benchmark.errors import UserError
from tests.store_fixture import add_run, example_store

METHODS = ("pop", "tiger", "diger_frqud")


def arguments(folder: Path) -> list[str]:
    return [f"first={folder / 'a'}", f"second={folder / 'b'}", f"out={folder / 'out'}"]


def test_equal_stores_do_not_differ(tmp_path: Path) -> None:
    for side in "ab":
        example_store(tmp_path / side, METHODS, seeds=(0, 1, 2))
    (table,), written, problems = compare(arguments(tmp_path))
    assert problems == []
    assert sorted(path.name for path in written) == ["toy-against.md", "toy-against.tex"]
    assert list(table.frame["method"]) == ["Popularity", "TIGER", "DIGER (FrqUD)"]
    assert (table.frame["difference"] == 0).all()
    assert set(table.frame["found"]) == {"no"}
    assert (table.frame["seed_low"] <= 0).all() and (table.frame["seed_high"] >= 0).all()


def test_difference_in_standard_deviations_over_seeds(tmp_path: Path) -> None:
    """NDCG of a hit at rank 1 is 1, so a run's mean is its share of hits: .5 .6 .7 against
    .2 .3 .4; both sds are .1, and .3 / .1 = 3."""
    for side, shares in (("a", (50, 60, 70)), ("b", (20, 30, 40))):
        for seed, hits in enumerate(shares):
            ranks = [1] * hits + [0] * (100 - hits)
            add_run(tmp_path / side, "tiger", seed, n_users=100, ranks=ranks)
    (table,), _, _ = compare(arguments(tmp_path))
    row = table.frame.iloc[0]
    assert row["mean_a"] == pytest.approx(0.6) and row["mean_b"] == pytest.approx(0.3)
    assert row["sd_a"] == pytest.approx(0.1) and row["sd_b"] == pytest.approx(0.1)
    assert row["in_sd"] == pytest.approx(3.0)
    assert row["found"] == "yes"
    assert row["seed_low"] > 0


def test_two_seeds_speak_of_users_only(tmp_path: Path) -> None:
    for side in "ab":
        example_store(tmp_path / side, ("tiger",), seeds=(0, 1))
    (table,), _, _ = compare(arguments(tmp_path))
    assert list(table.frame["found"]) == ["users only: no"]
    assert np.isnan(table.frame["seed_low"].iloc[0])


def test_methods_of_one_store_alone_are_left_out(tmp_path: Path) -> None:
    example_store(tmp_path / "a", METHODS)
    example_store(tmp_path / "b", ("tiger",))
    (table,), _, _ = compare(arguments(tmp_path))
    assert list(table.frame["method"]) == ["TIGER"]


def test_other_splits_are_refused(tmp_path: Path) -> None:
    example_store(tmp_path / "a", ("tiger",))
    example_store(tmp_path / "b", ("tiger",), split_sha256="6" * 64)
    with pytest.raises(UserError, match="other splits"):
        compare(arguments(tmp_path))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "two stores are needed"),
        (["first=x"], "two stores are needed"),
        (["first=x", "second=y", "third=z"], "unknown option third"),
        (["first"], "expected key=value"),
        (["first=nowhere", "second=nowhere"], "no results folder nowhere"),
    ],
)
def test_bad_arguments_are_one_line(given: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        compare(given)


def test_stores_without_a_common_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example_store(tmp_path / "a", ("tiger",))
    example_store(tmp_path / "b", ("pop",))
    monkeypatch.setattr("sys.argv", ["against", *arguments(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "no method with the same data set" in capsys.readouterr().err
