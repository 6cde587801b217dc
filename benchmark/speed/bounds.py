"""What the suite set out to reach, beside what was measured: whether each bound holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from benchmark.report.table import Column, Table, significant
from benchmark.speed.ways import PLAIN, SUITE, WITH_BF16, WITH_MPS

Rows = list[dict[str, Any]]
Parts = Mapping[str, Rows]

OF_WAY = {SUITE: "fp32", WITH_BF16: "bf16"}  # precision, of files whose rows do not say it
TIMES = 3  # the plain step on a CPU, and one run on a GPU, at least
EPOCHS = 120  # of a whole run under the released settings
TOKENIZER_EPOCHS = 10_000  # of the released recipe; it mostly ends earlier
GPU_FASTEST = "bf16, graph"
MIB = 2**20


@dataclass(frozen=True)
class Bound:
    """A figure that must be at most, or at least, something.

    Attributes:
        device: kind of device that it is for; None: any.
        measured: the figure, given what was measured; None where a part of it was not.
    """

    what: str
    device: str | None
    kind: Literal["at most", "at least"]
    limit: float
    measured: Callable[[Parts], float | None]

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.kind == "at most" else value >= self.limit


def bounds_table(facts: Mapping[str, Any]) -> Table | None:
    """One row a bound of this kind of device; None where nothing of any was measured."""
    kind, rows = facts["device"]["kind"], []
    for bound in BOUNDS:
        if bound.device not in (None, kind):
            continue
        value = bound.measured(facts["parts"])
        verdict = "not measured" if value is None else "yes" if bound.holds(value) else "no"
        limit = f"{bound.kind} {bound.limit:g}"
        rows.append({"what": bound.what, "limit": limit, "value": value, "holds": verdict})
    if all(row["value"] is None for row in rows):
        return None
    columns = (
        Column("what", "What"), Column("limit", "Bound"),
        Column("value", "Measured", significant), Column("holds", "Holds"),
    )  # fmt: skip
    caption = (
        "Bounds that the suite was built for, of this kind of device. Figures are those of the "
        "tables above; a whole run is its steps, a validation and new semantic IDs an epoch, "
        f"{EPOCHS} times."
    )
    return Table("speed-bounds", pd.DataFrame(rows), columns, caption)


def _train(
    parts: Parts, experiment: str, method: str, way: str, of: Callable[[dict[str, Any]], float]
) -> float | None:
    rows = (r for r in parts.get("train", []) if r["experiment"] == experiment)
    return next((of(r) for r in rows if r["method"] == method and r["way"] == way), None)


def _gpu(of: Callable[[dict[str, Any]], float]) -> Callable[[Parts], float | None]:
    """Of DIGER (FrqUD), end to end, on the whole of Beauty."""
    return lambda parts: _train(parts, "paper", "diger_frqud", GPU_FASTEST, of)


def _run_minutes(row: dict[str, Any]) -> float:
    an_epoch: float = (
        row["epoch_seconds"] + row["validation_seconds"] + row["new_ids_and_gradients_seconds"]
    )
    return EPOCHS * an_epoch / 60


def _tokenizer(parts: Parts) -> float | None:
    """Seconds of the released recipe with the assignment that it trains with."""
    rows = (r for r in parts.get("tokenizer", []) if r["train_assignment"] == "sinkhorn")
    return next((TOKENIZER_EPOCHS * row["epoch_seconds"] for row in rows), None)


def _together(
    experiment: str, method: str, ways: Sequence[str], key: str, least: int,
    precision: str | None = None,
) -> Callable[[Parts], float | None]:  # fmt: skip
    """The largest ``key`` of so many processes or more; precision: None: whatever it is."""

    def measured(parts: Parts) -> float | None:
        of_method = [
            row for row in parts.get("together", [])
            if row["experiment"] == experiment and row["method"] == method
        ]  # fmt: skip
        found = [
            float(row[key]) for row in of_method
            if row["way"] in ways and row["processes"] >= least
            and precision in (None, row.get("precision", OF_WAY.get(row["way"])))
        ]  # fmt: skip
        most = max(found, default=None)
        alone = key == "over_plain" and not has_plain_side_by_side(of_method)
        # Of files from when the plain reference was tried by itself alone: over its most, less.
        return None if most is not None and alone and most >= TIMES else most

    return measured


def has_plain_side_by_side(rows: Rows) -> bool:
    """Whether the plain reference was tried side by side, too."""
    return any(row["way"] == PLAIN and row["processes"] > 1 for row in rows)


def _agreement(parts: Parts) -> float | None:
    """The largest difference of a loss among the ways in fp32."""
    rows = (r for r in parts.get("agreement", []) if r["way"].startswith("fp32"))
    return max((float(r["largest_difference"]) for r in rows), default=None)


def _statistics(key: str, unit: float) -> Callable[[Parts], float | None]:
    return lambda parts: next((r[key] / unit for r in parts.get("statistics", [])), None)


def _side_by_side() -> tuple[Bound, ...]:
    return tuple(
        Bound(
            f"quick, {method}, {precision}: training steps a second of two runs side by side, one "
            "a core, over the most of the plain reference on both cores",
            "cpu", "at least", TIMES,
            _together("quick", method, ways, "over_plain", 2, precision),
        )
        for method in ("tiger", "diger_frqud")
        for ways, precision in (((SUITE,), "fp32"), ((SUITE, WITH_BF16), "bf16"))
    )  # fmt: skip


def _one_thread() -> tuple[Bound, ...]:
    return tuple(
        Bound(
            f"{experiment}, {method}, {way}: a training step over the plain one, a thread each",
            "cpu", "at least", TIMES, _over_plain(experiment, method, way),
        )
        for experiment in ("quick", "beauty-fifth")
        for method in ("tiger", "diger_frqud")
        for way in ("fp32", "bf16")
    )  # fmt: skip


def _over_plain(experiment: str, method: str, way: str) -> Callable[[Parts], float | None]:
    return lambda parts: _train(
        parts, experiment, method, way, lambda row: row["plain_over_ms_per_step"]
    )


BOUNDS: tuple[Bound, ...] = (
    Bound("Beauty, diger_frqud: ms a step, mean of an epoch", "cuda", "at most", 4,
          _gpu(lambda row: row["ms_per_step"])),
    Bound("Beauty, 20 beams: s a validation", "cuda", "at most", 1,
          _gpu(lambda row: row["validation_seconds"])),
    Bound(f"Beauty, diger_frqud: minutes of a run of {EPOCHS} epochs", "cuda", "at most", 7,
          _gpu(_run_minutes)),
    Bound(f"RQ-VAE: s of {TOKENIZER_EPOCHS:,} epochs, if it does not stop before",
          "cuda", "at most", 60, _tokenizer),
    Bound("Beauty, diger_frqud: times the plain step", "cuda", "at least", 20,
          _gpu(lambda row: row["plain_over_ms_per_step"])),
    Bound("Beauty, diger_frqud: steps a second of 8 runs or more side by side over those of one",
          "cuda", "at least", TIMES,
          _together("paper", "diger_frqud", (SUITE, WITH_MPS), "over_one", 8)),
    *_side_by_side(),
    *_one_thread(),
    Bound("losses in fp32 beside those of the plain reference, 50 steps: largest difference",
          None, "at most", 1e-4, _agreement),
    Bound("statistics of 12 methods, 30,431 users, all pairs: s", None, "at most", 20,
          _statistics("seconds", 1)),
    Bound("the same: MiB", None, "at most", 2048, _statistics("peak_memory_bytes", MIB)),
)  # fmt: skip
