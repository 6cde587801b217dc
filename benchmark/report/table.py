"""A table that knows how to write itself as Markdown, LaTeX and HTML.

The data frame keeps the numbers; how they look is said once, per column, and all outputs follow
it: ``**best**`` and ``\\textbf{best}`` come from the same decision.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import pandas as pd

from benchmark.report import latex

Format = Callable[[Any], str]


def fixed(digits: int) -> Format:
    """Numbers with that many decimals."""
    return lambda value: f"{value:.{digits}f}"


def integer(value: Any) -> str:
    """Whole numbers with thousands separated."""
    return f"{round(value):,}"


def percent(value: Any) -> str:
    """Shares with a sign, as a change: 0.05 is ``+5.0%``."""
    return f"{value:+.1%}"


def share(value: Any) -> str:
    """Shares without a sign: 0.0123 is ``1.23%``."""
    return f"{value:.2%}"


def significant(value: Any) -> str:
    """Three significant digits; for numbers of any size."""
    return f"{value:.3g}"


def p_value(value: Any) -> str:
    """Three decimals, and never a p-value of 0."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def text(value: Any) -> str:
    return str(value)


@dataclass(frozen=True)
class Column:
    """How one column of the frame is shown.

    Attributes:
        key: the frame's column.
        header: what readers see above it.
        format: value to text; values that are None or NaN show as a dash.
        best: which end is better, if the best value is to be bold and the second underlined.
        spread: column of the standard deviations to show after the values.
        mark: column of marks ("", "†", ...) to show after the values.
    """

    key: str
    header: str
    format: Format = text
    best: Literal["max", "min"] | None = None
    spread: str | None = None
    mark: str | None = None


class Markup(Protocol):
    """What Markdown and LaTeX do differently inside a cell."""

    missing: str

    def escape(self, plain: str) -> str: ...
    def number(self, plain: str) -> str: ...
    def bold(self, cell: str) -> str: ...
    def underline(self, cell: str) -> str: ...
    def raised(self, mark: str) -> str: ...


class Markdown:
    missing = "\N{EN DASH}"

    def escape(self, plain: str) -> str:
        """Backslashes before what Markdown would read, and nothing before what it would not:
        an underscore inside a word, an ampersand or a "less than" followed by a space. Dollars
        count, because some readers take what is between two of them for mathematics."""
        plain = self.number(" ".join(plain.split()))
        # At the start of a line: a quotation, a list. Hashes begin a heading, and close it.
        plain = re.sub(r"^(>|[+-](?= |$))", r"\\\1", plain)
        plain = re.sub(r"^(\d{1,9})([.)])(?= |$)", r"\1\\\2", plain)
        return re.sub(r"(?<!\S)(#+)(?!\S)", r"\\\1", plain)

    def number(self, plain: str) -> str:
        plain = re.sub(r"&(?=#?\w+;)", "&amp;", plain)
        plain = re.sub(r"<(?=[\w/!?])", "&lt;", plain)
        return re.sub(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))", r"\\\1", plain)

    def bold(self, cell: str) -> str:
        return f"**{cell}**"

    def underline(self, cell: str) -> str:
        return f"<u>{cell}</u>"

    def raised(self, mark: str) -> str:
        return mark


class Latex:
    missing = "--"

    def escape(self, plain: str) -> str:
        return latex.escape(plain)

    def number(self, plain: str) -> str:
        return self.escape(plain).replace("-", "$-$")

    def bold(self, cell: str) -> str:
        return rf"\textbf{{{cell}}}"

    def underline(self, cell: str) -> str:
        return rf"\underline{{{cell}}}"

    def raised(self, mark: str) -> str:
        return f"$^{{{self.escape(mark).replace('$', '')}}}$"


