"""Write the whole report: ``index.md``, ``index.html``, ``tables/*.md``, ``tables/*.tex``,
``figures/*``.

Everything comes from stored runs; the same runs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.aggregate import DatasetResults, aggregate
from benchmark.errors import UserError
from benchmark.report import diagnostics, figures, page, tables
from benchmark.report.aa import aa_table
from benchmark.report.ablation import ablation_table
from benchmark.report.audit import audit_table
from benchmark.report.baselines import baseline_table
from benchmark.report.code_map import Scale
from benchmark.report.datasets import dataset_table
from benchmark.report.drawing import Drawing, save
from benchmark.report.efficiency import efficiency_table
from benchmark.report.latex import PREAMBLE
from benchmark.report.provenance import protocol_line, provenance_rows, sanity_lines
from benchmark.report.reported import reported_table
from benchmark.report.table import Markdown, Table, one_line
from benchmark.report.verdicts import summary_paragraph, verdict_table
from benchmark.store import StoredRun, write_text

#: Tables that the index shows in full; the others are linked.
SHOWN = ("overall", "reported")


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
    results = list(aggregate(runs, method_order).values())
    sections = [_section(result, out, command, scale) for result in results]
    datasets = dataset_table(results)
    _write_table(datasets, out, command)
    write_text(out / "tables" / "all.tex", _latex_document(sections, datasets, title, command))
    lines = [
        f"<!-- Made by: {one_line(command)} -->", "", f"# {Markdown().escape(title)}", "",
        *_problem_lines(problems),
        "Made from stored results by", "", f"    {command}", "",
        f"All tables as one LaTeX document: {_link('tables/all.tex')}.", "",
        "## Data sets", "", datasets.markdown_body(), "", *_table_links(datasets), "",
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


class _Section:
    """A data set's tables and figures, written, and its lines of the index."""

    def __init__(
        self, result: DatasetResults, made: list[Table], drawn: list[Drawing], out: Path
    ) -> None:
        self.tables = made
        verdicts = summary_paragraph(result)
        self.page = page.section(result, made, drawn, out / "figures", verdicts)
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
            lines += [*_table_links(table), ""]
        lines += ["### Figures", ""] if drawn else []
        for drawing in drawn:
            path = f"figures/{drawing.name}"
            lines += [f"![{markup.escape(drawing.alt)}]({path}.png)", ""]
            lines += [f"{markup.escape(drawing.caption)} {_link(path + '.pdf')}", ""]
        self.lines = lines


def _section(result: DatasetResults, out: Path, command: str, scale: Scale) -> _Section:
    candidates = [
        tables.overall_table(result), reported_table(result), verdict_table(result),
        baseline_table(result), ablation_table(result), tables.pairwise_table(result),
        diagnostics.codes_table(result), efficiency_table(result),
        diagnostics.training_table(result), audit_table(result), aa_table(result),
    ]  # fmt: skip
    made = [table for table in candidates if table is not None]
    for table in made:
        _write_table(table, out, command)
    drawn = figures.all_drawings(result, scale)
    for drawing in drawn:
        save(drawing, out / "figures", command)
    return _Section(result, made, drawn, out)


def _write_table(table: Table, out: Path, command: str) -> None:
    write_text(out / "tables" / f"{table.name}.md", table.to_markdown(command))
    write_text(out / "tables" / f"{table.name}.tex", table.to_latex(command))


def _table_links(table: Table) -> list[str]:
    path = f"tables/{table.name}"
    return [f"{_link(path + '.md')}, {_link(path + '.tex')}"]


def _link(path: str) -> str:
    return f"[{Path(path).name}]({path})"


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


def _latex_document(sections: Sequence[_Section], datasets: Table, title: str, command: str) -> str:
    names = [datasets.name, *(table.name for section in sections for table in section.tables)]
    lines = [
        f"% Made by: {one_line(command)}", f"% {' '.join(title.split())}",
        "% Compile in this folder: pdflatex all.tex", r"\documentclass[a4paper]{article}",
        r"\usepackage[landscape,margin=1cm]{geometry}", *PREAMBLE,
        r"\begin{document}", *(rf"\input{{{name}.tex}}\clearpage" for name in names),
        r"\end{document}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
