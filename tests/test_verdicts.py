"""Verdicts on reported numbers: their rule, what bars a comparison, the interval, the words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmark.aggregate import DatasetResults, aggregate
from benchmark.config import compose_config, settings_from
from benchmark.report import reported
from benchmark.report.comparable import differences
from benchmark.report.interval import MeanInterval, mean_intervals
from benchmark.report.render import render
from benchmark.report.reported import released_settings, reported_counts, reported_rows, sources
from benchmark.report.verdicts import (
    judge,
    summary_paragraph,
    verdict_frame,
    verdict_table,
)
from benchmark.resampling import bootstrap
from benchmark.store import StoredRun
from tests.store_fixture import add_run

COUNTS = {"users": 200, "items": 300, "interactions": 2000, "train_rows": 1400, "test_rows": 200}
RELEASED = {"name": "LLaMA 4096-d (released)", "source": "dataset", "dimension": 4096}
SETTINGS = {"levels": 3, "model": {"layers": 6}, "train": {"epochs": 120}, "estimator": {"tau": 2}}
FULL: dict[str, Any] = {
    "protocol__max_history": 50, "protocol__train_prefixes": None, "describe__stopped": "",
    "dataset_info__encoder": RELEASED, "describe__logit_scale": "none", "counts__test_rows": 200,
}  # fmt: skip


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of reported numbers of the toy data set, all of whose facts are known."""
    facts = {"split": "leave-one-out", "candidates": "all items", "excludes_seen": None,
             "vectors": {"family": "LLaMA", "dimension": 4096}, "settings": "released",
             "variant": None}  # fmt: skip
    unknown = dict.fromkeys(facts)
    stored = {
        "metrics": ["recall@10", "ndcg@10", "ndcg@50"],
        "data_sets": {"toy": COUNTS},
        "settings": {"sizes": {"levels": 3, "model.layers": 6},
                     "tuned": {"toy": {"train.epochs": 120, "estimator.tau": 2}}},
        "sources": {"paper": {"title": "The paper", **facts, "variant": "detached"},
                    "other": {"title": "Another", **unknown}},
        "rows": [
            {"dataset": "toy", "method": "diger_frqud", "values": [0.5, None, None],
             "source": "paper"},
            {"dataset": "toy", "method": "sasrec", "values": [None, 0.2, None], "source": "other"},
            {"dataset": "toy", "method": "gumbel", "values": [None, 0.2, None], "source": "paper"},
        ],
    }  # fmt: skip
    path = tmp_path / "reported.json"
    path.write_text(json.dumps(stored), encoding="utf-8")
    monkeypatch.setattr(reported, "REPORTED", path)
    return path


def comparable_run(root: Path, method: str, seed: int, hits: int, **changes: Any) -> StoredRun:
    """A run with nothing against it: ``hits`` of 200 users have their target on top."""
    ranks = [1] * hits + [0] * (200 - hits)
    run = add_run(root, method, seed, ranks=ranks, **{**FULL, **changes})
    (run.folder / "config.yaml").write_text(json.dumps({"method": SETTINGS}), encoding="utf-8")
    return run


def toy(runs: list[StoredRun]) -> DatasetResults:
    return aggregate(runs)["toy"]


def test_the_rule_by_hand() -> None:
    interval = MeanInterval(0.10, 0.20, True)
    assert [judge(told, 0.15, interval)[0] for told in (0.10, 0.20, 0.15)] == ["inside"] * 3
    narrow = MeanInterval(0.149, 0.151, True)
    assert judge(0.1575, 0.15, narrow)[0] == "close"  # 4.8% of 0.1575 away
    assert judge(0.158, 0.15, narrow)[0] == "off"  # 5.06% away
    assert judge(0.1429, 0.15, narrow)[0] == "close"  # 4.97% of 0.1429
    assert judge(0.1428, 0.15, narrow)[0] == "off"
    unknown = MeanInterval(float("nan"), float("nan"), False)
    assert judge(0.15, 0.15, unknown)[0] == "close"  # no interval contains anything


def test_interval_of_users_and_seeds_by_hand() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((3, 400)) < 0.3).astype(np.float64)
    values[2] *= rng.random(400) < 0.8  # a worse training
    few, many = mean_intervals([values[:2], values], draws=2000)
    averaged = np.column_stack([values[:2].mean(0), values.mean(0), np.zeros(400)])
    users = bootstrap(averaged, np.array([[0, 2], [1, 2]]), 2000)
    assert few == (users.low[0], users.high[0], False)  # two seeds: users only
    means = values.mean(axis=1)
    half = stats.t.ppf(0.975, 2) * means.std(ddof=1) / 3**0.5
    mean = means.mean()
    assert many.knows_seeds
    assert many.low == pytest.approx(mean - np.hypot(mean - users.low[1], half))
    assert many.high == pytest.approx(mean + np.hypot(users.high[1] - mean, half))


