"""Tables as HTML: what they show is escaped, and what they sort by is the number itself."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmark.report.table import Column, is_missing, text

if TYPE_CHECKING:
    from benchmark.report.table import Table


class Html:
    """Markup inside a cell. Emphasis is said in words, too, which only screen readers get."""

    missing = "\N{EN DASH}"

    def escape(self, plain: str) -> str:
        return html.escape(" ".join(plain.split()))

    def number(self, plain: str) -> str:
        return self.escape(plain)

    def bold(self, cell: str) -> str:
        return f'<strong>{cell}<span class="spoken"> (best)</span></strong>'

    def underline(self, cell: str) -> str:
        return f'<u>{cell}<span class="spoken"> (second)</span></u>'

    def raised(self, mark: str) -> str:
        return f"<sup>{self.escape(mark)}</sup>"


def identifier(name: str) -> str:
    """A name as part of an element's id: letters, digits, ``_`` and ``-``; others are written by
    their code points, so that different names stay different."""
    return re.sub(r"[^0-9A-Za-z_-]", lambda found: f".{ord(found[0]):x}.", name)


def to_html(table: Table, links: Sequence[str] = ()) -> str:
    """A ``<table>`` with its caption; the first column heads the rows.

    Numbers carry ``data-value``, the number as it was before it was rounded to be shown.

    Args:
        links: addresses, one a row, that the heads of the rows link to; none: no links.
    """
    heads = "".join(
        f'<th scope="col" data-kind="{kind(column)}">{html.escape(column.header)}</th>'
        for column in table.columns
    )
    rows = [
        _row(table.columns, values, cells, links[index] if links else "")
        for index, (values, cells) in enumerate(
            zip(table.frame.to_dict("records"), table.cells(Html()), strict=True)
        )
    ]
    return "\n".join(
        [f'<table id="table-{identifier(table.name)}">',
         f"<caption><span>{html.escape(table.caption)}</span></caption>",
         f"<thead><tr>{heads}</tr></thead>", "<tbody>", *rows, "</tbody>", "</table>"]
    )  # fmt: skip


def kind(column: Column) -> str:
    """``text`` or ``number``: how a column is aligned and sorted."""
    return "text" if column.format is text else "number"


def _row(columns: Sequence[Column], values: dict[Any, Any], cells: Sequence[str], link: str) -> str:
    written = []
    for position, (column, cell) in enumerate(zip(columns, cells, strict=True)):
        sort_by = ""
        if kind(column) == "number":
            sort_by = ' class="number"'
            if not is_missing(values[column.key]):
                sort_by += f' data-value="{plain_number(values[column.key])}"'
        if position:
            written.append(f"<td{sort_by}>{cell}</td>")
        else:
            linked = f'<a href="{html.escape(link)}">{cell}</a>' if link else cell
            written.append(f'<th scope="row"{sort_by}>{linked}</th>')
    return f"<tr>{''.join(written)}</tr>"


def plain_number(value: Any) -> str:
    """A number as JavaScript reads it."""
    number = float(value)
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return repr(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
