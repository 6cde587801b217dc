"""A table that knows how to write itself as Markdown, LaTeX and HTML.

The data frame keeps the numbers; how they look is said once, per column, and all outputs follow
it: ``**best**`` and ``\\textbf{best}`` come from the same decision.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import pandas as pd

Format = Callable[[Any], str]

PAGE_ROWS = 30  # lines that fit on one LaTeX page below a caption


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
        an underscore inside a word, an ampersand or a "less than" followed by a space."""
        plain = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(plain.split()))
        plain = re.sub(r"<(?=[\w/!?])", "&lt;", plain)
        return re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))", r"\\\1", plain)

    def number(self, plain: str) -> str:
        return self.escape(plain)

    def bold(self, cell: str) -> str:
        return f"**{cell}**"

    def underline(self, cell: str) -> str:
        return f"<u>{cell}</u>"

    def raised(self, mark: str) -> str:
        return mark


class Latex:
    missing = "--"
    _special: ClassVar[dict[str, str]] = {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "&": r"\&",
        "#": r"\#", "$": r"\$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
        # After the end of a row these two would be read as an argument of \\.
        "[": "{[}", "*": "{*}",
        "\N{EN DASH}": "--", "\N{EM DASH}": "---", "±": r"$\pm$", "†": r"$\dagger$",
        "‡": r"$\ddagger$", "\N{MULTIPLICATION SIGN}": r"$\times$", "≤": r"$\le$",
        "≥": r"$\ge$", "→": r"$\to$", "λ": r"$\lambda$", "\N{GREEK SMALL LETTER SIGMA}":
        r"$\sigma$", "τ": r"$\tau$", "β": r"$\beta$", "“": "``", "”": "''",
        "\N{LEFT SINGLE QUOTATION MARK}": "`",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    }  # fmt: skip

    def escape(self, plain: str) -> str:
        return "".join(self._character(c) for c in " ".join(plain.split()))

    def _character(self, character: str) -> str:
        """pdflatex's first font encoding has these letters; others lose accents or turn into
        their code point."""
        if character in self._special:
            return self._special[character]
        if (
            character.isascii()
            or character in "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüÿ"
        ):
            return character
        ascii_part = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        return "".join(self._special.get(c, c) for c in ascii_part) or f"[U+{ord(character):04X}]"

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
        """Table floats that need the package booktabs and nothing else; a table too long for a
        page becomes several, the notes below the last."""
        rows = self.cells(Latex())
        parts = [rows[i : i + PAGE_ROWS] for i in range(0, len(rows), PAGE_ROWS)] or [[]]
        floats = [self._float(part, i, len(parts)) for i, part in enumerate(parts)]
        head = [f"% Made by: {one_line(command)}", r"% Needs \usepackage{booktabs}."]
        return "\n".join([*head, *floats]) + "\n"

    def _float(self, rows: list[list[str]], part: int, parts: int) -> str:
        markup = Latex()
        align = "".join("l" if column.format is text else "r" for column in self.columns)
        header = " & ".join(markup.escape(column.header) for column in self.columns)
        caption = self.caption if part == 0 else "Continued."
        caption += f" Part {part + 1} of {parts}." if parts > 1 else ""
        label = self.name if part == 0 else f"{self.name}-{part + 1}"
        notes = [rf"\par\smallskip\footnotesize {markup.escape(note)}" for note in self.notes]
        lines = [
            r"\begin{table}[htbp]", r"\centering", r"\small", r"\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{markup.escape(caption)}}}", rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{align}}}", r"\toprule", rf"{header} \\", r"\midrule",
            *(" & ".join(row) + r" \\" for row in rows), r"\bottomrule", r"\end{tabular}",
            *(notes if part == parts - 1 else []), r"\end{table}",
        ]  # fmt: skip
        return "\n".join(lines)

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