@dataclass(frozen=True, eq=False)
class Table:
    """A data frame and how to show it.

    Attributes:
        name: file name without ending; also the LaTeX label.
        frame: one row a line; may hold more columns than are shown.
        columns: the shown ones, left to right.
        caption: one paragraph of plain text.
        notes: lines of plain text below the table.
    """

    name: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]
    caption: str
    notes: tuple[str, ...] = ()

    def emphasis(self, column: Column) -> list[Literal["best", "second", ""]]:
        """Per row. Values that look the same are tied; all of them count. No second-best where
        everything is tied; no emphasis at all with fewer than two values."""
        values = list(self.frame[column.key])
        known = [value for value in values if not is_missing(value)]
        if column.best is None or len(known) < 2:
            return [""] * len(values)
        known.sort(reverse=column.best == "max")
        shown = list(dict.fromkeys(column.format(value) for value in known))
        marks: dict[str, Literal["best", "second", ""]] = dict.fromkeys(shown, "")
        for name in shown[1:2]:
            marks[name] = "second"
        marks[shown[0]] = "best"
        return ["" if is_missing(v) else marks[column.format(v)] for v in values]

    def cells(self, markup: Markup) -> list[list[str]]:
        """Finished cells, row by row."""
        columns = [self._column(column, markup) for column in self.columns]
        return [list(row) for row in zip(*columns, strict=True)]

    def to_markdown(self, command: str) -> str:
        """The table, its caption and notes; ``command`` says what made it."""
        markup = Markdown()
        lines = [f"<!-- Made by: {one_line(command)} -->", "", self.markdown_body(), ""]
        lines += [markup.escape(self.caption), ""]
        lines += [f"- {markup.escape(note)}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"

    def markdown_body(self) -> str:
        """The bare pipe table."""
        markup = Markdown()
        header = [markup.escape(column.header) for column in self.columns]
        rule = [":---" if column.format is text else "---:" for column in self.columns]
        return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *self.cells(markup)])

    def to_html(self, links: Sequence[str] = ()) -> str:
        """A ``<table>`` with its caption, without the notes; ``links`` holds an address a row for
        the row's head, or nothing."""
        from benchmark.report.html import to_html  # which needs this module

        return to_html(self, links)

    def to_latex(self, command: str) -> str:
        """Table floats that need the packages booktabs, array and graphicx; long tables become
        several, wide ones are scaled to the text, and long texts wrap."""
        markup = Latex()
        texts = [self._texts(column) for column in self.columns]
        align = ["w" if latex.wraps(of_column) else "l" if column.format is text else "r"
                 for column, of_column in zip(self.columns, texts, strict=True)]  # fmt: skip
        wrapped = [column for column, kind in zip(texts, align, strict=True) if kind == "w"]
        letters = [max(map(latex.letters, row)) for row in zip(*wrapped, strict=True)]
        header = [markup.escape(column.header) for column in self.columns]
        table = latex.Cells(
            self.name, header, align, self.cells(markup), letters or [0] * len(self.frame),
            self.caption, self.notes,
        )  # fmt: skip
        head = [f"% Made by: {one_line(command)}", f"% Needs {' '.join(latex.PREAMBLE)}."]
        return "\n".join([*head, *latex.floats(table)]) + "\n"

    def _texts(self, column: Column) -> list[str]:
        """A text a row; empty for numbers and for what is missing."""
        values = self.frame[column.key] if column.format is text else [None] * len(self.frame)
        return ["" if is_missing(value) else str(value) for value in values]

    def _column(self, column: Column, markup: Markup) -> list[str]:
        return [
            self._cell(row, column, emphasis, markup)
            for (_, row), emphasis in zip(self.frame.iterrows(), self.emphasis(column), strict=True)
        ]

    def _cell(self, row: pd.Series, column: Column, emphasis: str, markup: Markup) -> str:
        value = row[column.key]
        if is_missing(value):
            return markup.missing
        write = markup.escape if column.format is text else markup.number
        cell = write(column.format(value))
        if emphasis:
            cell = markup.bold(cell) if emphasis == "best" else markup.underline(cell)
        if column.spread and not is_missing(row[column.spread]):
            cell += f" {markup.escape('±')} {markup.number(column.format(row[column.spread]))}"
        if column.mark and row[column.mark]:
            cell += markup.raised(row[column.mark])
        return cell


def is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def one_line(command: str) -> str:
    """The command as a comment may hold it."""
    return " ".join(command.split()).replace("-->", "-- >")
