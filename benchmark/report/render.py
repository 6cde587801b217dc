"""Write the whole report: ``index.md``, ``index.html``, ``tables/*.md``, ``tables/*.tex``,
``figures/*``.

Everything comes from stored runs; the same runs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import UserError
from benchmark.report import page
from benchmark.report.code_map import Scale
from benchmark.report.datasets import dataset_table
from benchmark.report.latex import PREAMBLE
from benchmark.report.provenance import provenance_rows
from benchmark.report.section import Order, Section, link, table_links, write_sections, write_table
from benchmark.report.table import Markdown, Table, one_line
from benchmark.store import StoredRun, write_text


def render(
    runs: list[StoredRun],
    out: Path,
    title: str,
    command: str,
    method_order: list[str],
    problems: list[str],
    scale: Scale = "log",
) -> Path:
    """Render the report of the runs.

    Args:
        runs: finished runs, of any number of data sets.
        out: folder of the report; files of the same names are replaced, others left alone.
        title: first line of the index.
        command: command line that makes this report; every file carries it.
        method_order: methods in the order of the tables; others follow by name.
        problems: lines on what could not be read (damaged cells); they come first in the index.
        scale: colours of the heat maps of code use, by log(1 + items) or by items.

    Returns:
        The path of ``index.md``, which is written last.

    Raises:
        UserError: there is nothing to report, or runs that cannot be compared.
    """
    if not runs:
        why = f" ({problems[0]})" if problems else ""
        raise UserError(f"no finished runs to report{why}; run the benchmark first")
    sections = write_sections(runs, Order(out, command, method_order, scale))
    datasets = dataset_table([section.row for section in sections])
    write_table(datasets, out, command)
    write_text(out / "tables" / "all.tex", _latex_document(sections, datasets, title, command))
    lines = [
        f"<!-- Made by: {one_line(command)} -->", "", f"# {Markdown().escape(title)}", "",
        *_problem_lines(problems),
        "Made from stored results by", "", f"    {command}", "",
        f"The same to sort, filter and compare in a browser: {link('index.html')}. "
        f"All tables as one LaTeX document: {link('tables/all.tex')}.", "",
        "## Data sets", "", datasets.markdown_body(), "", *table_links(datasets), "",
    ]  # fmt: skip
    for section in sections:
        lines += section.lines
    lines += _provenance(runs)
    parts = [section.page for section in sections]
    rows = provenance_rows(runs)
    page.write_page(out / "index.html", title, command, problems, datasets, parts, rows)
    index = out / "index.md"
    write_text(index, "\n".join(lines).rstrip() + "\n")
    return index


def _problem_lines(problems: Sequence[str]) -> list[str]:
    if not problems:
        return []
    head = f"**Problems ({len(problems)}): what they name is not in this report.**"
    return [head, "", *(f"- {Markdown().escape(problem)}" for problem in problems), ""]


def _provenance(runs: Sequence[StoredRun]) -> list[str]:
    markup = Markdown()
    rows = [f"| {markup.escape(what)} | {markup.escape(value)} |"
            for what, value in provenance_rows(runs)]  # fmt: skip
    return ["## Provenance", "", f"{len(runs)} runs.", "", "| What | Value |", "| :--- | :--- |",
            *rows]  # fmt: skip


def _latex_document(sections: Sequence[Section], datasets: Table, title: str, command: str) -> str:
    names = [datasets.name, *(name for section in sections for name in section.table_names)]
    lines = [
        f"% Made by: {one_line(command)}", f"% {' '.join(title.split())}",
        "% Compile in this folder: pdflatex all.tex", r"\documentclass[a4paper]{article}",
        r"\usepackage[landscape,margin=1cm]{geometry}", *PREAMBLE,
        r"\begin{document}", *(rf"\input{{{name}.tex}}\clearpage" for name in names),
        r"\end{document}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
