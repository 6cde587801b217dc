r"""Put the published overall tables and findings into README.md, between their markers.

for experiment in beauty-cpu beauty-cpu-kmeans beauty-cpu-long quick; do
  python -m benchmark.report experiment=$experiment store=results/published \
      out=reports/published/$experiment
done
python -m benchmark.report experiment=beauty-cpu-baselines,beauty-cpu-kmeans \
    store=results/published out=reports/published/beauty-cpu-baselines
python -m benchmark.report experiment=beauty-cpu,beauty-cpu-wide,beauty-cpu-kmeans,beauty-cpu-long \
    grid.method=[tiger] \
    store=results/published out=reports/published/beauty-cpu-tiger
beauty=beauty-cpu-baselines+beauty-cpu-kmeans,beauty-cpu-long,beauty-cpu
python -m benchmark.findings experiment=$beauty,quick,collapse,beauty-fifth \
    store=results/published out=reports/published/findings.md
python scripts/update_readme.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "reports" / "published"
#: The reference reproduction, or as long as there is none what a CPU could train of it.
BEAUTY = next(
    (
        place
        for experiment in ("beauty", "beauty-cpu")
        if (place := PUBLISHED / experiment / "tables" / "beauty-keyphrases-overall.md").exists()
    ),
    PUBLISHED / "beauty",
)
BASELINES = PUBLISHED / "beauty-cpu-baselines" / "tables" / "beauty-keyphrases-overall.md"
TIGER = PUBLISHED / "beauty-cpu-tiger" / "tables" / "beauty-keyphrases-overall.md"
TABLE = PUBLISHED / "quick" / "tables" / "ml-100k-overall.md"
FINDINGS = PUBLISHED / "findings.md"


def table_lines(text: str) -> list[str]:
    """The lines of a Markdown file that are a table's."""
    return [line for line in text.splitlines() if line.startswith("|")]


def finding_lines(text: str) -> list[str]:
    """The three findings of a page of findings, a line each."""
    short = text.split("\n## In short\n")[1].split("\n## ")[0]
    return [line for line in short.splitlines() if line.startswith("- ")]


#: What goes between ``<!-- NAME: start -->`` and ``<!-- NAME: end -->``: a file, and its lines.
PARTS: dict[str, tuple[Path, Callable[[str], list[str]]]] = {
    "beauty": (BEAUTY, table_lines),
    "baselines": (BASELINES, table_lines),
    "tiger": (TIGER, table_lines),
    "table": (TABLE, table_lines),
    "findings": (FINDINGS, finding_lines),
}


def updated(readme: str) -> str:
    """README.md with every part as it is published."""
    for name, (path, lines) in PARTS.items():
        start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
        before, rest = readme.split(start)
        part = "\n".join(lines(path.read_text(encoding="utf-8")))
        readme = f"{before}{start}\n{part}\n{end}{rest.split(end)[1]}"
    return readme


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(updated(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
