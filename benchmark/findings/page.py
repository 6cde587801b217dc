"""The page of findings, as Markdown: every line of it is computed, but for the notes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from benchmark.aggregate import DatasetResults
from benchmark.findings.claims import CLAIMS, Claim
from benchmark.findings.code_evidence import code_course, kept_evidence, lost_evidence
from benchmark.findings.evidence import (
    CONTRADICTED,
    NO_RUNS,
    NOT_DECIDED,
    SUPPORTED,
    Evidence,
    overall,
    rank_evidence,
)
from benchmark.findings.notes import TOLERATED, Below, Notes
from benchmark.metrics import METRICS
from benchmark.report.table import Column, Markdown, Table, fixed, one_line, p_value, percent

HEADLINES = 3


class Section(NamedTuple):
    """An experiment's results on one data set; ``result`` is None where nothing is stored."""

    experiment: str
    result: DatasetResults | None

    @property
    def name(self) -> str:
        return f"{self.experiment}, {self.result.dataset}" if self.result else self.experiment


@dataclass(frozen=True)
class Finding:
    """What one section says of one claim."""

    claim: Claim
    section: Section
    evidence: tuple[Evidence, ...]

    @property
    def verdict(self) -> str:
        return overall([one.verdict for one in self.evidence])


def find(section: Section, claims: Sequence[Claim] = CLAIMS) -> list[Finding]:
    """A finding for each claim.

    Raises:
        UserError: a method of a claim was run with several settings.
    """
    return [Finding(claim, section, tuple(_evidence(section.result, claim))) for claim in claims]


def _evidence(result: DatasetResults | None, claim: Claim) -> list[Evidence]:
    if result is None or len(result.users) < 2:
        return []
    if claim.kind == "kept":
        return kept_evidence(result, claim)
    if claim.kind == "lost":
        return lost_evidence(result, claim)
    return [rank_evidence(result, claim, pair) for pair in claim.pairs]


def write_page(
    sections: Sequence[Section], below: Sequence[Below], notes: Notes, command: str,
    problems: Sequence[str] = (),
) -> str:  # fmt: skip
    """The page of these sections, in their order.

    Args:
        below, notes: methods below their reported value, and paragraphs on them.
        command: made it.
        problems: lines on what could not be read or is not finished.
    """
    markup = Markdown()
    by_section = {section: find(section) for section in sections}
    findings = [finding for found in by_section.values() for finding in found]
    lines = [
        f"<!-- Made by: {one_line(command)} -->", "", "# Findings", "",
        *[f"- **Not here**: {markup.escape(problem)}" for problem in problems],
        *([""] if problems else []),
        "What stored runs say for and against the paper's claims. Made by", "",
        f"    {one_line(command)}", "",
        *_how(), "", "## In short", "",
        *[f"- {markup.escape(line)}" for line in headlines(findings)], "",
        _summary(by_section).markdown_body(), "",
    ]  # fmt: skip
    for claim in CLAIMS:
        lines += _claim(claim, [f for f in findings if f.claim is claim])
    lines += _below(below, notes)
    return "\n".join(lines).rstrip() + "\n"


def _how() -> list[str]:
    return [
        "A comparison is *supported* or *contradicted* only with three trainings or more of each "
        "method, if every user-level test finds the difference after Holm's correction over all "
        "pairs of its data set, and the interval over users and trainings agrees; else it is *not "
        "decided*. Where the claim has a margin, both 95% intervals must lie beyond it (*far*) or "
        "within it (*the same*). Codes have no users: trainings are compared, by Welch's t-test "
        "with Holm's correction over the claim. A claim is supported if all of its comparisons "
        "that have runs are, contradicted if one is and none is supported. Experiments are judged "
        "apart, or where a + joins them together, each with methods of its own, and never pooled."
    ]


def headlines(findings: Sequence[Finding]) -> list[str]:
    """Up to three findings: of the first experiment first, those with a decided comparison before
    those with a test and those without, in the order of the claims, each claim once as long as
    there are others. Of a claim's comparisons the one with the largest effect is told; where some
    are decided and the claim is not, that of each side."""
    known = [finding for finding in findings if finding.verdict != NO_RUNS]
    first = known[0].section if known else None
    known.sort(key=lambda one: (one.section != first, not _decided(one),
                                all(math.isnan(told.p) for told in one.evidence)))  # fmt: skip
    once = {finding.claim: finding for finding in reversed(known)}
    known.sort(key=lambda one: once[one.claim] is not one)
    return [_headline(finding) for finding in known[:HEADLINES]]


def _decided(finding: Finding) -> list[Evidence]:
    return [one for one in finding.evidence if one.verdict in (SUPPORTED, CONTRADICTED)]


def _headline(finding: Finding) -> str:
    told = [one for one in finding.evidence if one.verdict != NO_RUNS]
    counted = Counter(one.verdict for one in told)
    if finding.verdict == NOT_DECIDED and (decided := _decided(finding)):
        share = _shares(counted)
        sides = [[one for one in decided if one.verdict == side] for side in counted]
    else:
        share = f"{counted[finding.verdict]} of {len(told)} comparisons" if counted else ""
        sides = [[one for one in told if one.verdict == finding.verdict] or told]
    best = sorted((max(side, key=_size) for side in sides if side), key=_size, reverse=True)
    return (
        f"{finding.claim.text} {finding.verdict.capitalize()} ({finding.section.name}; {share}). "
        + " ".join(one.words + _effect(one) for one in best)
    )


def _size(one: Evidence) -> float:
    return 0.0 if math.isnan(one.effect) else abs(one.effect)


def _effect(one: Evidence) -> str:
    return "" if math.isnan(one.effect) else f" Cohen's d: {abs(one.effect):.3g}."