def test_interval_holds_its_level_where_seeds_differ() -> None:
    """Half the variance from seeds: users alone would contain the truth in some two thirds of
    cases. Bounds: 95% less or more than three standard errors of 400 repeats."""
    rng = np.random.default_rng(1)
    repeats, users, seeds = 400, 300, 5
    base = rng.normal(0, 1.0, (repeats, 1, users))
    shift = rng.normal(0, 0.13, (repeats, seeds, 1))
    values = 0.5 + 0.1 * (base + shift + rng.normal(0, 0.5, (repeats, seeds, users)))
    both = mean_intervals(list(values), draws=1000)
    covered = np.mean([found.low <= 0.5 <= found.high for found in both])
    assert 0.917 <= covered <= 0.985
    averaged = np.column_stack([*values.mean(axis=1), np.zeros(users)])
    pairs = np.array([(repeat, repeats) for repeat in range(repeats)])
    alone = bootstrap(averaged, pairs, 1000)
    assert np.mean((alone.low <= 0.5) & (alone.high >= 0.5)) < 0.9


def test_degenerate_intervals() -> None:
    assert mean_intervals([]) == []
    same = mean_intervals([np.full((3, 10), 0.25)])[0]
    assert same == (0.25, 0.25, True)
    assert np.isnan(mean_intervals([np.ones((3, 1))])[0].low)
    luck = np.zeros((3, 50))
    luck[0, :3] = 1  # one training of three hits anything: half a width is more than the mean
    low = mean_intervals([luck])[0].low
    assert low == 0  # held to where metrics lie


@pytest.mark.parametrize(("hits", "verdict"), [(100, "inside"), (150, "off")])
def test_a_comparable_number_is_judged(told: Path, tmp_path: Path, hits: int, verdict: str) -> None:
    runs = [comparable_run(tmp_path, "diger_frqud", seed, hits) for seed in range(3)]
    rows = verdict_frame(toy(runs))
    row = rows[rows["method"] == "DIGER (FrqUD)"].iloc[0]
    assert (row["reported"], row["ours"], row["verdict"]) == (0.5, hits / 200, verdict)
    assert row["change"] == pytest.approx(hits / 100 - 1)
    assert row["seeds_known"]
    assert "code is detached" in row["reason"]  # a note, which bars nothing
    text = summary_paragraph(toy(runs))
    assert text.startswith("Of 3 numbers reported for toy")
    assert "1 can be set beside runs of ours." in text
    assert f"{int(verdict == 'inside')} are inside our 95% interval" in text
    assert f"{int(verdict == 'off')} off and 0 not comparable" in text


def test_a_wide_interval_contains_what_is_close(told: Path, tmp_path: Path) -> None:
    ranks = ([1] * 13 + [0] * 12) * 8  # 0.52, where 0.5 is reported: 4% away
    runs = [add_run(tmp_path, "diger_frqud", seed, ranks=ranks, **FULL) for seed in range(3)]
    for run in runs:
        (run.folder / "config.yaml").write_text(json.dumps({"method": SETTINGS}))
    row = verdict_frame(toy(runs)).iloc[0]
    assert row["verdict"] == "inside"  # 200 users cannot tell 0.52 from 0.5
    assert row["low"] < 0.5 < row["high"]


BARS: list[tuple[dict[str, Any], str, str]] = [
    ({"protocol__max_history": 20}, "protocol", "histories cut to 20"),
    ({"protocol__train_prefixes": 5}, "protocol", "last 5 prefixes"),
    ({"counts__train_rows": 1399}, "split", "1,399 train rows, not 1,400"),
    ({"counts__train_rows": None}, "split", "an unknown number of train rows, not 1,400"),
    ({"dataset_info__encoder": {**RELEASED, "dimension": 384}}, "item vectors", "the source's"),
    ({"dataset_info__encoder": {**RELEASED, "source": "npy"}}, "item vectors", "LLaMA, 4096-d"),
    ({"dataset_info__encoder": "all-MiniLM-L6-v2"}, "item vectors", "all-MiniLM-L6-v2"),
    ({"describe__stopped": "out of time"}, "training cut", "training was cut: out of time"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "short", "words"), BARS)
