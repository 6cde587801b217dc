"""Numbers reported elsewhere, and the table that sets them beside ours.

They live in ``benchmark/reported.json``, with what is known of how each source got them; whether
ours can be compared with them is said by ``benchmark.report.comparable``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.aggregate import DatasetResults, MethodRuns
from benchmark.metrics import METRICS
from benchmark.report.provenance import encoder_names, protocol_limits
from benchmark.report.table import Column, Table, fixed, percent

REPORTED = Path(__file__).parents[1] / "reported.json"

#: Keys of a reported row that are no metric.
_NAMES = ("method", "source", "source_key", "variant", "rule")


@dataclass(frozen=True)
class Source:
    """What is known of a source's numbers; None: not known.

    Attributes:
        title: the source as notes name it.
        split: how the interactions were split.
        candidates: what was ranked.
        vectors: ``family`` and ``dimension`` of the item vectors, for methods that read any.
        excludes_seen: whether items already seen were left out.
        settings: ``released`` where the settings are those under ``settings``.
        variant: ending of the name of our method that computes what the source's code computes,
            where that is not what the source's text says.
        otherwise: in what that code differs from the text besides, and from our variant.
    """

    title: str
    split: str | None
    candidates: str | None
    vectors: Mapping[str, Any] | None
    excludes_seen: bool | None
    settings: str | None
    variant: str | None
    otherwise: str | None = None


def sources() -> dict[str, Source]:
    """Every source by its key."""
    return {key: Source(**facts) for key, facts in _stored()["sources"].items()}


def paper_name(result: DatasetResults) -> str:
    """The data set's name in reported.json. A data set's versions with other texts, and samples
    of it, stand beside the numbers of the same paper's data set."""
    return str(result.fact("paper") or result.dataset)


def reported_counts(name: str) -> Mapping[str, int]:
    """The counts on record for the reported splits of a data set; empty where there are none."""
    found: Mapping[str, int] = _stored()["data_sets"].get(name, {})
    return found


def released_settings(name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The released sizes and the released tuned values, by their keys below ``method``."""
    settings = _stored()["settings"]
    return settings["sizes"], settings["tuned"].get(name, {})


def reported_rows(result: DatasetResults) -> list[dict[str, Any]]:
    """Numbers reported elsewhere: dicts with method, source (its title), source_key, variant, rule
    (what the number's method computes otherwise than any of ours, or None) and one key a metric
    (None: the source at hand does not give it). Empty for data sets nobody reported."""
    stored, dataset = _stored(), paper_name(result)
    known = sources()
    return [
        {
            "method": row["method"],
            "source": known[row["source"]].title,
            "source_key": row["source"],
            "variant": known[row["source"]].variant,
            "rule": row.get("rule"),
            **dict(zip(stored["metrics"], row["values"], strict=True)),
        }
        for row in stored["rows"]
        if row["dataset"] == dataset
    ]


def metric_names(row: Mapping[str, Any]) -> list[str]:
    """``ndcg@10`` and so on: the metrics of a reported row, given or not."""
    return [key for key in row if key not in _NAMES]


def is_reported_as(method: MethodRuns, row: Mapping[str, Any]) -> bool:
    """Whether a reported row is about this method. Reports do not say with which loss they
    trained a baseline, which our names do: theirs stands beside each of ours. Where a source's
    code computes something else than its text says, its numbers stand beside both."""
    name = method.method.removesuffix("_bce").removesuffix("_ce")
    variant = f"{row['method']}_{row['variant']}" if row["variant"] else row["method"]
    return name in (row["method"], variant)


def source_notes(result: DatasetResults) -> list[str]:
    """The sources by the numbers that tables give them."""
    titles = source_numbers(result)
    return [f"Source {number}: {title}." for title, number in titles.items()]


def source_numbers(result: DatasetResults) -> dict[str, str]:
    """Title to number, in the order of the rows."""
    titles = dict.fromkeys(row["source"] for row in reported_rows(result))
    return {title: str(number) for number, title in enumerate(titles, 1)}


def reported_table(result: DatasetResults) -> Table | None:
    """Reported numbers beside ours, a method a row; None where there are none."""
    reported = reported_rows(result)
    if not reported:
        return None
    names = [key for key in metric_names(reported[0]) if int(key.split("@")[1]) in result.ks]
    numbers = source_numbers(result)
    rows = []
    for row in reported:
        ours: list[MethodRuns | None] = [m for m in result.methods if is_reported_as(m, row)]
        for method in ours or [None]:
            rows.append(_beside(result, row, method, names, numbers[row["source"]]))
    columns = [Column("method", "Method"), Column("source", "Source")]
    for name in names:
        columns += [Column(f"{name}/reported", f"{metric_label(name)} reported", fixed(4)),
                    Column(f"{name}/ours", "ours", fixed(4)),
                    Column(f"{name}/change", "change", percent)]  # fmt: skip
    notes = [*source_notes(result), inputs_note(result)]
    caption = (
        f"Numbers reported elsewhere for {result.heading} beside ours (mean over seeds). Which of "
        "them can be compared, and how they do, is in the table of verdicts."
    )
    return Table(
        f"{result.dataset}-reported", pd.DataFrame(rows), tuple(columns), caption, tuple(notes)
    )


def metric_label(name: str) -> str:
    """``NDCG@10`` for ``ndcg@10``."""
    metric, k = name.split("@")
    return f"{METRICS[metric].label}@{k}"


def inputs_note(result: DatasetResults) -> str:
    """What ours were made from, which decides whether a reported number can be compared."""
    limits = ", ".join(protocol_limits(result.runs[0].info)) or "none"
    return (
        f"Reported numbers may come from other inputs: the table of verdicts says where. Ours: "
        f"item text {'; '.join(result.text_sources) or 'none'}; text encoder "
        f"{encoder_names(result) or 'none'}; limits of the protocol: {limits}."
    )


def _beside(
    result: DatasetResults, row: Mapping[str, Any], method: MethodRuns | None, names: list[str],
    number: str,
) -> dict[str, Any]:  # fmt: skip
    cells: dict[str, Any] = {
        "method": method.label if method else f"{row['method']} (not run)",
        "source": number,
    }
    for name in names:
        metric, k = name.split("@")
        mean = result.summary(metric, int(k))["mean"]
        ours = None if method is None else float(mean[method.key])
        told = row[name]
        change = ours / told - 1 if ours is not None and told else None
        cells |= {f"{name}/reported": told, f"{name}/ours": ours, f"{name}/change": change}
    return cells


def _stored() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(REPORTED.read_text(encoding="utf-8"))
    return stored
