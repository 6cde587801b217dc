"""scripts/reproduce.sh: which commands it gives, in which order, and when it stops between them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"

PYTHON = """#!{python} -S
import os, pathlib, sys
words = sys.argv[1:]
with open("calls.txt", "a") as calls:
    print(*words, file=calls)
module = words[1] if len(words) > 1 else ""
if module == "benchmark.tune":
    print("beauty/tiger: " + os.environ.get("FAKE_TUNE", "as released (the best of 2 trials)"))
    chosen = os.environ.get("FAKE_CHOSEN")
    if chosen:
        place = pathlib.Path("benchmark/conf/tuned/one.yaml")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(chosen)
if "--dry-run" in words:
    print("2 cells: 1 done, " + os.environ.get("FAKE_LEFT", "0") + " left")
if module == "benchmark.findings":
    sys.exit(int(os.environ.get("FAKE_FINDINGS", "0")))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the script, a page of findings and a Python that only writes down calls."""
    repo = tmp_path / "repo"
    for folder in ("scripts", ".venv/bin", "reports/published"):
        (repo / folder).mkdir(parents=True)
    (repo / "scripts" / "reproduce.sh").write_text((SCRIPTS / "reproduce.sh").read_text())
    python = repo / ".venv" / "bin" / "python"
    python.write_text(PYTHON.format(python=sys.executable))
    python.chmod(0o755)
    (repo / "reports/published/findings.md").write_text(
        "<!-- Made by: python -m benchmark.findings experiment=quick,beauty store=s out=o -->\n"
    )
    subprocess.run(["git", "init", "-q", str(repo)], check=True)
    return repo


def reproduce(repo: Path, *words: str, **environment: str) -> tuple[int, list[str], str]:
    """Exit code, commands given, and standard error."""
    done = subprocess.run(
        ["bash", str(repo / "scripts" / "reproduce.sh"), *words],
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    path = repo / "calls.txt"
    calls = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return done.returncode, [call.removeprefix("-m benchmark.") for call in calls], done.stderr


def test_every_step_in_its_order(checkout: Path) -> None:
    code, calls, _ = reproduce(
        checkout, "grid.seed=[0]", EXPERIMENTS="beauty beauty-sensitivity yelp"
    )
    assert code == 0
    assert calls == [
        "tune beauty grid.seed=[0]", "tune yelp grid.seed=[0]",
        *(f"experiment {name} grid.seed=[0]" for name in ("beauty", "beauty-sensitivity", "yelp")),
        *(f"experiment {name} --dry-run grid.seed=[0]"
          for name in ("beauty", "beauty-sensitivity", "yelp")),
        *(line for name in ("beauty", "beauty-sensitivity", "yelp") for line in (
            f"publish experiment={name} grid.seed=[0]",
            f"report experiment={name} store=results/published out=reports/published/{name} "
            "grid.seed=[0]")),
        # What the page told before stays on it; settings side by side are no claim's.
        "findings experiment=yelp,quick,beauty store=results/published "
        "out=reports/published/findings.md",
        "scripts/update_readme.py",
    ]  # fmt: skip


def test_it_stops_until_choices_are_committed(checkout: Path) -> None:
    given = {"EXPERIMENTS": "beauty", "FAKE_CHOSEN": "chosen"}
    code, calls, error = reproduce(checkout, **given)
    assert (code, calls) == (3, ["tune beauty"])
    assert error.startswith("reproduce: commit benchmark/conf/tuned")
    named = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["add", "benchmark"], [*named, "commit", "-q", "-m", "chosen"]):
        subprocess.run(["git", "-C", str(checkout), *words], check=True)
    code, calls, _ = reproduce(checkout, **given)
    assert (code, calls[-1]) == (0, "scripts/update_readme.py")


def test_nothing_runs_before_its_settings_are_chosen(checkout: Path) -> None:
    code, calls, error = reproduce(
        checkout, "--time-limit", "5", EXPERIMENTS="beauty", FAKE_TUNE="3 of 9 trials left"
    )
    assert (code, calls) == (3, ["tune beauty --time-limit 5"])
    assert "trials are left" in error


def test_nothing_is_published_before_all_is_done(checkout: Path) -> None:
    code, calls, error = reproduce(
        checkout, "--time-limit", "5", EXPERIMENTS="beauty", ONLY="run publish", FAKE_LEFT="1"
    )
    assert (code, calls) == (3, ["experiment beauty --time-limit 5", "experiment beauty --dry-run"])
    assert "1 left" in error


def test_a_dry_run_publishes_nothing(checkout: Path) -> None:
    code, calls, _ = reproduce(checkout, "--dry-run", EXPERIMENTS="beauty", FAKE_CHOSEN="chosen")
    assert (code, calls) == (0, ["tune beauty --dry-run", "experiment beauty --dry-run"])


def test_a_missing_paragraph_ends_it_after_the_rest(checkout: Path) -> None:
    code, calls, _ = reproduce(checkout, EXPERIMENTS="beauty", ONLY="publish", FAKE_FINDINGS="2")
    assert (code, calls[-1]) == (2, "scripts/update_readme.py")


@pytest.mark.parametrize(
    ("words", "environment", "code", "said"),
    [
        (["--help"], {}, 0, ""),
        (["results=elsewhere"], {}, 2, "what is published comes from results"),
        ([], {"ONLY": "nonsense"}, 2, "no step nonsense"),
    ],
)
def test_what_it_does_not_do(
    checkout: Path, words: list[str], environment: dict[str, str], code: int, said: str
) -> None:
    ended, calls, error = reproduce(checkout, *words, **environment)
    assert (ended, calls) == (code, [])
    assert said in error
    assert error.count("\n") <= 1
