"""The bar of one cell's progress."""

from __future__ import annotations

import pytest

from benchmark.progress import Bar


def test_one_bar_a_phase_even_if_it_ends_sooner(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("tiger seed 0")
    bar(1, 1000, "epoch")
    bar(10, 300, "epoch")  # an early stop is in sight
    first = bar._bar
    assert (first.n, first.total) == (10, 300)
    bar(1, 50, "step", "best 0.1")
    assert bar._bar is not first
    assert (bar._bar.n, bar._bar.total) == (1, 50)
    bar.close()
    shown = capsys.readouterr().err
    assert "10/300" in shown
    assert "1/50" in shown
