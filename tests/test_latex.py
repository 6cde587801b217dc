"""LaTeX that pdflatex compiles as is: special characters, and every table of a report."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from benchmark.report.latex import PREAMBLE, WRAP_FROM, escape, wraps
from benchmark.report.render import render
from benchmark.report.table import Column, Markdown, Table, fixed, text
from tests.store_fixture import LABELS, add_run, example_store

PDFLATEX = shutil.which("pdflatex")
needs_latex = pytest.mark.skipif(
    PDFLATEX is None
    or subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, check=False).returncode
    != 0,
    reason="needs pdflatex and booktabs: apt-get install texlive-latex-recommended",
)

ODD = (
    "& < > _a_ 100% $x$ #1 {y} ~z ^ \\ | *t* `c` [u]",
    "\"double\" 'single' ''both'' a--b---c ?` !` ,, << >>",
    "Größe Ærø Œuvre şığ ő ł ñ ¿qué? ½ x² µ ﬁ \uff37",
    "λ Ω ς Привет 中文 עברית \u200f ế 🎉 \x07",
    "[first in a row",
    "*starred",
    "# heading - + 1. item",
    "averylongnamewithoutanyblankinitwhichnolinecanholdandnoruleofhyphenationknows_2",
)
#: Words of a log that mean that something does not fit, is not there or looks wrong; ``pk`` is a
#: font of dots, not of outlines.
BAD = re.compile(
    r"^!|Overfull|Undefined|undefined|Missing character|Float too large|mktexpk|\dpk>|Error", re.M
)


def compile_tex(folder: Path, name: str) -> str:
    """Two passes, so that references are there; the log of the second."""
    assert PDFLATEX is not None
    command = [PDFLATEX, "-interaction=nonstopmode", "-halt-on-error", name]
    for _ in range(2):
        ran = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
        log = (folder / name).with_suffix(".log").read_text(encoding="latin-1")
        assert ran.returncode == 0, log[-2000:]
    return log + ran.stderr.decode("latin-1")


def assert_good(log: str) -> None:
    found = BAD.search(log)
    assert not found, log[max(0, found.start() - 300) : found.end() + 500]


@pytest.mark.parametrize(
    ("plain", "shown"),
    [
        ("a_b & c", r"a\_b \& c"),
        ("$5", r"\symbol{36}5"),
        ("a--b ''q''", "a-{}-b '{}'q'{}'"),
        ("`c`", r"\`{}c\`{}"),
        ("ő ş ǐ", r"\H{o} \c{s} \v{\i{}}"),
        ("ė ẹ", r"\.{e} \d{e}"),
        ("Ω λ ς \u03bf \u0391", r"$\Omega$ $\lambda$ $\varsigma$ {[}U+03BF]\hspace{0pt} "
                      r"{[}U+0391]\hspace{0pt}"),
        ("½ ﬁ x²", r"{[}U+00BD]\hspace{0pt} fi x$^{2}$"),
        ("中\x07", r"{[}U+4E2D]\hspace{0pt}{[}U+0007]\hspace{0pt}"),
        ("two\nlines ", "two lines"),
    ],
)  # fmt: skip
def test_escape(plain: str, shown: str) -> None:
    assert escape(plain) == shown


def test_long_texts_wrap_unless_a_word_is_long() -> None:
    assert not wraps(["short", "texts"])
    assert wraps(["words " * 8, ""])
    assert not wraps(["words " * 8, "x" * WRAP_FROM])
    assert not wraps([])


def test_notes_that_are_many_stand_after_the_float() -> None:
    frame = pd.DataFrame({"name": ["a"], "x": [1.0]})
    columns = (Column("name", "Name", text), Column("x", "X", fixed(1)))
    few = Table("t", frame, columns, "C", ("n",) * 3).to_latex("x")
    many = Table("t", frame, columns, "C", ("n",) * 9).to_latex("x")
    assert few.index("footnotesize n") < few.index(r"\end{table}")
    assert many.index(r"\end{table}") < many.index(r"Notes to Table~\ref{tab:t}")


@pytest.mark.parametrize("odd", [*ODD, "+ item", "- item", "> quoted", "3. item"])
def test_markdown_shows_names_as_they_are(odd: str) -> None:
    """What CommonMark makes of the escaped name is the name: unescape as a reader would."""
    escaped = Markdown().escape(odd)
    shown = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", escaped)
    shown = shown.replace("&lt;", "<").replace("&amp;", "&")
    assert shown == " ".join(odd.split())
    bare = re.sub(r"\\.", "", escaped)  # what is left has no meaning
    assert not re.search(r"[`*\[\]|~$]|<\w|^(>|[+-] |\d+[.)] )|(^| )#+( |$)", bare)


@needs_latex
def test_odd_names_compile_and_fit(tmp_path: Path) -> None:
    """Each odd name first in a row, in a caption and in a note, in a narrow document."""
    frame = pd.DataFrame({"name": ODD, "x": 0.5})
    columns = (Column("name", ODD[0], text), Column("x", "X", fixed(1)))
    table = Table("odd_&%#", frame, columns, " ".join(ODD[:-1]), ODD[:-1])
    (tmp_path / "t.tex").write_text(table.to_latex("x"), encoding="utf-8")
    lines = [r"\documentclass{article}", *PREAMBLE, r"\begin{document}", r"\input{t.tex}",
             r"\end{document}"]  # fmt: skip
    (tmp_path / "a.tex").write_text("\n".join(lines), encoding="utf-8")
    assert_good(compile_tex(tmp_path, "a.tex"))


@needs_latex
def test_every_table_of_a_report_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the names above as labels, notes and texts: as all.tex, and in a portrait document."""
    monkeypatch.setattr("benchmark.report.figures.all_drawings", lambda *_: [])  # slow
    store = tmp_path / "store"
    runs = example_store(store, seeds=[0, 1, 2], n_users=30, epochs=2)
    methods = ("gumbel_cosine", "gumbel_tau", "diger_sdud_cached", "diger_sdud_frqud",
               "diger_frqud_cached", "letter_tiger")  # fmt: skip
    runs += [add_run(store, method, 0, n_users=30, method_label=label, describe__notes=[label])
             for method, label in zip(methods, ODD, strict=False)]  # fmt: skip
    runs += [add_run(store, method, 0, dataset="beauty", n_users=30, epochs=2,
                     dataset_info={"text_source": ODD[0], "label": ODD[2]})
             for method in ("pop", "sasrec_ce", "tiger", "ste", "diger_frqud")]  # fmt: skip
    render(runs, tmp_path / "out", ODD[0], "cmd", list(LABELS), [])
    folder = tmp_path / "out" / "tables"
    assert_good(compile_tex(folder, "all.tex"))
    names = sorted(path.stem for path in folder.glob("*.tex") if path.stem != "all")
    assert {"datasets", "toy-ablation", "toy-baselines", "beauty-verdicts"} <= set(names)
    # Together in a portrait document, as a paper has them.
    lines = [r"\documentclass{article}", *PREAMBLE, r"\begin{document}",
             *(rf"\input{{{name}.tex}}\clearpage" for name in names),
             r"\end{document}"]  # fmt: skip
    (folder / "paper.tex").write_text("\n".join(lines), encoding="utf-8")
    assert_good(compile_tex(folder, "paper.tex"))
