"""What noise and its decay do: every way of training the IDs, against the two-stage road."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmark.aggregate import DatasetResults, MethodRuns
from benchmark.metrics import METRICS
from benchmark.report.audit import audits, kind
from benchmark.report.baselines import against
from benchmark.report.codes import code_uses
from benchmark.report.diagnostics import epochs, gradient_verdict, series
from benchmark.report.table import Column, Table, fixed, p_value, percent, share
from benchmark.report.tables import compared
from benchmark.significance import name_tests

REFERENCE = "tiger"


class Way(NamedTuple):
    """How a method trains its IDs, in words."""

    noise: str
    decay: str
    forward: str
    gradient: str


_SAMPLED, _HOT = "sampled", "sampled where hot, else nearest"
_DECAYS = {
    "diger_sdud": Way("all codes", "learned (SDUD)", _SAMPLED, "yes"),
    "diger_frqud": Way("hot codes", "by use (FrqUD)", _HOT, "yes"),
    "diger_sdud_frqud": Way("hot codes", "learned and by use", _HOT, "yes"),
}

#: By a method's name, in the order of the rows. The noise of the last two families is in the soft
#: codes only: what goes forward are the IDs of the last refresh.
WAYS: dict[str, Way] = {
    REFERENCE: Way("none", "none", "frozen IDs", "none"),
    "ste": Way("none", "none", "nearest", "yes"),
    "gumbel": Way("all codes", "none", _SAMPLED, "yes"),
    "gumbel_cosine": Way("all codes", "cosine timetable", _SAMPLED, "yes"),
    "gumbel_tau": Way("all codes", "none; temperature by timetable", _SAMPLED, "yes"),
    **_DECAYS,
    **{f"{name}_cached": way._replace(forward="last refresh") for name, way in _DECAYS.items()},
    **{f"{name}_detached": way._replace(forward="last refresh", gradient="none")
       for name, way in _DECAYS.items()},
}  # fmt: skip


def ablation_table(result: DatasetResults) -> Table | None:
    """One row a way; None with fewer than two of them."""
    methods = [m for name in WAYS for m in result.methods if m.method == name]
    if len(methods) < 2:
        return None
    k = result.headline_k
    summary = result.summary("ndcg", k)
    frame = pd.DataFrame([_row(method) for method in methods])
    frame["ndcg"] = [float(summary["mean"][m.key]) for m in methods]
    frame["sd"] = [float(summary["sd"][m.key]) for m in methods]
    referred = [m.key for m in methods if m.method == REFERENCE]
    has_reference = len(referred) == 1 and len(result.users) > 1
    label = f"{METRICS['ndcg'].label}@{k}"
    columns = [
        Column("method", "Method"), Column("noise", "Noise"), Column("decay", "Decay"),
        Column("forward", "Forward codes"), Column("gradient", "L_rec gradient"),
        Column("measured", "measured"), Column("ndcg", label, fixed(4), "max", "sd"),
    ]  # fmt: skip
    if has_reference:
        versus = _versus(result, methods, referred[0])
        frame = frame.join(versus)
        columns += [Column("change", "Change", percent), Column("p", "p", p_value),
                    Column("found", "Found")]  # fmt: skip
    columns += [Column("used", "Used codes", share), Column("gini", "Gini", fixed(2)),
                Column("drift", "Drift an epoch", share)]  # fmt: skip
    return Table(
        f"{result.dataset}-ablation", frame, tuple(columns), _caption(result, has_reference)
    )


def _caption(result: DatasetResults, has_reference: bool) -> str:
    text = (
        f"Ablation of noise and decay on {result.heading}; mean ± standard deviation over seeds, "
        "best value bold, second underlined. Noise: which codes' logits get Gumbel noise in "
        "training. Decay: what withdraws it. Forward codes: what the recommender reads. L_rec "
        "gradient: whether the recommendation loss trains the tokenizer by design, and as measured "
        "in the gradient audit or, without one, in the training log."
    )
    if has_reference:
        pairs = len(result.methods) * (len(result.methods) - 1) // 2
        text += (
            f" Change, p and found: against the two-stage row; p is the largest of "
            f"{name_tests(pairs)} on per-user values (n = {len(result.users):,}), after Holm's "
            f"correction over all {pairs} pairs of methods; found as in the table of pairs."
        )
    return text + (
        " Used codes: share of a level's codes that any item has; Gini: of the items on a level's "
        "codes, 0 where all codes are alike; both means over levels, of the IDs that were tested. "
        "Drift: share of items whose codes change in an epoch, mean over epochs."
    )


def _row(method: MethodRuns) -> dict[str, Any]:
    uses = code_uses(method)
    logs = [epochs(run) for run in method.runs]
    drifts = [np.mean([np.mean(value) for _, value in found])
              for log in logs if (found := series(log, "drift/full"))]  # fmt: skip
    return {
        "method": method.label,
        **WAYS[method.method]._asdict(),
        "measured": _measured(method),
        "used": _mean([float(np.mean(use.used)) / use.counts.shape[1] for use in uses]),
        "gini": _mean([float(np.mean(use.gini)) for use in uses]),
        "drift": _mean([float(value) for value in drifts]),
    }


def _measured(method: MethodRuns) -> str | None:
    """What the audits say or, where there are none, the norms of the log; None without either."""
    if found := audits(method):
        return ", ".join(dict.fromkeys(map(kind, found)))
    norms = [grads for run in method.runs if (grads := series(epochs(run), "grad/codebook"))]
    said = [gradient_verdict([value for _, value in grads]) for grads in norms]
    return ", ".join(dict.fromkeys(said)) or None


def _versus(result: DatasetResults, methods: Sequence[MethodRuns], reference: str) -> pd.DataFrame:
    """Columns change, p and found, a row a method; empty for the reference itself."""
    pairs = compared(result, "ndcg", result.headline_k)
    rows: list[dict[str, Any]] = []
    for method in methods:
        if method.key == reference:
            rows.append({"change": None, "p": None, "found": None})
            continue
        row = against(pairs, method.key, reference)
        rows.append({"change": row["relative"], "p": row["p"], "found": row["found"]})
    return pd.DataFrame(rows)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