def test_what_bars_a_comparison(
    told: Path, tmp_path: Path, change: dict[str, Any], short: str, words: str
) -> None:
    result = toy([comparable_run(tmp_path, "diger_frqud", 0, 100, **change)])
    row = verdict_frame(result).iloc[0]
    assert (row["verdict"], row["reason"]) == ("not comparable", short)
    assert row["change"] == pytest.approx(0.0)  # shown all the same
    table = verdict_table(result)
    assert table is not None
    assert any(words in note and note.startswith(short.capitalize()) for note in table.notes)
    assert f"What bars a comparison, and how many: {short} (1)." in summary_paragraph(result)


NOTES: list[tuple[dict[str, Any], str]] = [
    ({"git__dirty": True}, "uncommitted changes"),
    ({"describe__stopped": "codes collapsed: 70 items"}, "collapsed"),
    ({"describe__logit_scale": "gap 8"}, "logit scale"),
    ({}, "users only"),
    ({}, "seen items not known"),
]


@pytest.mark.parametrize(("change", "short"), NOTES)
def test_what_is_only_a_note(
    told: Path, tmp_path: Path, change: dict[str, Any], short: str
) -> None:
    row = verdict_frame(toy([comparable_run(tmp_path, "diger_frqud", 0, 100, **change)])).iloc[0]
    assert row["verdict"] == "inside"
    assert short in row["reason"]


@pytest.mark.parametrize(
    ("settings", "short"),
    [({"levels": 2}, "sizes"), ({"model": {"layers": 2}}, "sizes"),
     ({"train": {"epochs": 30}}, "training length")],
)  # fmt: skip
def test_other_settings(told: Path, tmp_path: Path, settings: dict[str, Any], short: str) -> None:
    run = comparable_run(tmp_path, "diger_frqud", 0, 100)
    config = json.dumps({"method": {**SETTINGS, **settings}})
    (run.folder / "config.yaml").write_text(config, encoding="utf-8")
    row = verdict_frame(toy([run])).iloc[0]
    assert (row["verdict"], row["reason"]) == ("not comparable", short)
    (run.folder / "config.yaml").unlink()
    row = verdict_frame(toy([run])).iloc[0]
    assert row["reason"] == "settings not stored"


