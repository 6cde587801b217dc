"""Methods below their reported value, and the paragraphs that people wrote on them.

``notes.yaml`` in the store has, for each data set and method, what was tried:

    beauty-keyphrases:
      tiger: >
        Learning rates of 5e-4 and 1e-3 give the same validation NDCG@10 ...
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmark.aggregate import DatasetResults
from benchmark.errors import UserError
from benchmark.report.provenance import protocol_limits
from benchmark.report.reported import is_reported_as, reported_rows

#: Relative to the reported value; a method further below it needs a paragraph.
TOLERATED = 0.15
NOTES = "notes.yaml"

Notes = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Below:
    """A method whose mean NDCG@10 is further below a reported one than is tolerated."""

    dataset: str
    method: str
    label: str
    source: str
    reported: float
    ours: float


def read_notes(store: Path) -> Notes:
    """The paragraphs by data set and method; empty where the store has no notes.yaml.

    Raises:
        UserError: the file is something else.
    """
    path = store / NOTES
    if not path.exists():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        good = all(isinstance(text, str) and text.strip()
                   for methods in found.values() for text in methods.values())  # fmt: skip
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError):
        good = False
    if not good:
        raise UserError(f"{path} must be {{DATA SET: {{METHOD: paragraph}}}}")
    return found


def below_reported(results: Iterable[DatasetResults]) -> list[Below]:
    """Every method and reported number, once for each data set.

    Results of a cut protocol (a sample of users, shorter histories) are left out: nobody has
    reported numbers for those.
    """
    found: dict[tuple[str, str, str], Below] = {}
    for result in results:
        if 10 not in result.ks or any(protocol_limits(run.info) for run in result.runs):
            continue
        means = result.summary("ndcg", 10)["mean"]
        for row in reported_rows(result):
            for method in result.methods:
                told, ours = row["ndcg@10"], float(means[method.key])
                if told is None or not is_reported_as(method, row):
                    continue
                if ours < (1 - TOLERATED) * told:
                    below = Below(result.dataset, method.method, method.label, row["source"], told,
                                  ours)  # fmt: skip
                    found.setdefault((result.dataset, method.key, row["source"]), below)
    return list(found.values())


def missing_notes(below: Iterable[Below], notes: Notes) -> list[str]:
    """One line for each method that needs a paragraph and has none."""
    lines = [
        f"{one.dataset}/{one.method} is below its reported value by more than {TOLERATED:.0%} and "
        f"has no paragraph in {NOTES}"
        for one in below if one.method not in notes.get(one.dataset, {})
    ]  # fmt: skip
    return list(dict.fromkeys(lines))
