"""Methods against baselines, and the ablation of noise and decay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmark.aggregate import DatasetResults, aggregate
from benchmark.report.ablation import WAYS, ablation_table
from benchmark.report.baselines import against, baseline_table
from benchmark.report.codes import code_uses
from benchmark.report.table import Latex, Markdown
from benchmark.report.tables import compared
from benchmark.significance import TESTS
from benchmark.store import StoredRun
from tests.store_fixture import LABELS, add_run, example_store

METHODS = Path(__file__).parents[1] / "benchmark" / "conf" / "method"


def results(runs: list[StoredRun], order: tuple[str, ...] = tuple(LABELS)) -> DatasetResults:
    return aggregate(runs, order)["toy"]


def test_differences_by_hand_whichever_way_round(tmp_path: Path) -> None:
    # Recall and NDCG of rank 1 are 1: means 0.75 and 0.25 of 8 users, 4 of whom differ.
    runs = [add_run(tmp_path, "diger_frqud", 0, n_users=8, ranks=[1] * 6 + [0] * 2),
            add_run(tmp_path, "sasrec", 0, n_users=8, ranks=[1] * 2 + [0] * 6)]  # fmt: skip
    rows = []
    for order in (("sasrec", "diger_frqud"), ("diger_frqud", "sasrec")):
        result = results(runs, order)
        table = baseline_table(result)
        assert table is not None
        (row,) = table.frame.to_dict("records")
        assert (row["method"], row["baseline"]) == ("DIGER (FrqUD)", "SASRec (CE)")
        assert (row["difference"], row["relative"]) == (0.5, 2.0)  # 0.5 over 0.25
        assert 0 < row["low"] < 0.5 < row["high"]
        frame = compared(result, "ndcg", 10)
        assert row["p"] == max(frame[f"{name}_p_holm"].iloc[0] for name in TESTS)
        assert row["found"] == "users only: no"  # four users say too little
        rows.append((row["low"], row["high"]))
    # Turned round, the interval's ends change signs and places.
    turned = against(compared(results(runs), "ndcg", 10), "sasrec", "diger_frqud")
    assert (-turned["high"], -turned["low"]) == rows[0]
    assert turned["relative"] == pytest.approx(-0.5 / 0.75)


def test_every_method_meets_every_baseline(tmp_path: Path) -> None:
    result = results(example_store(tmp_path, seeds=[0]))
    table = baseline_table(result)
    assert table is not None
    assert len(table.frame) == 5 * 5
    pairs = set(zip(table.frame["method"], table.frame["baseline"], strict=True))
    assert len(pairs) == 25
    assert "over all 45 pairs" in table.caption
    (ste,) = [row for row in table.frame.to_dict("records")
              if (row["method"], row["baseline"]) == ("STE", "TIGER")]  # fmt: skip
    assert ste["difference"] < 0
    assert ste["found"] == "users only: yes"


def test_no_baselines_table_without_both_sides(tmp_path: Path) -> None:
    assert baseline_table(results(example_store(tmp_path / "a", ["pop", "tiger"]))) is None
    assert baseline_table(results(example_store(tmp_path / "b", ["ste", "gumbel"]))) is None


def test_what_the_frame_says_was_found_is_shown(tmp_path: Path) -> None:
    result = results(example_store(tmp_path, ["sasrec", "ste"], seeds=[0]))
    frame = compared(result, "ndcg", 10).assign(found="users only: yes")
    assert against(frame, "ste", "sasrec")["found"] == "users only: yes"


def test_ablation_rows_and_numbers(tmp_path: Path) -> None:
    result = results(example_store(tmp_path))
    table = ablation_table(result)
    assert table is not None
    rows = {row["method"]: row for row in table.frame.to_dict("records")}
    assert list(rows) == ["TIGER", "STE", "Gumbel, no decay", "DIGER (SDUD)", "DIGER (FrqUD)",
                          "DIGER (FrqUD), detached"]  # fmt: skip
    assert [rows["TIGER"][key] for key in ("noise", "decay", "forward", "gradient")] == [
        "none", "none", "frozen IDs", "none"]  # fmt: skip
    ste, means = rows["STE"], result.summary("ndcg", 10)["mean"]
    assert ste["ndcg"] == means["ste"]
    assert ste["change"] == pytest.approx(means["ste"] / means["tiger"] - 1)
    uses = code_uses(next(m for m in result.methods if m.key == "ste"))
    assert ste["used"] == pytest.approx(np.mean([np.mean(use.used) / 16 for use in uses]))
    assert ste["gini"] == pytest.approx(np.mean([use.gini for use in uses]))
    drift = [np.mean([0.5**epoch for epoch in range(n)]) for n in (6, 7)]
    assert ste["drift"] == pytest.approx(np.mean(drift))
    assert rows["DIGER (FrqUD), detached"]["measured"] == "zero"
    assert rows["DIGER (FrqUD)"]["measured"] == "reaches tokenizer"
    cells = {row[0]: row for row in table.cells(Markdown())}
    column = [c.key for c in table.columns].index("ndcg")
    assert cells["DIGER (FrqUD)"][column].startswith("**")
    assert cells["TIGER"][column + 1] == "\N{EN DASH}"  # not against itself
    assert all("nan" not in cell.lower() for row in cells.values() for cell in row)
    assert len(table.cells(Latex())) == 6


def test_ablation_without_the_two_stage_row(tmp_path: Path) -> None:
    table = ablation_table(results(example_store(tmp_path, ["ste", "gumbel", "pop"])))
    assert table is not None
    assert "change" not in table.frame
    assert "two-stage row" not in table.caption
    assert ablation_table(results([add_run(tmp_path / "one", "ste", 0)])) is None


def test_ways_are_those_of_the_configured_methods() -> None:
    """Every method that trains IDs, or freezes TIGER's, has its row; and no other one."""
    configured = {
        path.stem
        for path in METHODS.glob("*.yaml")
        if "GenerativeRecommender" in yaml.safe_load(path.read_text())["_target_"]
    }
    assert set(WAYS) == configured


def test_ways_say_what_the_classes_do() -> None:
    """Whether the recommendation loss trains the tokenizer, and what goes forward, by the names
    of the estimators, whose gradients tests/test_gradients.py measures."""
    for name, way in WAYS.items():
        settings = yaml.safe_load((METHODS / f"{name}.yaml").read_text(encoding="utf-8"))
        estimator = settings["estimator"]["_target_"]
        assert (way.gradient == "none") == estimator.endswith(("Detached", "TwoStage")), name
        assert (way.forward == "last refresh") == estimator.endswith(("Cached", "Detached")), name
