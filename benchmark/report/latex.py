r"""Text and tables as LaTeX that pdflatex compiles as is, with booktabs, array and graphicx.

All three packages come with Debian's texlive-latex-recommended. Text is escaped for pdflatex's
first font encoding (OT1), so no package for fonts or input is needed: accents are spelled out,
Greek letters become mathematics, and a letter that its fonts do not have (Chinese, Hebrew, ...)
is named by its code point.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

PAGE_ROWS = 30  # lines of a table's body that fit on one page below a caption of CAPTION_LINES
CAPTION_LINES, _CAPTION_LETTERS = 8, 75  # and the letters on such a line, portrait
NOTE_LINES, _NOTE_LETTERS = 4, 90  # lines of notes that fit below them
WRAP_FROM = 31  # letters from which a text's column wraps

PREAMBLE = (r"\usepackage{booktabs}", r"\usepackage{array}", r"\usepackage{graphicx}")

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "&": r"\&",
    "#": r"\#", "$": r"\symbol{36}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\`{}",
    # \$ would be taken from a font that only comes as a bitmap.
    # After the end of a row these two would be read as an argument of \\.
    "[": "{[}", "*": "{*}",
    "\N{EN DASH}": "--", "\N{EM DASH}": "---", "±": r"$\pm$", "†": r"$\dagger$",
    "‡": r"$\ddagger$", "\N{MULTIPLICATION SIGN}": r"$\times$", "≤": r"$\le$",
    "≥": r"$\ge$", "→": r"$\to$", "·": r"$\cdot$", "∞": r"$\infty$", "“": "``", "”": "''",
    "\N{LEFT SINGLE QUOTATION MARK}": r"{`}",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "œ": r"\oe{}", "Œ": r"\OE{}", "ł": r"\l{}", "Ł": r"\L{}",
    "\N{LATIN SMALL LETTER DOTLESS I}": r"\i{}",
    "¡": "!`{}", "¿": "?`{}", "ς": r"$\varsigma$", "µ": r"$\mu$", "¹": "$^{1}$", "²": "$^{2}$",
    "³": "$^{3}$",
}  # fmt: skip

_LATIN_1 = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿ"  # as they are

_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u",
    "\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
    "\u0323": "d", "\u0331": "b",
}  # fmt: skip

#: Greek capitals that look like none of the Latin ones; TeX has commands for these only.
_GREEK_CAPITALS = ("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi",
                   "Psi", "Omega")  # fmt: skip


def escape(plain: str) -> str:
    """Plain text as LaTeX shows it, on one line."""
    line = " ".join(plain.split())
    # TeX would join two hyphens or apostrophes into a dash or a quotation mark.
    return "".join(
        f"{{}}{c}" if c in "-'" and c == before else _character(c)
        for before, c in zip(f" {line}", line, strict=False)
    )


def _character(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if (character.isascii() and character.isprintable()) or character in _LATIN_1:
        return character
    return (
        _greek(character)
        or _accented(character)
        or _compatible(character)
        or rf"{{[}}U+{ord(character):04X}]\hspace{{0pt}}"  # a line may end here
    )


def _greek(character: str) -> str:
    name = unicodedata.name(character, "").replace("LAMDA", "LAMBDA")
    found = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", name)
    if not found or found[2] == "OMICRON":
        return ""
    letter = found[2].capitalize() if found[1] == "CAPITAL" else found[2].lower()
    is_command = letter in _GREEK_CAPITALS or (found[1] == "SMALL" and "final" not in letter)
    return rf"$\{letter}$" if is_command else ""


def _accented(character: str) -> str:
    """A Latin letter with one accent that TeX has; empty for all others."""
    parts = unicodedata.normalize("NFD", character)
    if len(parts) != 2 or not parts[0].isascii() or parts[1] not in _ACCENTS:
        return ""
    above = parts[1] not in "\u0327\u0323\u0331"
    base = rf"\{parts[0]}{{}}" if above and parts[0] in "ij" else parts[0]
    return rf"\{_ACCENTS[parts[1]]}{{{base}}}"


def _compatible(character: str) -> str:
    """What Unicode says it stands for, where that is plain ASCII: ligatures, wide letters."""
    plain = unicodedata.normalize("NFKC", character)
    return escape(plain) if plain.isascii() and plain.isprintable() else ""


@dataclass(frozen=True)
class Cells:
    """A table ready to be set: escaped text.

    Attributes:
        name: decides the label, ``tab:<name>``.
        header: one cell a column.
        align: ``l``, ``r`` or ``w`` (a column of text that wraps), one a column.
        rows: the cells of each row.
        letters: of the longest text in the wrapped columns of each row, which decides its lines.
        caption, notes: plain text.
    """

    name: str
    header: Sequence[str]
    align: Sequence[str]
    rows: Sequence[Sequence[str]]
    letters: Sequence[int]
    caption: str
    notes: Sequence[str]


def floats(table: Cells) -> list[str]:
    """Table floats. One that is too long for a page becomes several; one that is wider than the
    text is scaled down to it. Notes stand below the last float or, if they are many, after it."""
    per_line, _ = _wrapped(table)
    lines = [max(1, -(-longest // per_line)) for longest in table.letters]
    over = max(0, _lines(table.caption, _CAPTION_LETTERS) - CAPTION_LINES)
    parts = _pages(lines, PAGE_ROWS - over)
    within = sum(_lines(note, _NOTE_LETTERS) for note in table.notes) <= NOTE_LINES
    made = [_float(table, start, end, number, len(parts), within)
            for number, (start, end) in enumerate(parts)]  # fmt: skip
    if table.notes and not within:
        made.append(_after(table))
    return made


def wraps(texts: Sequence[str]) -> bool:
    """Whether a column of these texts wraps: where one is long and no word of it is."""
    words = [len(word) for text in texts for word in text.split()]
    return max(map(len, texts), default=0) >= WRAP_FROM > max(words, default=0)


def _wrapped(table: Cells) -> tuple[int, str]:
    """Letters on a line of a wrapped column, and its width: one alone gets more room."""
    return (56, "9.2cm") if list(table.align).count("w") == 1 else (27, "4.6cm")


def _pages(lines: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Ranges of rows that fit on a page each, the first with ``room`` lines; one, empty, for no
    rows."""
    parts, start, used = [], 0, 0
    for row, count in enumerate(lines):
        if used and used + count > room:
            parts.append((start, row))
            start, used, room = row, 0, PAGE_ROWS
        used += count
    return [*parts, (start, len(lines))]


