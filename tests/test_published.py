"""What is published is what its runs give: nothing in it was typed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.report.__main__ import write_report

REPO = Path(__file__).parents[1]
PUBLISHED = REPO / "reports" / "published" / "quick"
TEXTS = sorted(path.relative_to(PUBLISHED) for path in PUBLISHED.rglob("*.md"))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    write_report(["experiment=quick", f"store={REPO}/results/published", f"out={out}"])
    return out


def facts(path: Path) -> list[str]:
    """The lines of a report but those that hold the command that made it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if "benchmark.report" not in line]


@pytest.mark.parametrize("name", TEXTS, ids=str)
def test_published_report_is_what_the_published_runs_give(rendered: Path, name: Path) -> None:
    assert facts(rendered / name) == facts(PUBLISHED / name)


def test_the_published_report_is_whole() -> None:
    names = [str(name) for name in TEXTS]
    assert "index.md" in names
    assert "tables/ml-100k-overall.md" in names


def test_readme_shows_the_published_table() -> None:
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    table = (PUBLISHED / "tables" / "ml-100k-overall.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 12  # header, rule, ten methods
    assert "\n".join(rows) in readme
