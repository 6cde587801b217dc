"""How a process is set up before it trains."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys

import pytest

from benchmark import execution

STEPS = """
import resource, sys, torch
from benchmark.execution import Execution, begin
if sys.argv[1] == "begun":
    begin(Execution(), "cpu")
def step(i):
    # What is larger than all before it is what glibc returns to the system.
    torch.ones((7 << 20) + 4096 * i)
for i in range(3):
    step(i)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for i in range(3, 13):
    step(i)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_what_a_step_frees_is_kept_for_the_next_one() -> None:
    faults = [
        float(subprocess.check_output([sys.executable, "-c", STEPS, way], text=True))
        for way in ("begun", "as it is")
    ]
    pages = 4 * (7 << 20) / resource.getpagesize()
    assert faults[0] < 0.02 * pages
    assert faults[1] > 0.5 * pages  # or there is nothing to keep


def test_another_c_library_keeps_what_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not execution.keep_memory()
