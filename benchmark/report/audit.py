"""The gradient audit as tables: which loss reaches the tokenizer, by which road, and how strongly.

Works on what ``diger.audit`` measures and a run keeps under ``describe.audit`` in its run.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmark.aggregate import DatasetResults, MethodRuns
from benchmark.report.table import Column, Table, significant

ROADS = {"history": "history", "input": "decoder input", "target": "target"}
OTHERS = {"vq": "L_vq", "reconstruction": "L_recon"}


def verdict(audit: Mapping[str, Any]) -> str:
    """What the norms say, in one line.

    ``end to end``: by each of the three roads L_rec reaches every codebook. ``partly end to end``:
    by some, or some codebooks only, which are named. ``detached``: by none, and other losses train
    the tokenizer. ``two-stage``: by none, and nothing trains it. Zero means exactly zero.
    """
    norms = audit["norms"]
    reached = {
        road: [level + 1 for level, norm in enumerate(norms[road]["codebook"]) if norm > 0]
        for road in ROADS
    }
    moved = audit["moved"]
    if not any(reached.values()):
        if not moved:
            return "two-stage: no loss trains the tokenizer, and L_rec never reaches it"
        return f"detached: L_rec never reaches the tokenizer; others train its {_words(moved)}"
    if not moved:
        return "frozen: L_rec reaches the tokenizer, but nothing of it is trained"
    levels = len(norms["history"]["codebook"])
    if all(len(found) == levels for found in reached.values()):
        return f"end to end: L_rec reaches every level by all three roads; trained: {_words(moved)}"
    ways = [
        f"{label} (levels {', '.join(map(str, reached[road])) or 'none'})"
        for road, label in ROADS.items()
    ]
    return f"partly end to end: L_rec reaches the tokenizer by {'; '.join(ways)}"


def _words(parts: Sequence[str]) -> str:
    return " and ".join(parts)


def kind(audit: Mapping[str, Any]) -> str:
    """The verdict's first words: ``end to end``, ``detached``, ``two-stage`` and so on."""
    return verdict(audit).partition(":")[0]


def batch_table(audit: Mapping[str, Any]) -> list[list[str]]:
    """Lines of cells for a terminal: a header, then a loss a line with its norms by part."""
    labels = {road: f"L_rec by {label}" for road, label in ROADS.items()}
    labels |= {"rec": "L_rec, all roads", **OTHERS}
    levels = len(audit["norms"]["rec"]["codebook"])
    lines = [["loss", *(f"codebook {level + 1}" for level in range(levels)), "encoder", "noise"]]
    for loss, norms in audit["norms"].items():
        values = [*norms["codebook"], norms["encoder"], norms["noise"]]
        lines.append([labels[loss], *("-" if v is None else f"{v:.3g}" for v in values)])
    return lines


def audit_table(result: DatasetResults) -> Table | None:
    """One row a method with a tokenizer; None where no run has been audited."""
    rows = [_row(method, found) for method in result.methods if (found := audits(method))]
    if not rows:
        return None
    columns = (
        Column("method", "Method"),
        *(Column(road, f"L_rec by {label}") for road, label in ROADS.items()),
        Column("encoder", "L_rec on encoder", significant),
        Column("noise", "L_rec on noise scale", significant),
        *(Column(loss, f"{label} on codebooks") for loss, label in OTHERS.items()),
        Column("moved", "Trained"), Column("verdict", "Verdict"),
    )  # fmt: skip
    caption = (
        f"Gradient audit on {result.heading}, one batch before the first step, means over seeds. "
        "Norms of the gradient of the recommendation loss L_rec on the codebooks, levels "
        "separated by slashes, by each road alone: the codes of the history, those that the "
        "decoder is fed, and the target distribution; then by all three on the encoder and on a "
        "learned noise scale; beside them what the quantisation and reconstruction losses send to "
        "the codebooks. 0 is exactly zero: no gradient finds a way. Before the first step no code "
        "is hot, so a noise scale on hot codes alone has no gradient yet; and a learned one has "
        "another way, through the estimator's own objective, which is not counted here. Trained: "
        "what the optimiser moves. Verdict: end to end (every level by all three roads), detached "
        "(L_rec reaches nothing, other losses train the tokenizer) or two-stage (nothing trains "
        "it)."
    )
    return Table(f"{result.dataset}-audit", pd.DataFrame(rows), columns, caption)


def audits(method: MethodRuns) -> list[Mapping[str, Any]]:
    """Of the method's runs, by seed; those that were not audited left out."""
    found = [run.info.get("describe", {}).get("audit") for run in method.runs]
    return [audit for audit in found if audit]


def _row(method: MethodRuns, audits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def books(loss: str) -> str | None:
        norms = [audit["norms"][loss]["codebook"] for audit in audits if loss in audit["norms"]]
        if not norms:
            return None
        return " / ".join(f"{value:.2g}" for value in np.mean(norms, axis=0))

    def part(name: str) -> float | None:
        norms = [audit["norms"]["rec"][name] for audit in audits]
        return None if any(norm is None for norm in norms) else float(np.mean(norms))

    return {
        "method": method.label,
        **{road: books(road) for road in ROADS},
        "encoder": part("encoder"),
        "noise": part("noise"),
        **{loss: books(loss) for loss in OTHERS},
        "moved": ", ".join(dict.fromkeys(p for a in audits for p in a["moved"])) or "nothing",
        "verdict": ", ".join(dict.fromkeys(map(kind, audits))),
    }
