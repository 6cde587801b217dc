"""From a report's tables and drawings to ``index.html``.

One file: styles, scripts, data and figures are in it, and its content security policy allows
nothing else. A data set becomes a ``Section`` as soon as its tables are made, which keeps no
per-user values, so that a report of many data sets holds one at a time.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from benchmark.aggregate import DatasetResults
from benchmark.metrics import METRICS
from benchmark.report.drawing import Drawing
from benchmark.report.html import identifier
from benchmark.report.page.comparisons import comparisons, test_labels
from benchmark.report.page.embed import Picture, as_json, picture
from benchmark.report.page.runs import SEED_MARK, address, run_pages, runs_table
from benchmark.report.provenance import protocol_line, sanity_lines
from benchmark.report.table import Table
from benchmark.report.tables import compared
from benchmark.significance import in_words
from benchmark.store import write_text

TEMPLATES = Path(__file__).with_name("templates")
#: Joined in this order; each uses what stands before it.
SCRIPTS = ("core", "tables", "figures", "charts", "compare", "runs", "route")
#: Headings of tables that are more than their names.
HEADINGS = {
    "datasets": "Data sets", "reported": "Reported numbers", "pairs": "Every pair",
    "codes": "Codes and collisions", "audit": "Gradient audit", "aa": "A/A check",
}  # fmt: skip


@dataclass(frozen=True)
class ShownTable:
    """A table as the page shows it."""

    id: str
    heading: str
    html: Markup
    notes: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class Section:
    """All that the page shows of one data set."""

    id: str
    dataset: str
    heading: str
    protocol: str
    summary: tuple[str, ...]
    sanity: tuple[str, ...]
    tables: tuple[ShownTable, ...]
    figures: tuple[Picture, ...]
    runs: ShownTable
    compared: dict[str, Any] | None
    pages: dict[str, Any]
    methods: tuple[str, ...]


def section(
    result: DatasetResults,
    made: Sequence[Table],
    drawn: Sequence[Drawing],
    figures: Path,
    verdicts: str = "",
) -> Section:
    """A data set's part of the page.

    Args:
        made: its tables, in the order in which they are shown.
        drawn: its drawings, saved in the folder ``figures``.
        verdicts: a paragraph on how reported numbers compare with ours; empty: none.
    """
    prefix = f"{result.dataset}-"
    runs = runs_table(result)
    summary = [*([verdicts] if verdicts else []), *leaders(result)]
    return Section(
        identifier(result.dataset),
        result.dataset,
        result.heading,
        protocol_line(result),
        tuple(summary),
        tuple(sanity_lines(result)),
        tuple(shown(table, prefix) for table in made),
        tuple(picture(drawing, figures, prefix) for drawing in drawn),
        shown(runs, prefix, [address(run) for run in result.runs]),
        comparisons(result),
        run_pages(result),
        tuple(result.labels.values()),
    )


def shown(table: Table, prefix: str = "", links: Sequence[str] = ()) -> ShownTable:
    """A table for the page; ``prefix`` is the part of its name that its heading leaves out."""
    name = table.name.removeprefix(prefix)
    heading = HEADINGS.get(name, name.replace("-", " ").capitalize())
    markup = Markup(table.to_html(links))
    return ShownTable(
        f"table-{identifier(table.name)}", heading, markup, table.notes, len(table.frame)
    )


def leaders(result: DatasetResults) -> list[str]:
    """Which two methods lead on the headline metric, and what is known of their difference."""
    k = result.headline_k
    means = result.summary("ndcg", k)["mean"].sort_values(ascending=False, kind="stable")
    if len(means) < 2 or len(result.users) < 2:
        return []
    first, second = (str(key) for key in means.index[:2])
    frame = compared(result, "ndcg", k)
    pair = frame[frame["a"].isin([first, second]) & frame["b"].isin([first, second])].iloc[0]
    labels = result.labels
    return [
        f"Highest {METRICS['ndcg'].label}@{k}: {labels[first]} {means[first]:.4f}, then "
        f"{labels[second]} {means[second]:.4f}. {in_words(pair, labels)}"
    ]


def write_page(
    path: Path,
    title: str,
    command: str,
    problems: Sequence[str],
    datasets: Table,
    sections: Sequence[Section],
    provenance: Sequence[tuple[str, str]],
) -> None:
    """Write the page; equal input gives equal bytes.

    Args:
        problems: a line on each run that could not be read.
        datasets: the table of data sets.
        provenance: (what, values) pairs over all runs.
    """
    style, script = _style(), _script()
    pages = [part.pages for part in sections]
    text = _environment().get_template("page.html.j2").render(
        title=title,
        command=" ".join(command.split()),
        problems=problems,
        datasets=shown(datasets),
        sections=sections,
        provenance=provenance,
        n_runs=sum(len(page["runs"]) for page in pages),
        n_methods=len({method for part in sections for method in part.methods}),
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        compare=as_json(
            {"tests": test_labels(), "sets": [part.compared for part in sections if part.compared]}
        ),
        runs=as_json({"seedMark": SEED_MARK, "sets": pages}),
    )  # fmt: skip
    write_text(path, text)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


@cache
def _style() -> str:
    return (TEMPLATES / "style.css").read_text(encoding="utf-8")


@cache
def _script() -> str:
    parts = [(TEMPLATES / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return '"use strict";\n(() => {\n' + "".join(parts) + "})();\n"


def _policy(style: str, script: str) -> str:
    """A content security policy that knows this style and this script, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
