"""What is published is what its runs give: nothing in it was typed by hand."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from benchmark import against
from benchmark.findings.__main__ import write_findings
from benchmark.report.__main__ import write_report

REPO = Path(__file__).parents[1]
PUBLISHED = REPO / "reports" / "published"
#: Those of speed come from a file of their own (tests/test_speed.py); findings, precision: below.
APART = (PUBLISHED, PUBLISHED / "speed", PUBLISHED / "precision")
TEXTS = sorted(
    path.relative_to(PUBLISHED) for path in PUBLISHED.rglob("*.md") if path.parent not in APART
)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A published report, made anew from the published runs by the command that it names."""

    @cache
    def render(folder: str) -> Path:
        out = tmp_path_factory.mktemp(folder)
        text = (PUBLISHED / folder / "index.md").read_text(encoding="utf-8")
        options = text.partition("-m benchmark.report ")[2].partition(" -->")[0].split()
        here = {"store": f"{REPO}/results/published", "out": f"{out}"}
        named = [word for word in options if word.partition("=")[0] not in here]
        assert named
        write_report([*named, *(f"{key}={value}" for key, value in here.items())])
        return out

    return render


def facts(path: Path) -> list[str]:
    """The lines of a report but those that hold the command that made it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not re.search(r"benchmark\.(report|findings)", line)]


@pytest.mark.parametrize("name", TEXTS, ids=str)
def test_published_report_is_what_the_published_runs_give(
    rendered: Callable[[str], Path], name: Path
) -> None:
    experiment, *rest = name.parts
    assert facts(rendered(experiment).joinpath(*rest)) == facts(PUBLISHED / name)


@pytest.mark.parametrize(
    "experiment",
    [
        "quick",
        "collapse",
        "beauty-fifth",
        "beauty-cpu",
        "beauty-cpu-baselines",
        "beauty-cpu-tiger",
        "beauty-cpu-kmeans",
    ],
)
def test_the_published_reports_are_whole(rendered: Callable[[str], Path], experiment: str) -> None:
    made, kept = (
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        for folder in (rendered(experiment), PUBLISHED / experiment)
    )
    assert made == kept
    assert "index.md" in made


def test_published_findings_are_what_the_published_runs_give(tmp_path: Path) -> None:
    """By the command that the page names; and no method lacks a paragraph that it needs."""
    page = PUBLISHED / "findings.md"
    text = page.read_text(encoding="utf-8")
    options = text.partition("-m benchmark.findings ")[2].partition(" -->")[0].split()
    here = {"store": f"{REPO}/results/published", "out": f"{tmp_path}/findings.md"}
    named = [word for word in options if word.partition("=")[0] not in here]
    made, problems = write_findings([*named, *(f"{key}={value}" for key, value in here.items())])
    assert problems == []
    assert facts(made) == facts(page)


def test_published_precisions_are_what_their_runs_give(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = PUBLISHED / "precision" / "ml-100k-against.md"
    monkeypatch.chdir(REPO)
    stores = ["first=results/precision/fp32", "second=results/precision/bf16"]
    (table,), (made, _), problems = against.compare([*stores, f"out={tmp_path}"])
    assert problems == []
    assert (
        made.read_text(encoding="utf-8").splitlines()[1:]
        == page.read_text(encoding="utf-8").splitlines()[1:]
    )
    assert list(table.frame.seeds) == ["5 / 5"] * 2


def test_readme_is_what_is_published() -> None:
    """The table and the findings in it, whole, by the script that puts them there."""
    spec = importlib.util.spec_from_file_location(
        "update_readme", REPO / "scripts/update_readme.py"
    )
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    assert script.updated(readme) == readme
    findings = readme.split("<!-- findings: start -->")[1].split("<!-- findings: end -->")[0]
    told = findings.strip().splitlines()
    assert len(told) == 3
    assert len({line.partition(". ")[0] for line in told}) == 3  # of a claim each


def test_readme_shows_the_published_table() -> None:
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    table = (PUBLISHED / "quick" / "tables" / "ml-100k-overall.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 14  # header, rule, twelve methods
    assert "\n".join(rows) in readme
