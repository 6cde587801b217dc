"""The figure of two-stage IDs beside trained ones: what is drawn where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark.aggregate import DatasetResults, aggregate
from benchmark.report.balance import code_balance
from benchmark.report.codes import code_uses
from benchmark.report.drawing import save, style
from tests.store_fixture import add_run


def results(root: Path, *methods: str) -> DatasetResults:
    (found,) = aggregate(
        [add_run(root, method, seed) for method in methods for seed in (0, 1)], ["pop", "tiger"]
    ).values()
    return found


def test_means_seeds_and_levels_are_where_the_store_says(tmp_path: Path) -> None:
    result = results(tmp_path, "pop", "tiger", "ste", "diger_frqud")
    with style():
        drawing = code_balance(result)
    assert drawing is not None
    left, right = drawing.figure.axes
    methods = [method for method in result.methods if code_uses(method)]
    labels = [text.get_text() for text in left.get_yticklabels()]
    assert labels == ["TIGER", "DIGER (FrqUD)", "STE"]  # pop has no codes
    marks = [line for line in left.lines if len(set(np.atleast_1d(line.get_ydata()))) == 1]
    drawn = [np.atleast_1d(np.asarray(line.get_xdata(), dtype=float)) for line in marks]
    for place, method in enumerate(methods):
        seeds = [frame[("ndcg", 10)].mean() for frame in method.per_seed]
        assert drawn[2 * place] == pytest.approx([np.mean(seeds)])
        assert drawn[2 * place + 1] == pytest.approx(seeds)
    for level, line in enumerate(right.lines):
        wanted = [np.mean([use.balance[level] for use in code_uses(m)]) for m in methods]
        assert np.asarray(line.get_xdata(), dtype=float) == pytest.approx(wanted)
    assert len(right.lines) == 3
    assert "2 seeds a method" in drawing.caption
    assert "(STE)" in drawing.alt  # it is least balanced


def test_nothing_to_set_beside(tmp_path: Path) -> None:
    assert code_balance(results(tmp_path / "a", "pop", "tiger")) is None
    assert code_balance(results(tmp_path / "b", "ste", "diger_frqud")) is None


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    result = results(tmp_path, "tiger", "ste")
    written = []
    for name in ("a", "b"):
        with style():
            drawing = code_balance(result)
        assert drawing is not None
        paths = save(drawing, tmp_path / name, "command")
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
