"""Put the published overall table into README.md, between its two markers.

python -m benchmark.report experiment=quick store=results/published out=reports/published/quick
python scripts/update_readme.py
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "reports" / "published" / "quick" / "tables" / "ml-100k-overall.md"
START, END = "<!-- table: start -->", "<!-- table: end -->"


def table_lines(text: str) -> list[str]:
    """The lines of a Markdown file that are a table's."""
    return [line for line in text.splitlines() if line.startswith("|")]


def main() -> None:
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    table = "\n".join(table_lines(TABLE.read_text(encoding="utf-8")))
    readme.write_text(f"{before}{START}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
