"""Runs of one method that differ in one setting only, and their figure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmark.aggregate import DatasetResults, aggregate
from benchmark.errors import UserError
from benchmark.report.drawing import style
from benchmark.report.sensitivity import reference, sensitivity, settings, sweeps
from benchmark.store import StoredRun
from tests.store_fixture import LABELS, add_run


@pytest.fixture(autouse=True)
def _styled() -> Iterator[None]:
    with style():
        yield


def add(root: Path, method: str, seed: int = 0, **method_settings: Any) -> StoredRun:
    estimator = {k: method_settings.pop(k) for k in ("lambda_", "r") if k in method_settings}
    config: dict[str, Any] = {
        "dataset": {"name": "toy"},
        "method": {"levels": 3, "codebook_size": 256, **method_settings,
                   "estimator": {"_target_": method, **estimator}},
    }  # fmt: skip
    rng = np.random.default_rng([seed, *json.dumps(config).encode()])
    run = add_run(root, method, seed, config=config, ranks=rng.integers(0, 21, 200).tolist())
    text = yaml.safe_dump({**config, "seed": seed})
    (run.folder / "config.yaml").write_text(text, encoding="utf-8")
    return run


def results(runs: list[StoredRun]) -> DatasetResults:
    return aggregate(runs, tuple(LABELS))["toy"]


def found(result: DatasetResults) -> list[tuple[str, str, tuple[float, ...]]]:
    configs = [(method, settings(method) or {}) for method in result.methods]
    return [(s.parameter.rsplit(".", 1)[-1], s.methods[0].method, s.values)
            for s in sweeps(configs)]  # fmt: skip


def test_only_runs_that_differ_in_one_setting_are_a_sweep(tmp_path: Path) -> None:
    runs = [add(tmp_path, "diger_sdud", lambda_=1.7), add(tmp_path, "diger_sdud", lambda_=0.5),
            add(tmp_path, "diger_sdud", seed=1, lambda_=0.5),
            add(tmp_path, "diger_sdud", lambda_=3.0, beams=80),  # differs in beams, too
            add(tmp_path, "diger_frqud", r=1.5), add(tmp_path, "diger_frqud", r=1.5, levels=2),
            add(tmp_path, "diger_frqud", r=1.5, codebook_size=64),
            add(tmp_path, "diger_frqud", r=2.0, codebook_size=64),
            add_run(tmp_path, "pop", 0)]  # fmt: skip
    assert found(results(runs)) == [
        ("lambda_", "diger_sdud", (0.5, 1.7)), ("r", "diger_frqud", (1.5, 2.0)),
        ("codebook_size", "diger_frqud", (64, 256)), ("levels", "diger_frqud", (2, 3)),
    ]  # fmt: skip


def test_reference_has_the_other_settings(tmp_path: Path) -> None:
    runs = [add(tmp_path, "tiger"), add(tmp_path, "tiger", codebook_size=64),
            add(tmp_path, "diger_sdud", lambda_=1.7), add(tmp_path, "diger_sdud", lambda_=0.5),
            add(tmp_path, "ste", codebook_size=64), add(tmp_path, "ste")]  # fmt: skip
    result = results(runs)
    configs = [(method, settings(method) or {}) for method in result.methods]
    by_method = {s.methods[0].method: reference(s, configs) for s in sweeps(configs)}
    two_stage = by_method["diger_sdud"]
    assert two_stage is not None
    assert (settings(two_stage) or {})["method.codebook_size"] == 256
    assert by_method["ste"] is None  # two of them differ in the swept setting alone


def test_figure_shows_means_spread_and_reference(tmp_path: Path) -> None:
    runs = [add(tmp_path, "diger_sdud", seed, lambda_=value) for value in (0.5, 1.7)
            for seed in (0, 1)]  # fmt: skip
    base = add(tmp_path, "tiger")
    result = results([*runs, base])
    drawing = sensitivity(result)
    assert drawing is not None
    (axes,) = drawing.figure.axes
    line, level = axes.lines
    seeds = [[run.metrics().query("metric == 'ndcg' and k == 10")["value"].mean() for run in pair]
             for pair in (runs[:2], runs[2:])]  # fmt: skip
    assert np.asarray(line.get_xdata()).tolist() == [0.5, 1.7]
    assert np.asarray(line.get_ydata()) == pytest.approx(np.mean(seeds, axis=1))
    ndcg = base.metrics().query("metric == 'ndcg' and k == 10")["value"].mean()
    assert np.asarray(level.get_ydata())[0] == pytest.approx(ndcg)
    (bars,) = axes.collections
    ends = [sorted(np.asarray(path.vertices)[:, 1]) for path in bars.get_paths()]
    assert ends == [pytest.approx(sorted(pair)) for pair in seeds]
    words = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert words == ["DIGER (SDUD)", "TIGER, frozen IDs"]
    assert "2 seeds a value" in drawing.caption
    low, high = np.argsort(np.mean(seeds, axis=1))
    assert low != high
    assert f"(DIGER (SDUD), lambda_ = {(0.5, 1.7)[high]})" in drawing.alt


def test_no_figure_for_one_value_or_without_settings(tmp_path: Path) -> None:
    assert sensitivity(results([add(tmp_path, "diger_sdud", lambda_=1.7)])) is None
    assert sensitivity(results([add_run(tmp_path / "x", "tiger", 0)])) is None


def test_damaged_settings_are_named(tmp_path: Path) -> None:
    run = add(tmp_path, "diger_sdud", lambda_=1.7)
    (run.folder / "config.yaml").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.yaml is damaged"):
        sensitivity(results([run]))
