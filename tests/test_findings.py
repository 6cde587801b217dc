"""Verdicts on claims: each from runs that were planted to give it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmark.aggregate import DatasetResults, aggregate
from benchmark.errors import UserError
from benchmark.findings import code_evidence, page
from benchmark.findings.__main__ import write_findings
from benchmark.findings.claims import CLAIMS, Claim
from benchmark.findings.evidence import (
    CONTRADICTED,
    NO_RUNS,
    NOT_DECIDED,
    SUPPORTED,
    overall,
    rank_evidence,
    rank_verdict,
)
from benchmark.findings.notes import below_reported, missing_notes, read_notes
from benchmark.significance import TESTS
from benchmark.store import StoredRun
from tests.store_fixture import add_run

REPO = Path(__file__).parents[1]
ABOVE = Claim("above", "A is above B.", "above", (("ste", "tiger"),))
FAR = Claim("far", "A is far above B.", "above", (("ste", "tiger"),), margin=0.10)
SAME = Claim("same", "A is as B.", "same", (("ste", "tiger"),), margin=0.05)


def plant(
    root: Path, method: str, share: float, seeds: Sequence[int] = (0, 1, 2), **options: Any
) -> list[StoredRun]:
    """Runs in which this share of 400 users have their target first, the others not at all; a
    training differs from the next in some users."""
    runs = []
    for seed in seeds:
        rng = np.random.default_rng([len(method), seed])
        hit = np.arange(400) < round(400 * share)
        hit ^= rng.random(400) < 0.005
        runs.append(add_run(root, method, seed, n_users=400, ranks=hit.astype(int).tolist(),
                            **options))  # fmt: skip
    return runs


def results(*groups: list[StoredRun]) -> DatasetResults:
    (found,) = aggregate([run for group in groups for run in group]).values()
    return found


def row(low: float, high: float, p: float = 0.001, seeds: bool = True, **more: float) -> pd.Series:
    """A row of ``compare_all`` with these intervals, B's mean being 1."""
    seed_ends = (low, high) if seeds else (np.nan, np.nan)
    facts = {"difference": (low + high) / 2, "ci_low": low, "ci_high": high,
             "seed_low": seed_ends[0], "seed_high": seed_ends[1], "mean_b": 1.0,
             **{f"{name}_p_holm": p for name in TESTS}, **more}  # fmt: skip
    return pd.Series(facts)


@pytest.mark.parametrize(
    ("claim", "found", "verdict"),
    [
        (ABOVE, row(0.01, 0.03), SUPPORTED),
        (ABOVE, row(-0.03, -0.01), CONTRADICTED),
        (ABOVE, row(0.01, 0.03, p=0.2), NOT_DECIDED),
        (ABOVE, row(-0.01, 0.03, p=0.2), NOT_DECIDED),
        (ABOVE, row(0.01, 0.03, seed_low=-0.01), NOT_DECIDED),
        (ABOVE, row(0.01, 0.03, seeds=False), NOT_DECIDED),
        (ABOVE, row(-0.03, -0.01, seeds=False), NOT_DECIDED),
        (FAR, row(0.11, 0.30), SUPPORTED),
        (FAR, row(0.09, 0.30), NOT_DECIDED),
        (FAR, row(0.11, 0.30, seed_low=0.09), NOT_DECIDED),
        (FAR, row(0.01, 0.09), CONTRADICTED),
        (FAR, row(-0.01, 0.09, p=0.2), CONTRADICTED),
        (FAR, row(-0.01, 0.09, p=0.2, seed_high=0.11), NOT_DECIDED),
        (FAR, row(-0.30, -0.11), CONTRADICTED),
        (SAME, row(-0.04, 0.04, p=0.9), SUPPORTED),
        (SAME, row(0.01, 0.04), SUPPORTED),
        (SAME, row(-0.06, 0.04, p=0.9), NOT_DECIDED),
        (SAME, row(-0.04, 0.04, p=0.9, seed_high=0.06), NOT_DECIDED),
        (SAME, row(0.01, 0.06), CONTRADICTED),
        (SAME, row(-0.04, 0.04, p=0.9, seeds=False), NOT_DECIDED),
    ],
)
def test_verdict(claim: Claim, found: pd.Series, verdict: str) -> None:
    assert rank_verdict(claim, found) == verdict


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        ([], NO_RUNS),
        ([NO_RUNS, NO_RUNS], NO_RUNS),
        ([SUPPORTED, NO_RUNS], SUPPORTED),
        ([SUPPORTED, NOT_DECIDED], NOT_DECIDED),
        ([CONTRADICTED, NOT_DECIDED], CONTRADICTED),
        ([CONTRADICTED, SUPPORTED], NOT_DECIDED),
    ],
)
def test_verdict_on_a_claim(verdicts: list[str], verdict: str) -> None:
    assert overall(verdicts) == verdict