def test_a_shorter_plan_that_stopped_by_itself_is_no_bar(told: Path, tmp_path: Path) -> None:
    run = comparable_run(tmp_path, "diger_frqud", 0, 100,
                         describe__stopped="no better validation in 5 checks")  # fmt: skip
    config = {"method": {**SETTINGS, "train": {"epochs": 30}, "estimator": {"tau": 8}}}
    (run.folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    row = verdict_frame(toy([run])).iloc[0]
    assert row["verdict"] == "inside"
    assert "settings" in row["reason"]  # another temperature: a note


def test_seen_items_bar_only_where_they_are_known_to_differ(told: Path, tmp_path: Path) -> None:
    stored = json.loads(told.read_text(encoding="utf-8"))
    stored["sources"]["paper"]["excludes_seen"] = True
    told.write_text(json.dumps(stored), encoding="utf-8")
    for ours, verdict in ((True, "inside"), (False, "not comparable")):
        run = comparable_run(tmp_path / str(ours), "diger_frqud", 0, 100, exclude_seen=ours)
        assert verdict_frame(toy([run])).iloc[0]["verdict"] == verdict


def test_unknown_facts_bar_and_are_called_so(told: Path, tmp_path: Path) -> None:
    runs = [comparable_run(tmp_path, "sasrec_bce", 0, 40), comparable_run(tmp_path, "tiger", 0, 9)]
    rows = verdict_frame(toy(runs))
    row = rows[rows["told_of"] == "sasrec"].iloc[0]
    assert row["verdict"] == "not comparable"
    # A baseline without texts does not depend on any vectors.
    assert row["reason"] == "split not known; candidates not known"
    generative = toy(runs).methods[1]
    found = differences(toy(runs), generative, sources()["other"])
    assert "item vectors not known" in [difference.short for difference in found]


def test_the_codes_variant_stands_beside_the_number_too(told: Path, tmp_path: Path) -> None:
    runs = [comparable_run(tmp_path, method, 0, 100)
            for method in ("diger_frqud", "diger_frqud_detached")]  # fmt: skip
    rows = verdict_frame(toy(runs))
    assert rows["verdict"].to_list() == ["inside", "inside", "not run", "not run"]
    table = verdict_table(toy(runs))
    assert table is not None
    assert sum("what the source's code does, not" in note for note in table.notes) == 1
    text = summary_paragraph(toy(runs))
    assert "Of 3 numbers" in text
    assert "1 can be set beside runs of ours, in 2 comparisons" in text
    assert "2 of the verdicts rest on fewer than three trainings" in text


def test_what_the_code_does_besides_its_variant_is_said_of_both(told: Path, tmp_path: Path) -> None:
    stored = json.loads(told.read_text(encoding="utf-8"))
    stored["sources"]["paper"]["otherwise"] = "the source's code rounds up"
    told.write_text(json.dumps(stored), encoding="utf-8")
    runs = [comparable_run(tmp_path, method, 0, 100)
            for method in ("diger_frqud", "diger_frqud_detached")]  # fmt: skip
    rows = verdict_frame(toy(runs))
    assert rows["verdict"].to_list()[:2] == ["inside", "inside"]  # a note, no bar
    table = verdict_table(toy(runs))
    assert table is not None
    assert sum("In no method of ours: the source's code rounds up" in n for n in table.notes) == 2


def test_a_number_made_by_another_rule_gets_no_verdict(told: Path, tmp_path: Path) -> None:
    stored = json.loads(told.read_text(encoding="utf-8"))
    stored["rows"][0]["rule"] = "theirs doubles the noise"
    told.write_text(json.dumps(stored), encoding="utf-8")
    result = toy([comparable_run(tmp_path, "diger_frqud", 0, 100)])
    row = verdict_frame(result).iloc[0]
    assert row["verdict"] == "not comparable"
    assert row["reason"].startswith("another rule")
    table = verdict_table(result)
    assert table is not None
    assert any("theirs doubles the noise" in note for note in table.notes)


def test_the_released_rule_of_sdud_and_frqud_on_beauty_is_known_to_be_another(
    tmp_path: Path,
) -> None:
    runs = [add_run(tmp_path, "diger_sdud_frqud", 0, dataset=name)
            for name in ("beauty", "yelp")]  # fmt: skip
    reasons = {}
    for name, result in aggregate(runs).items():
        frame = verdict_frame(result)
        ours = frame[frame["told_of"] == "diger_sdud_frqud"]
        reasons[name] = [found.short for row in ours["differences"] for found in row]
    assert "another rule" in reasons["beauty"]
    assert "another rule" not in reasons["yelp"]


def test_cut_offs_that_we_do_not_evaluate_are_said(told: Path, tmp_path: Path) -> None:
    stored = json.loads(told.read_text(encoding="utf-8"))
    stored["rows"][0]["values"] = [0.5, None, 0.3]
    told.write_text(json.dumps(stored), encoding="utf-8")
    rows = verdict_frame(toy([comparable_run(tmp_path, "diger_frqud", 0, 100)]))
    row = rows[rows["name"] == "ndcg@50"].iloc[0]
    assert (row["verdict"], row["reason"]) == ("not comparable", "cut-off")


def test_methods_without_runs_are_named(told: Path, tmp_path: Path) -> None:
    result = toy([comparable_run(tmp_path, "pop", 0, 100)])
    assert set(verdict_frame(result)["verdict"]) == {"not run"}
    table = verdict_table(result)
    assert table is not None
    assert table.markdown_body().count("not run") == 3
    assert summary_paragraph(result).endswith("0 can be set beside runs of ours.")


def test_where_nobody_reported_there_is_no_verdict(tmp_path: Path) -> None:
    runs = [add_run(tmp_path, method, 0) for method in ("pop", "tiger")]
    assert verdict_table(toy(runs)) is None
    said = summary_paragraph(toy(runs))
    assert said.startswith("No numbers are on record for toy")
    index = render(runs, tmp_path / "out", "T", "cmd", [], []).read_text(encoding="utf-8")
    assert said in index


def test_released_facts_are_what_the_paper_presets_say() -> None:
    """The paper protocol with the released settings must not be called another method."""
    for name in ("beauty", "instruments", "yelp"):
        sizes, tuned = released_settings(name)
        overrides = [f"dataset={name}", "protocol=paper", "method=diger_frqud"]
        method = settings_from(compose_config(overrides)).identity["method"]
        for key, wanted in {**sizes, **tuned}.items():
            value: Any = method
            for step in key.split("."):
                value = value[step]
            assert value == wanted, (name, key)
        assert reported_counts(name)["test_rows"] == reported_counts(name)["users"]


def test_every_number_of_the_stored_file_has_its_row(tmp_path: Path) -> None:
    result = aggregate([add_run(tmp_path, "tiger", 0, dataset="beauty")])["beauty"]
    numbers = [value for row in reported_rows(result) for key, value in row.items() if "@" in key]
    given = [value for value in numbers if value is not None]
    assert sorted(verdict_frame(result)["reported"]) == sorted(given)
    assert len(given) == 37
