"""A data set's part of the report: its tables and figures, written, and its lines of the index.

Data sets are made apart, so that large ones can be made in processes side by side.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.aggregate import DatasetResults, aggregate, evaluated_users
from benchmark.report import diagnostics, figures, page, tables
from benchmark.report.aa import aa_table
from benchmark.report.ablation import ablation_table
from benchmark.report.audit import audit_table
from benchmark.report.baselines import baseline_table
from benchmark.report.code_map import Scale
from benchmark.report.datasets import dataset_row
from benchmark.report.drawing import Drawing, save
from benchmark.report.efficiency import efficiency_table
from benchmark.report.provenance import protocol_line, sanity_lines
from benchmark.report.reported import reported_table
from benchmark.report.table import Markdown, Table
from benchmark.report.verdicts import summary_paragraph, verdict_table
from benchmark.store import StoredRun, write_text

#: Tables that the index shows in full; the others are linked.
SHOWN = ("overall", "reported")

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

#: Users times runs from which a report is large: below, starting processes takes longer.
LARGE = 1_000_000


@dataclass(frozen=True)
class Order:
    """What all sections of a report have in common: see ``benchmark.report.render.render``."""

    out: Path
    command: str
    methods: list[str]
    scale: Scale


@dataclass(frozen=True)
class Section:
    """A data set's part, without the users' values.

    Attributes:
        table_names: of the files of its tables.
        row: of the table of data sets.
        lines: of the index.
        page: of the page.
    """

    table_names: tuple[str, ...]
    row: dict[str, Any]
    lines: list[str]
    page: page.Section


def write_sections(runs: Sequence[StoredRun], order: Order) -> list[Section]:
    """Write tables and figures of each data set, by name; large reports on all cores.

    Raises:
        UserError: runs that cannot be compared.
    """
    datasets = [
        [r for r in runs if r.dataset == name] for name in sorted({r.dataset for r in runs})
    ]
    workers = min(len(datasets), _cores())
    if workers < 2 or sum(evaluated_users(run.info) for run in runs) < LARGE:
        return [write_section(of_one, order) for of_one in datasets]
    # Not forked, as the linear algebra's threads would not survive it; and a process each, so that
    # a data set's values are gone with it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1)
    with _one_thread_each(), pool:
        return list(pool.map(write_section, datasets, [order] * len(datasets)))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that start here do linear algebra on one thread: on busy cores more only wait for
    each other, and each takes memory."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def write_section(runs: Sequence[StoredRun], order: Order) -> Section:
    """The same for the runs of one data set."""
    (result,) = aggregate(runs, order.methods).values()
    candidates = [
        tables.overall_table(result), reported_table(result), verdict_table(result),
        baseline_table(result), ablation_table(result), tables.pairwise_table(result),
        diagnostics.codes_table(result), efficiency_table(result),
        diagnostics.training_table(result), audit_table(result), aa_table(result),
    ]  # fmt: skip
    made = [table for table in candidates if table is not None]
    for table in made:
        write_table(table, order.out, order.command)
    drawn = figures.all_drawings(result, order.scale)
    for drawing in drawn:
        save(drawing, order.out / "figures", order.command)
    verdicts = summary_paragraph(result)
    return Section(
        tuple(table.name for table in made), dataset_row(result),
        _lines(result, made, drawn, verdicts),
        page.section(result, made, drawn, order.out / "figures", verdicts),
    )  # fmt: skip


def _lines(
    result: DatasetResults, made: Sequence[Table], drawn: Sequence[Drawing], verdicts: str
) -> list[str]:
    markup = Markdown()
    lines = [f"## {markup.escape(result.heading)}", "", protocol_line(result), ""]
    lines += [f"    {line}" for line in sanity_lines(result)] + [""]
    lines += [markup.escape(verdicts), ""]
    for table in made:
        heading = table.name.removeprefix(f"{result.dataset}-").capitalize()
        lines += [f"### {heading}", ""]
        if heading.lower() in SHOWN:
            lines += [table.markdown_body(), "", markup.escape(table.caption), ""]
            lines += [f"- {markup.escape(note)}" for note in table.notes] + [""]
        else:
            lines += [markup.escape(table.caption), ""]
        lines += [*table_links(table), ""]
    lines += ["### Figures", ""] if drawn else []
    for drawing in drawn:
        path = f"figures/{drawing.name}"
        lines += [f"![{markup.escape(drawing.alt)}]({path}.png)", ""]
        lines += [f"{markup.escape(drawing.caption)} {link(path + '.pdf')}", ""]
    return lines


def write_table(table: Table, out: Path, command: str) -> None:
    write_text(out / "tables" / f"{table.name}.md", table.to_markdown(command))
    write_text(out / "tables" / f"{table.name}.tex", table.to_latex(command))


def table_links(table: Table) -> list[str]:
    path = f"tables/{table.name}"
    return [f"{link(path + '.md')}, {link(path + '.tex')}"]


def link(path: str) -> str:
    return f"[{Path(path).name}]({path})"


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
