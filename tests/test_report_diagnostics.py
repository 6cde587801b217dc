"""Code use, training table and figures, on a synthetic store."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmark.aggregate import DatasetResults, aggregate
from benchmark.report.code_figures import heat_maps
from benchmark.report.code_map import code_grid, grid_shape
from benchmark.report.codes import CodeUse, code_use, gini
from benchmark.report.curves import history
from benchmark.report.diagnostics import (
    codes_table,
    gradient_verdict,
    training_table,
)
from benchmark.report.efficiency import efficiency_table
from benchmark.report.table import is_missing
from benchmark.store import StoredRun, write_npy
from tests.store_fixture import LABELS, add_run, example_store


def results(runs: list[StoredRun]) -> DatasetResults:
    return aggregate(runs, tuple(LABELS))["toy"]


def test_code_use_by_hand(tmp_path: Path) -> None:
    run = add_run(tmp_path, "tiger", 0, describe__codebook_size=4)
    sids = np.array([[0, 1, 0], [0, 1, 1], [0, 2, 0], [3, 3, 0]], dtype=np.int32)
    write_npy(run.folder / "sids.npy", sids)
    use = code_use(run)
    assert use is not None
    assert use.counts.tolist() == [[3, 0, 0, 1], [0, 2, 1, 1]]
    assert (use.n_distinct, use.largest_group, use.collision_rate) == (3, 2, 0.25)
    assert use.used.tolist() == [2, 3]
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert use.perplexity == pytest.approx([math.exp(entropy), 2 ** (1.5)])
    # N/K = 1: |3-1| + 1 + 1 + 0 = 4, |0-1| + |2-1| + 0 + 0 = 2, over 2N = 8.
    assert use.balance == pytest.approx([1 - 4 / 8, 1 - 2 / 8])
    # Rising [0, 0, 1, 3] and [0, 1, 1, 2], weights -3, -1, 1, 3, over K N = 16.
    assert use.gini == pytest.approx([10 / 16, 6 / 16])


def test_gini_by_hand() -> None:
    assert gini(np.array([5, 5, 5, 5])) == 0
    assert gini(np.array([0, 0, 12, 0])) == 0.75  # 1 - 1/K
    # (-3 x 0 - 1 x 1 + 1 x 1 + 3 x 2) / (4 x 4)
    assert gini(np.array([2, 1, 0, 1])) == 6 / 16
    counts = np.arange(7) ** 2
    pairs = np.abs(counts[:, None] - counts[None, :]).mean()  # the mean-difference form
    assert gini(counts) == pytest.approx(pairs / (2 * counts.mean()))
    assert gini(np.zeros(3, dtype=np.int64)) == 0
    for bad in ([], [-1, 2]):
        with pytest.raises(ValueError, match="at least one count"):
            gini(np.array(bad, dtype=np.int64))


def test_inflation_by_hand(tmp_path: Path) -> None:
    run = add_run(tmp_path, "tiger", 0)
    table = codes_table(results([run]))
    assert table is not None
    frame = run.metrics().query("k == 10").groupby("metric")["value"].mean()
    row = table.frame.iloc[0]
    assert row["inflation"] == pytest.approx(frame["code_ndcg"] / frame["ndcg"] - 1)
    assert row["item"] < row["code"]


def test_invalid_beams_have_a_column_where_the_search_was_free(tmp_path: Path) -> None:
    bound = add_run(tmp_path, "ste", 0)
    table = codes_table(results([bound]))
    assert table is not None
    assert "Invalid" not in table.markdown_body()
    free = [
        add_run(tmp_path, "tiger", seed, describe__invalid_beams=share)
        for seed, share in ((0, 0.25), (1, 0.75))
    ]
    table = codes_table(results([bound, *free]))
    assert table is not None
    rows = table.frame.set_index("method")
    assert rows.loc["TIGER", "invalid"] == pytest.approx(0.5)
    assert rows["invalid"].isna().tolist() == [False, True]
    assert "Invalid beams" in table.markdown_body()


def test_unknown_codebook_size_is_said(tmp_path: Path) -> None:
    table = codes_table(results([add_run(tmp_path, "tiger", 0, describe__codebook_size=None)]))
    assert table is not None
    assert "TIGER: the run does not say how many codes a level has" in table.notes[0]


def test_gradient_verdicts() -> None:
    assert gradient_verdict([]) == "not measured"
    assert gradient_verdict([np.zeros(3), np.zeros(3)]) == "zero"
    assert gradient_verdict([np.zeros(2), np.array([1e-30, 1.0])]) == "reaches tokenizer"
    assert gradient_verdict([np.array([0.0, 2.0, 1.0])]) == "reaches levels 2, 3 only"


def test_training_table_reads_the_log(tmp_path: Path) -> None:
    table = training_table(results(example_store(tmp_path)))
    assert table is not None
    rows = table.frame.set_index("method")
    assert rows.loc["DIGER (FrqUD)", "verdict"] == "reaches tokenizer"
    assert rows.loc["DIGER (FrqUD), detached", "verdict"] == "zero"
    assert rows.loc["SASRec (CE)", "verdict"] == "not measured"
    assert rows.loc["DIGER (FrqUD)", "epochs"] == "6, 7"
    runs = [run for run in example_store(tmp_path) if run.method == "diger_frqud"]
    best = [run.train_log()[4]["valid/ndcg@10"] for run in runs]  # the epoch that was chosen
    assert rows.loc["DIGER (FrqUD)", "valid"] == pytest.approx(np.mean(best))
    drift = [np.mean([0.5**epoch for epoch in range(n)]) for n in (6, 7)]
    assert rows.loc["DIGER (FrqUD)", "drift"] == pytest.approx(np.mean(drift))
    assert rows.loc["DIGER (FrqUD)", "first"] == pytest.approx(0.4 / 3)
    assert rows.loc["DIGER (FrqUD)", "snr"] == pytest.approx(1.0)
    assert "Popularity" not in rows.index


def test_frozen_ids_have_no_logit_scale(tmp_path: Path) -> None:
    runs = [add_run(tmp_path, method, 0, describe__trains_tokenizer=trains)
            for method, trains in (("tiger", False), ("ste", True))]  # fmt: skip
    table = training_table(results(runs))
    assert table is not None
    assert table.frame["scale"].isna().tolist() == [True, False]


def test_training_table_says_how_it_ended_and_with_what(tmp_path: Path) -> None:
    ends = ("", "no better validation in 5 checks", "codes collapsed: 70 items share")
    runs = [add_run(tmp_path, "ste", seed, describe__stopped=end, describe__best_epoch=1)
            for seed, end in enumerate(ends)]  # fmt: skip
    row = training_table(results(runs)).frame.iloc[0]  # type: ignore[union-attr]
    assert row["ended"] == "all epochs, early stop, collapsed"
    # 14 - epoch on the last level; 6, 7 and 8 epochs were run.
    assert row["used"] == "16 / 15 / 8"


def test_signal_to_noise_is_that_of_the_last_epochs_noisy_levels(tmp_path: Path) -> None:
    run = add_run(tmp_path, "diger_frqud", 0, epochs=2)
    rows = run.train_log()
    rows[-1]["snr"] = [None, 6.0, 8.0]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run.folder / "train.jsonl").write_text(text, encoding="utf-8")
    table = training_table(results([run]))
    assert table is not None
    assert table.frame.iloc[0]["snr"] == pytest.approx(7.0)


def test_codes_table_names_the_rule_of_assignment(tmp_path: Path) -> None:
    runs = [add_run(tmp_path, "tiger", 0, describe__assignment="sinkhorn"),
            add_run(tmp_path, "ste", 0, describe__assignment="argmin")]  # fmt: skip
    table = codes_table(results(runs))
    assert table is not None
    assert table.frame["assignment"].tolist() == ["sinkhorn", "argmin"]


def test_efficiency_by_hand(tmp_path: Path) -> None:
    runs = [add_run(tmp_path, "tiger", seed, n_users=50, seconds__fit=fit, seconds__rank=0.1)
            for seed, fit in ((0, 10.0), (1, 20.0))]  # fmt: skip
    row = efficiency_table(results(runs)).frame.iloc[0]
    assert row["fit"] == 15.0
    assert row["rank"] == pytest.approx(2.0)  # 0.1 s for 50 users
    assert row["memory"] == 512.0
    assert (row["device"], row["threads"]) == ("Example CPU", "2")
    assert row["total"] == pytest.approx(15.1)
    assert row["commit"] == "cccccccc"


def test_efficiency_says_with_what_it_was_measured(tmp_path: Path) -> None:
    runs = [
        add_run(tmp_path, "pop", 0),
        add_run(tmp_path, "tiger", 0, git__dirty=True, versions={"torch": "3.0"},
                seconds={"fit": 10.0, "rank": 0.5, "shared": 4.0}, peak_device_bytes=3 * 2**20,
                execution={"step": "graph", "precision": "fp32"}),
    ]  # fmt: skip
    table = efficiency_table(results(runs))
    pop, tiger = table.frame.to_dict("records")
    assert (tiger["commit"], tiger["shared"], tiger["total"]) == ("cccccccc*", 4.0, 14.5)
    assert tiger["device_memory"] == 3.0
    assert tiger["execution"] == "graph, fp32"
    assert is_missing(pop["execution"])
    headers = [column.header for column in table.columns]
    assert {"Peak device memory, MiB", "Steps", "Commit", "Whole run, s"} <= set(headers)
    assert table.notes == (
        "Versions: torch 2.11.0, numpy 2.4.6 (Popularity).", "Versions: torch 3.0 (TIGER).",
    )  # fmt: skip
    bare = efficiency_table(results(runs[:1]))
    assert "Steps" not in [column.header for column in bare.columns]
    assert "nan" not in bare.to_markdown("x")


def test_grid_shapes() -> None:
    assert [grid_shape(n) for n in (256, 64, 128, 10, 7, 1)] == [
        (16, 16), (8, 8), (8, 16), (3, 4), (3, 3), (1, 1)]  # fmt: skip


def test_heat_map_holds_every_count(tmp_path: Path) -> None:
    counts = np.arange(10)
    grid = code_grid(counts)
    assert grid[0].tolist() == [0, 1, 2, 3]
    assert np.isnan(grid).sum() == 2
    assert np.nansum(grid) == counts.sum()
    runs = example_store(tmp_path, ["tiger", "ste", "pop"], [3, 5])
    drawings = heat_maps(results(runs))
    assert [drawing.name for drawing in drawings] == ["toy-codes-tiger", "toy-codes-ste"]
    limits = set()
    for drawing, method in zip(drawings, ("tiger", "ste"), strict=True):
        use: CodeUse | None = code_use(next(r for r in runs if r.method == method))
        assert use is not None
        assert "epoch 4 of 0 to 8, seed 3" in drawing.caption
        for level in range(3):
            image = drawing.figure.axes[level].images[0]
            limits.add(image.get_clim())
            shown = np.asarray(image.get_array()).astype(int).ravel()
            assert shown.tolist() == use.counts[level].tolist()
            assert f"{use.used[level]} of 16 codes" in drawing.figure.axes[level].get_title()
    assert len(limits) == 1


def test_heat_map_shows_the_last_epoch_where_it_is_another(tmp_path: Path) -> None:
    run = add_run(tmp_path, "ste", 0, describe__codebook_size=4)
    write_npy(run.folder / "sids.npy", np.array([[0, 1, 0], [1, 2, 0], [2, 3, 0]], dtype=np.int32))
    (run.folder / "sids").mkdir()
    for epoch, codes in ((4, [[0, 1, 0]] * 3), (5, [[3, 1, 0], [3, 1, 1], [3, 1, 2]])):
        path = run.folder / "sids" / f"epoch={epoch:04d}.npy"
        write_npy(path, np.array(codes, dtype=np.int32))
    (drawing,) = heat_maps(results([run]))
    assert "and of the last one" in drawing.caption
    titles = [axes.get_title() for axes in drawing.figure.axes[:4]]
    rows = [f"{row}, level {level}" for row in ("Chosen", "Last epoch") for level in (1, 2)]
    assert [title.splitlines()[0] for title in titles] == rows
    assert "1 of 4 codes used" in titles[2]
    shown = np.asarray(drawing.figure.axes[2].images[0].get_array())
    assert shown.ravel().tolist() == [0, 0, 0, 3]


def test_history_averages_the_seeds_that_got_there(tmp_path: Path) -> None:
    runs = tuple(add_run(tmp_path, "diger_sdud", seed, epochs=2) for seed in (0, 1))
    found = history(runs, "sigma", lambda values: float(values.mean()))
    assert list(found) == [0, 1, 2]
    assert found[1] == pytest.approx([0.8, 0.8])
    assert len(found[2]) == 1
