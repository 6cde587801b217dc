"""How a table writes itself: golden output, emphasis, special characters."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from benchmark.report.latex import PAGE_ROWS
from benchmark.report.table import Column, Latex, Markdown, Table, fixed, p_value

SPECIAL = "a_b 50% R&D #1 $x$ {y} ~z^ <w> |v| [u] *t* back\\slash"


def small_table(values: list[float | None], best: str = "max") -> Table:
    frame = pd.DataFrame({"name": [f"m{i}" for i in range(len(values))], "value": values})
    columns = (Column("name", "Name"), Column("value", "Value", fixed(2), best))  # type: ignore[arg-type]
    return Table("small", frame, columns, "A caption.", ("A note.",))


def test_markdown_golden() -> None:
    """Update when the look of tables is changed on purpose; readers' scripts may depend on it."""
    frame = pd.DataFrame(
        {"name": [SPECIAL, "b", "c"], "x": [0.5, 0.25, None], "sd": [0.1, math.nan, math.nan],
         "mark": ["†", "", ""]}
    )  # fmt: skip
    columns = (Column("name", "Na_me_"), Column("x", "X<y", fixed(2), "max", "sd", "mark"))
    table = Table("t", frame, columns, "Caption p < 0.05.", ("Note_",))
    assert table.to_markdown("run --it").splitlines() == [
        "<!-- Made by: run --it -->",
        "",
        "| Na_me\\_ | X&lt;y |",
        "| :--- | ---: |",
        "| a_b 50% R&D #1 \\$x\\$ {y} \\~z^ &lt;w> \\|v\\| \\[u\\] \\*t\\* back\\\\slash "
        "| **0.50** ± 0.10† |",
        "| b | <u>0.25</u> |",
        "| c | \N{EN DASH} |",
        "",
        "Caption p < 0.05.",
        "",
        "- Note\\_",
    ]


def test_latex_golden() -> None:
    """Update when the look of tables is changed on purpose, after compiling one."""
    frame = pd.DataFrame(
        {"name": [SPECIAL, "b"], "x": [-0.5, -0.25], "sd": [0.1, math.nan], "mark": ["", "‡"]}
    )
    columns = (Column("name", "Name_%"), Column("x", "X", fixed(2), "min", "sd", "mark"))
    table = Table("toy-t", frame, columns, "Costs & gains", ("100%",))
    assert table.to_latex("run --it").splitlines() == [
        "% Made by: run --it",
        r"% Needs \usepackage{booktabs} \usepackage{array} \usepackage{graphicx}.",
        r"\begin{table}[htbp]",
        r"\centering\sloppy\small",
        r"\setlength{\tabcolsep}{4pt}",
        r"\caption{Costs \& gains}",
        r"\label{tab:toy-t}",
        r"\vspace{4pt}",
        r"\sbox0{\begin{tabular}{>{\raggedright\arraybackslash}p{9.2cm}r}",
        r"\toprule",
        r"Name\_\% & X \\",
        r"\midrule",
        r"a\_b 50\% R\&D \#1 \symbol{36}x\symbol{36} \{y\} \textasciitilde{}z\textasciicircum{} "
        r"\textless{}w\textgreater{} \textbar{}v\textbar{} {[}u] {*}t{*} back\textbackslash{}slash"
        r" & \textbf{$-$0.50} $\pm$ 0.10 \\",
        r"b & \underline{$-$0.25}$^{\ddagger}$ \\",
        r"\bottomrule",
        r"\end{tabular}}%",
        r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
        r"\par\smallskip\raggedright\footnotesize 100\%",
        r"\end{table}",
    ]


@pytest.mark.parametrize(
    ("values", "best", "expected"),
    [
        ([0.1, 0.3, 0.2], "max", ["", "best", "second"]),
        ([0.1, 0.3, 0.2], "min", ["best", "", "second"]),
        ([0.3, 0.301, 0.2], "max", ["best", "best", "second"]),  # look the same: tied
        ([0.2, 0.2, 0.2], "max", ["best", "best", "best"]),
        ([None, 0.2, math.nan], "max", ["", "", ""]),  # nothing to be better than
        ([None, 0.2, 0.1], "max", ["", "best", "second"]),
    ],
)
def test_bold_and_underline(values: list[float | None], best: str, expected: list[str]) -> None:
    table = small_table(values, best)
    assert table.emphasis(table.columns[1]) == expected


def test_markup_of_odd_characters() -> None:
    assert Latex().escape("Café “x” 中 ş") == r"Café ``x'' {[}U+4E2D]\hspace{0pt} \c{s}"
    assert Markdown().escape("a\nb &lt; c & d_e") == "a b &amp;lt; c & d_e"
    assert [p_value(p) for p in (0.0, 0.0009, 0.0123, 1.0)] == [
        "<0.001",
        "<0.001",
        "0.012",
        "1.000",
    ]


def test_command_cannot_end_the_comment() -> None:
    text = small_table([1.0]).to_markdown("x --> y\nz")
    assert text.startswith("<!-- Made by: x -- > y z -->\n")


def test_long_tables_become_several_floats() -> None:
    parts = (
        small_table([float(i) for i in range(PAGE_ROWS + 1)]).to_latex("x").split(r"\end{table}")
    )
    assert [part.count(r" \\") for part in parts] == [1 + PAGE_ROWS, 1 + 1, 0]
    assert r"\caption{A caption. Part 1 of 2.}" in parts[0]
    assert r"\caption{Continued. Part 2 of 2.}" in parts[1]
    assert ["A note." in part for part in parts] == [False, True, False]