def _summary(by_section: dict[Section, list[Finding]]) -> Table:
    """Claims by sections, a verdict each."""
    frame = pd.DataFrame({"claim": [claim.text for claim in CLAIMS]})
    columns = [Column("claim", "Claim")]
    for number, (section, findings) in enumerate(by_section.items()):
        frame[str(number)] = [_counted(finding) for finding in findings]
        columns.append(Column(str(number), section.name))
    return Table("verdicts", frame, tuple(columns), "Verdicts by experiment.")


def _counted(finding: Finding) -> str:
    shares = _shares(Counter(one.verdict for one in finding.evidence))
    return f"{finding.verdict} ({shares})" if "," in shares else finding.verdict


def _shares(counted: Mapping[str, int]) -> str:
    """How many comparisons have which verdict."""
    known = [word for word in (SUPPORTED, CONTRADICTED, NOT_DECIDED) if counted.get(word)]
    return ", ".join(f"{counted[word]} {word}" for word in known)


def _claim(claim: Claim, findings: Sequence[Finding]) -> list[str]:
    markup = Markdown()
    lines = [f"## {markup.escape(claim.text)}", ""]
    lines += [markup.escape(claim.reading), ""] if claim.reading else []
    for finding in findings:
        lines += [f"### {markup.escape(finding.section.name)}: {finding.verdict}", ""]
        known = [one for one in finding.evidence if one.verdict != NO_RUNS]
        if known:
            lines += [_table(claim, finding, known).markdown_body(), ""]
        if known and claim.about_codes:
            lines += [_courses(finding.section.result, claim).markdown_body(), ""]
        lines += _sides(known)
        missing = [one.change for one in finding.evidence if one.verdict == NO_RUNS]
        if not finding.evidence:
            lines += ["Nothing is stored.", ""]
        elif missing:
            lines += [f"Not run here, and wanted: {'; '.join(dict.fromkeys(missing))}.", ""]
    return lines


def _sides(known: Sequence[Evidence]) -> list[str]:
    """Evidence for, against and neither, and what would change each verdict."""
    markup = Markdown()
    lines: list[str] = []
    for head, verdict in (("For", SUPPORTED), ("Against", CONTRADICTED), ("Open", NOT_DECIDED)):
        found = [one for one in known if one.verdict == verdict]
        if found:
            lines += [f"{head}:", ""]
            lines += [
                f"- {markup.escape(one.words)} Would change it: {markup.escape(one.change)}."
                for one in found
            ]
            lines += [""]
    return lines


def _table(claim: Claim, finding: Finding, known: Sequence[Evidence]) -> Table:
    frame = pd.DataFrame([vars(one) for one in known])
    frame["trainings"] = [", ".join(map(str, one.seeds)) for one in known]
    assert finding.section.result is not None
    label = f"{METRICS['ndcg'].label}@{finding.section.result.headline_k}"
    what = "effective codes" if claim.about_codes else label
    digits = 3 if claim.about_codes else 4
    d = "d" if claim.about_codes else "d_z"
    users = [Column("low", "low", fixed(4)), Column("high", "high", fixed(4))]
    columns = (
        Column("method", "A"), Column("other", "B"), Column("trainings", "trainings"),
        Column("value", f"{what}, A", fixed(digits)), Column("other_value", "B", fixed(digits)),
        Column("difference", "A - B", fixed(digits)), Column("relative", "change", percent),
        Column("effect", d, fixed(3)), *([] if claim.about_codes else users),
        Column("seed_low", "with trainings: low", fixed(digits)),
        Column("seed_high", "high", fixed(digits)),
        Column("p", "p, Holm", p_value), Column("verdict", "verdict"),
    )  # fmt: skip
    return Table(claim.key, frame, columns, claim.text)


def _courses(result: DatasetResults | None, claim: Claim) -> Table:
    """How the codes of the claim's methods are used, from the first epoch to the last."""
    assert result is not None
    names = [name for pair in claim.pairs for name in pair]
    rows = []
    for method in result.methods:
        course = code_course(method) if method.method in names else None
        if course is not None:
            means = {key: float(value.mean()) for key, value in course._asdict().items()}
            rows.append({"method": method.label, "trainings": str(len(method.seeds)), **means})
    columns = (
        Column("method", "Method"), Column("trainings", "trainings"),
        Column("used", "used codes at the end", percent_of),
        Column("first", "effective, first epoch", percent_of),
        Column("last", "effective, last epoch", percent_of),
        Column("trend", "trend an epoch", percent),
    )  # fmt: skip
    return Table(f"{claim.key}-codes", pd.DataFrame(rows), columns, claim.text)


def percent_of(value: float) -> str:
    """A share of the codebook: 0.5 is ``50.0%``."""
    return f"{value:.1%}"


def _below(below: Sequence[Below], notes: Notes) -> list[str]:
    """Every method that needs a paragraph, with it or a word that it is missing."""
    markup = Markdown()
    lines = ["## Methods below their reported value", ""]
    lines += [f"Those more than {TOLERATED:.0%} below a reported NDCG@10, comparable or not, with "
              "what was tried. Results of a cut protocol are left out."]  # fmt: skip
    lines += ["", *([] if below else ["None."])]
    for key in dict.fromkeys((one.dataset, one.method) for one in below):
        told = [one for one in below if (one.dataset, one.method) == key]
        text = notes.get(key[0], {}).get(key[1])
        lines += [f"### {markup.escape(told[0].label)} on {markup.escape(key[0])}", ""]
        lines += [
            f"- {one.ours:.4f}, reported {one.reported:.4f} "
            f"({one.ours / one.reported - 1:+.1%}): {markup.escape(one.source)}."
            for one in told
        ]
        lines += ["", markup.escape(text) if text else "**A paragraph on this is missing.**", ""]
    return lines