@pytest.mark.parametrize(
    ("share", "claim", "verdict"),
    [(0.6, ABOVE, SUPPORTED), (0.2, ABOVE, CONTRADICTED), (0.4, ABOVE, NOT_DECIDED),
     (0.6, FAR, SUPPORTED), (0.4, FAR, CONTRADICTED), (0.4, SAME, SUPPORTED),
     (0.6, SAME, CONTRADICTED)],
)  # fmt: skip
@pytest.mark.parametrize("names", [("ste", "tiger"), ("tiger", "ste")])
def test_planted_runs(
    share: float, claim: Claim, verdict: str, names: tuple[str, str], tmp_path: Path
) -> None:
    """The first method hits for ``share`` of the users, the second for 40%, whichever of the two
    comes first in the tables; the same numbers stand in either order."""
    first, second = names
    result = results(plant(tmp_path, first, share), plant(tmp_path, second, 0.4))
    found = rank_evidence(result, claim, names)
    assert found.verdict == verdict
    assert found.difference == pytest.approx(found.value - found.other_value)
    assert found.value == pytest.approx(share, abs=0.03)
    assert found.relative == pytest.approx(found.difference / found.other_value)
    assert found.low <= found.difference <= found.high
    assert found.seed_low <= found.difference <= found.seed_high
    assert np.sign(found.effect) == np.sign(found.difference)


def test_two_trainings_decide_nothing_and_the_third_is_asked_for(tmp_path: Path) -> None:
    result = results(plant(tmp_path, "ste", 0.6, (0, 1)), plant(tmp_path, "tiger", 0.4))
    found = rank_evidence(result, ABOVE, ("ste", "tiger"))
    assert found.verdict == NOT_DECIDED
    assert found.p < 0.05
    assert found.change == "1 more training of STE"


def test_a_method_without_runs_and_one_with_several_settings(tmp_path: Path) -> None:
    result = results(plant(tmp_path, "ste", 0.6))
    found = rank_evidence(result, ABOVE, ("ste", "tiger"))
    assert (found.verdict, found.change) == (NO_RUNS, "runs of tiger")
    result = results(plant(tmp_path, "ste", 0.6), plant(tmp_path, "ste", 0.6, config={"x": 1}))
    with pytest.raises(UserError, match="ste was run with 2 settings"):
        rank_evidence(result, ABOVE, ("ste", "tiger"))


# -- codes -----------------------------------------------------------------------------------------

KEPT = Claim("kept", "A keeps its codes.", "kept", (("gumbel", "ste"), ("diger_sdud", "ste")))
LOST = Claim("lost", "A loses its codes.", "lost", (("ste", "tiger"),))


def with_codes(root: Path, method: str, last: Sequence[float], size: int = 16) -> list[StoredRun]:
    """Runs whose perplexity falls from 15 to ``last``, one value a training, in three epochs."""
    runs = []
    for seed, end in enumerate(last):
        run = add_run(root, method, seed, n_users=30, describe__codebook_size=size)
        rows = [{"epoch": epoch, "codes/perplexity": [value - 1, value + 1], "codes/used": [8, 16]}
                for epoch, value in enumerate((15.0, (15.0 + end) / 2, end))]  # fmt: skip
        text = "".join(json.dumps(one) + "\n" for one in rows)
        (run.folder / "train.jsonl").write_text(text, encoding="utf-8")
        runs.append(run)
    return runs


def test_how_codes_are_used(tmp_path: Path) -> None:
    result = results(with_codes(tmp_path, "ste", [3.0, 5.0]))
    course = code_evidence.code_course(result.methods[0])
    assert course is not None
    assert course.first.tolist() == [15 / 16, 15 / 16]
    assert course.last.tolist() == [3 / 16, 5 / 16]
    assert course.used.tolist() == [0.75, 0.75]
    assert course.trend == pytest.approx([-6 / 16, -5 / 16])


