"""What a run's record says of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.provenance import _processor

HIDDEN = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"
NAMED = "cpu family\t: 6\nmodel\t\t: 106\nmodel name\t: Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (HIDDEN + HIDDEN.replace("17", "1"), "AMD EPYC (family 25, model 17)"),
        (NAMED, "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz"),
    ],
)
def test_a_processor_whose_name_is_hidden_is_told_by_its_numbers(
    tmp_path: Path, text: str, name: str
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text, encoding="utf-8")
    assert _processor(path) == name


def test_a_processor_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(ARM, encoding="utf-8")
    assert _processor(path)
    assert _processor(tmp_path / "none")