def letters(plain: str) -> int:
    """How many letters a text has when it is set; those spelled as code points have many."""
    return len(re.sub(r"\\hspace\{0pt\}|\\\w+|[{}$\\]", "", escape(plain)))


def _lines(plain: str, per_line: int) -> int:
    return -(-letters(plain) // per_line)


def _float(table: Cells, start: int, end: int, part: int, parts: int, notes_within: bool) -> str:
    caption = table.caption if part == 0 else "Continued."
    caption += f" Part {part + 1} of {parts}." if parts > 1 else ""
    label = _label(table.name if part == 0 else f"{table.name}-{part + 1}")
    wrapped = rf">{{\raggedright\arraybackslash}}p{{{_wrapped(table)[1]}}}"
    align = "".join(wrapped if kind == "w" else kind for kind in table.align)
    notes = table.notes if notes_within and part == parts - 1 else ()
    lines = [
        r"\begin{table}[htbp]", r"\centering\sloppy\small", r"\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escape(caption)}}}", rf"\label{{{label}}}", r"\vspace{4pt}",
        rf"\sbox0{{\begin{{tabular}}{{{align}}}", r"\toprule",
        rf"{' & '.join(table.header)} \\", r"\midrule",
        *(" & ".join(row) + r" \\" for row in table.rows[start:end]),
        r"\bottomrule", r"\end{tabular}}%",
        r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
        *(rf"\par\smallskip\raggedright\footnotesize {escape(note)}" for note in notes),
        r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines)


def _after(table: Cells) -> str:
    """Notes as text, which may break over pages as a float may not."""
    head = rf"Notes to Table~\ref{{{_label(table.name)}}}:"
    body = [rf"\par\smallskip {escape(note)}" for note in table.notes]
    return "\n".join([r"\begingroup\sloppy\raggedright\footnotesize", head, *body,
                      r"\par\endgroup"])  # fmt: skip


def _label(name: str) -> str:
    return "tab:" + re.sub(r"[^\w.:-]", "-", name, flags=re.ASCII)