def test_codes_kept(tmp_path: Path) -> None:
    result = results(
        with_codes(tmp_path, "ste", [3.0, 4.0, 5.0]),
        with_codes(tmp_path, "gumbel", [13.0, 14.0, 14.5]),
        with_codes(tmp_path, "diger_sdud", [3.5, 4.5, 5.0]),
    )
    gumbel, sdud = code_evidence.kept_evidence(result, KEPT)
    assert (gumbel.verdict, sdud.verdict) == (SUPPORTED, NOT_DECIDED)
    a, b = np.array([13.0, 14.0, 14.5]) / 16, np.array([3.0, 4.0, 5.0]) / 16
    reference = stats.ttest_ind(a, b, equal_var=False)
    assert gumbel.p == pytest.approx(min(1.0, 2 * reference.pvalue))  # Holm over two
    assert gumbel.seed_low == pytest.approx(reference.confidence_interval().low)
    assert gumbel.difference == pytest.approx(a.mean() - b.mean())
    assert gumbel.effect == pytest.approx(
        (a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    )


def test_codes_kept_less_and_too_few_trainings(tmp_path: Path) -> None:
    result = results(
        with_codes(tmp_path, "ste", [13.0, 14.0, 14.5]),
        with_codes(tmp_path, "gumbel", [3.0, 4.0, 5.0]),
        with_codes(tmp_path, "diger_sdud", [15.0, 15.0]),
    )
    gumbel, sdud = code_evidence.kept_evidence(result, KEPT)
    assert gumbel.verdict == CONTRADICTED
    assert (sdud.verdict, sdud.change) == (NOT_DECIDED, "1 more training of DIGER (SDUD)")
    (only,) = code_evidence.kept_evidence(results(with_codes(tmp_path / "b", "ste", [1.0])),
                                          Claim("k", "", "kept", (("gumbel", "ste"),)))  # fmt: skip
    assert (only.verdict, only.change) == (NO_RUNS, "runs of gumbel")


@pytest.mark.parametrize(
    ("last", "verdict"),
    [([2.0, 3.0, 4.0], SUPPORTED), ([13.0, 13.5, 14.0], CONTRADICTED),
     ([3.0, 7.0, 12.0], NOT_DECIDED), ([1.0, 1.0], NOT_DECIDED)],
)  # fmt: skip
def test_codes_lost(last: list[float], verdict: str, tmp_path: Path) -> None:
    result = results(with_codes(tmp_path, "ste", last), with_codes(tmp_path, "tiger", [15.0] * 3))
    (found,) = code_evidence.lost_evidence(result, LOST)
    assert found.verdict == verdict
    assert found.relative == pytest.approx(np.mean(last) / 15 - 1)


def test_trainings_that_do_not_vary() -> None:
    same = np.full(3, 0.25)
    assert code_evidence.welch(same, same) == (0.0, 0.0, 0.0, 1.0, 0.0)
    found = code_evidence.welch(same + 0.5, same)
    assert (found.low, found.high, found.p, found.d) == (0.5, 0.5, 0.0, np.inf)


# -- notes and page --------------------------------------------------------------------------------


def reported(root: Path, share: float, **changes: Any) -> list[StoredRun]:
    """Runs of two-stage on Beauty; 0.0331 is the lowest NDCG@10 that is reported for it."""
    facts: dict[str, Any] = {"dataset_info": {"paper": "beauty"}, "protocol__max_history": 50,
             "protocol__train_prefixes": None}  # fmt: skip
    return plant(root, "tiger", share, dataset="beauty-x", **(facts | changes))


def test_a_method_far_below_its_reported_value_needs_a_paragraph(tmp_path: Path) -> None:
    low = below_reported([results(reported(tmp_path / "low", 0.0))])
    assert {one.method for one in low} == {"tiger"}
    assert len(low) == 3  # three sources report it
    (line,) = missing_notes(low, {})
    assert line.startswith("beauty-x/tiger is below its reported value by more than 15%")
    assert missing_notes(low, {"beauty-x": {"tiger": "Tried."}}) == []
    assert below_reported([results(reported(tmp_path / "high", 0.05))]) == []


def test_a_cut_protocol_is_set_beside_nothing(tmp_path: Path) -> None:
    cut = reported(tmp_path, 0.0, protocol__max_history=20)
    assert below_reported([results(cut)]) == []


@pytest.mark.parametrize("text", ["[1]", "a: b", "a: {b: ''}", "a: {b: [1]}", "a: {b: 'x"])
def test_bad_notes(text: str, tmp_path: Path) -> None:
    (tmp_path / "notes.yaml").write_text(text)
    with pytest.raises(UserError, match="DATA SET: "):
        read_notes(tmp_path)


def test_the_page_has_the_paragraph_or_says_that_it_is_missing(tmp_path: Path) -> None:
    result = results(reported(tmp_path, 0.0))
    section = page.Section("beauty", result)
    below = below_reported([result])
    missing = page.write_page([section], below, {}, "command")
    assert "**A paragraph on this is missing.**" in missing
    assert "reported 0.0331 (" in missing
    kept = page.write_page([section], below, {"beauty-x": {"tiger": "We tried *this*."}}, "command")
    assert r"We tried \*this\*." in kept
    assert "missing" not in kept.split("Methods below")[1]


def test_the_page_tells_decided_findings_first(tmp_path: Path) -> None:
    """Two-stage below SDUD is decided, the decay's use is not, and nothing ran without noise."""
    result = results(
        plant(tmp_path, "tiger", 0.4), plant(tmp_path, "diger_sdud", 0.6),
        plant(tmp_path, "gumbel", 0.6),
    )  # fmt: skip
    section, other = page.Section("beauty", result), page.Section("yelp", None)
    findings = [found for one in (section, other) for found in page.find(one)]
    verdicts = {found.claim.key: found.verdict for found in findings[: len(CLAIMS)]}
    assert verdicts == {
        "differentiable-ids": SUPPORTED, "collapse-without-noise": NO_RUNS,
        "noise-prevents-collapse": NO_RUNS, "decay-helps": NOT_DECIDED,
        "baselines-far-behind": NO_RUNS, "detached-same": NO_RUNS,
    }  # fmt: skip
    lines = page.headlines(findings)
    assert len(lines) == 2
    assert "Supported (beauty, toy; 1 of 1 comparisons). DIGER (SDUD) is above TIGER" in lines[0]
    assert "Cohen's d: " in lines[0]
    assert "p after Holm's correction" in lines[0]
    text = page.write_page([section, other], [], {}, "command", ["12 cells are not finished"])
    assert text == page.write_page(
        [section, other], [], {}, "command", ["12 cells are not finished"]
    )
    assert "- **Not here**: 12 cells are not finished" in text
    assert "### yelp: no runs\n\nNothing is stored." in text
    assert "Would change it: a difference smaller by" in text
    assert "nan" not in text.lower().replace("finan", "")


def test_of_a_claim_that_is_true_of_one_and_false_of_another_both_are_told(tmp_path: Path) -> None:
    """The larger first; and before claims of which nothing is decided."""
    result = results(
        plant(tmp_path, "tiger", 0.4), plant(tmp_path, "diger_sdud", 0.4),
        plant(tmp_path, "sasrec_ce", 0.9), plant(tmp_path, "sasrec_bce", 0.2),
        plant(tmp_path, "lightgcn", 0.36),
    )  # fmt: skip
    first, _ = page.headlines(page.find(page.Section("beauty", result)))
    claim, verdict, rest = first.split(". ", 1)[0], *first.split(". ", 1)[1].split("). ", 1)
    assert claim == "SASRec and LightGCN are far behind"
    assert verdict == "Not decided (beauty, toy; 1 supported, 1 contradicted, 1 not decided"
    assert rest.startswith("sasrec_ce is above DIGER")
    assert " Cohen's d: " in rest.split("DIGER (SDUD) is above sasrec_bce")[0]
    assert rest.count("Cohen's d: ") == 2
    assert "lightgcn" not in rest.lower()


def test_a_decided_finding_comes_before_an_open_one(tmp_path: Path) -> None:
    result = results(
        plant(tmp_path, "tiger", 0.4), plant(tmp_path, "diger_sdud", 0.4),
        plant(tmp_path, "gumbel", 0.2),
    )  # fmt: skip
    first, second = page.headlines(page.find(page.Section("beauty", result)))
    assert first.startswith("Noise that decays with uncertainty ranks better")
    assert second.startswith("Semantic IDs that the recommendation loss trains")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "name the experiments"), (["experiment=nonsense"], "no experiment 'nonsense'"),
     (["experiment=quick", "nonsense=1"], "unknown option nonsense"), (["quick"], "key=value")],
)  # fmt: skip
def test_bad_arguments(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write_findings(
            [*arguments, f"out={tmp_path}/f.md"] if arguments != ["quick"] else arguments
        )


def test_nothing_stored_is_no_runs(tmp_path: Path) -> None:
    out = tmp_path / "f.md"
    path, problems = write_findings(["experiment=beauty", f"store={tmp_path}", f"out={out}"])
    assert (path, problems) == (out, [])
    assert "36 of the 36 cells of beauty are not finished" in out.read_text(encoding="utf-8")


def test_experiments_on_one_split_are_judged_together_on_request(tmp_path: Path) -> None:
    """Methods of one beside those of the other; none is in both with other settings."""
    options = [f"store={REPO / 'results' / 'published'}", f"out={tmp_path / 'f.md'}"]
    together = "beauty-cpu-baselines+beauty-cpu-kmeans"
    path, problems = write_findings([f"experiment={together}", *options])
    assert problems == []
    claim = path.read_text(encoding="utf-8").split("## SASRec and LightGCN are far behind.")[1]
    verdict, rest = claim.split(f"### {together}, beauty-keyphrases: ")[1].split("\n", 1)
    assert verdict in (SUPPORTED, CONTRADICTED, NOT_DECIDED)
    assert "| DIGER (FrqUD) | SASRec (CE) | 3, " in rest
    with pytest.raises(UserError, match="diger_frqud, tiger on beauty-keyphrases with different"):
        write_findings(["experiment=beauty-cpu-kmeans+beauty-cpu", *options])
