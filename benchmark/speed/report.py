"""Tables and plots of what ``benchmark.speed`` has measured, from its JSON alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from benchmark.report.drawing import Drawing, plain_log, save, style
from benchmark.report.table import Column, Table, fixed, integer
from benchmark.speed.bounds import bounds_table, has_plain_side_by_side
from benchmark.store import write_text

MEGABYTE = 1e6
Rows = list[dict[str, Any]]


def write_report(facts: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Write ``<name>.md`` and, of what there is to draw, ``<name>-items`` and ``<name>-users``."""
    command = facts["command"]
    parts = facts["parts"]
    tables = [
        _sourced(make(parts[part], facts), facts.get("sources", {}).get(part))
        for part, make in TABLES.items()
        if parts.get(part)
    ]
    tables += [table] if (table := bounds_table(facts)) is not None else []
    bodies = [f"{table.markdown_body()}\n\n{table.caption}\n" for table in tables]
    page = folder / f"{name}.md"
    write_text(page, "\n".join([f"<!-- Made by: {command} -->", "", _head(facts), "", *bodies]))
    drawings = [
        _cost(parts[part], part, f"{name}-{part}") for part in ("items", "users") if parts.get(part)
    ]
    return [page, *(path for d in drawings for path in save(d, folder, command))]


def _sourced(table: Table, source: dict[str, Any] | None) -> Table:
    """With the commit that it was measured at, where that is not the report's; see ``joined``."""
    if source is None:
        return table
    where = f"Measured at commit {_commit(source['git'])}, {source['started']}."
    return replace(table, caption=f"{table.caption} {where}")


def _commit(git: dict[str, Any]) -> str:
    return (git["commit"] or "no commit")[:12] + (" and changes to it" if git["dirty"] else "")


def _head(facts: dict[str, Any]) -> str:
    device, versions = facts["device"], facts["versions"]
    lines = [
        f"# Speed on {device['name']} ({device['kind']}, CPU threads a process: "
        f"{device['threads']})",
        "",
        f"Commit {_commit(facts['git'])}; torch {versions['torch']}, Python {versions['python']}; "
        f"{facts['started']}; `{facts['command']}`. "
        f"Execution unless a row says otherwise: {_words(facts['execution'])}.",
    ]
    lines += [f"Not measured: {what}: {why}" for what, why in facts["skipped"].items()]
    return "\n".join(lines)


def _words(execution: dict[str, Any]) -> str:
    return ", ".join(f"{key} {str(value).lower()}" for key, value in sorted(execution.items()))


def _frame(rows: Rows) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    for column in ("peak_memory_bytes", "peak_device_bytes"):
        if column in frame:
            frame[column] = pd.to_numeric(frame[column]) / MEGABYTE
    return frame


def _precision(rows: Rows) -> list[Column]:
    """A column of it, where rows say which they are of: files from before do not."""
    return [Column("precision", "Precision")] if any("precision" in row for row in rows) else []


def _training(rows: Rows, facts: dict[str, Any]) -> Table:
    frame = _frame(rows)
    frame["recording"] = [row["step"].get("recording_seconds") for row in rows]
    columns = [
        Column("experiment", "Experiment"), Column("dataset", "Data"),
        Column("method", "Method"), Column("way", "Way"),
        Column("ms_per_step", "ms a step", fixed(1)),
        Column("plain_over_ms_per_step", "times the plain one", fixed(1)),
        Column("epoch_seconds", "s an epoch", fixed(1)),
        Column("tokens_per_second", "tokens/s", integer),
        Column("validation_seconds", "s a validation", fixed(2)),
        Column("new_ids_and_gradients_seconds", "s the rest of an epoch", fixed(2)),
        Column("ms_per_user", "ms a user", fixed(3)),
        Column("plain_over_ms_per_user", "times the plain one", fixed(1)),
        Column("recording", "s recording", fixed(1)),
        Column("peak_device_bytes", "device MB", integer),
        Column("steps_timed", "steps timed", integer),
    ]  # fmt: skip
    if frame["peak_device_bytes"].isna().all():
        columns = [c for c in columns if c.key not in ("peak_device_bytes", "recording")]
    caption = (
        "Training steps and validation. Mean over the steps timed, which are drawn from an epoch "
        "like all others; seconds an epoch are that mean times its steps. plain: transformers' T5, "
        "eager, batches padded to the longest history, beams repeated, measured in turns with the "
        "first way in the same process; its validation is that of a sample of users, scaled up. "
        "Tokens are those of items, not of padding. The rest of an epoch: new semantic IDs and the "
        "gradient audit of a batch; the checkpoint is not in it. Peak memory is what torch held."
    )
    return Table("speed-train", frame, tuple(columns), caption)


def _together(rows: Rows, facts: dict[str, Any]) -> Table:
    columns = (
        Column("experiment", "Experiment"), Column("dataset", "Data"), Column("method", "Method"),
        Column("way", "Way"), *_precision(rows), Column("processes", "Side by side", integer),
        Column("threads", "CPU threads each", integer),
        Column("steps_per_second", "steps/s together", fixed(1)),
        Column("over_one", "times one alone", fixed(2)),
        Column("over_plain", "times the plain one", fixed(1)),
    )  # fmt: skip
    caption = (
        "Trainings side by side on one device, a process each; "
        + (
            "those of the suite are set beside the most of the plain reference, one with all cores "
            "or one a core"
            if has_plain_side_by_side(rows)
            else "the plain reference has the device, on a CPU with all of its cores, for itself"
        )
        + ". batched: that many trainings of the two-stage method as one model by vmap, without "
        "dropout, over one made the same way."
    )
    return Table("speed-together", _frame(rows), columns, caption)


def _items(rows: Rows, facts: dict[str, Any]) -> Table:
    columns = (
        Column("items", "Items", integer),
        *_precision(rows),
        Column("ms_per_step", "ms a step, distinct items", fixed(1)),
        Column("ms_per_step_catalogue", "ms a step, whole catalogue", fixed(1)),
        Column("ms_per_user", "ms a user", fixed(2)),
        Column("trie_seconds", "s the trie", fixed(3)),
        Column("refresh_seconds", "s new IDs", fixed(2)),
        Column("peak_memory_bytes", "MB so far", integer),
    )
    caption = (
        "Made-up catalogues, diger_frqud end to end, batch 256, 20 beams. A step tokenises the "
        "distinct items of its batch or, for comparison and up to 100,000 items, all of them."
    )
    frame = _frame(rows)
    frame["ms_per_step_catalogue"] = frame.get("ms_per_step_catalogue")
    return Table("speed-items", frame, columns, caption)


def _users(rows: Rows, facts: dict[str, Any]) -> Table:
    columns = (
        Column("users", "Users", integer), Column("rows", "Training rows", integer),
        *_precision(rows), Column("order_seconds", "s drawing an epoch", fixed(2)),
        Column("ms_per_step", "ms a step", fixed(1)),
        Column("epoch_seconds", "s an epoch", fixed(0)),
        Column("validation_seconds", "s a validation", fixed(0)),
    )  # fmt: skip
    return Table("speed-users", _frame(rows), columns,
                 "Made-up users of 10,000 items; epoch and validation are scaled up from steps and "
                 "from 512 users.")  # fmt: skip


def _tokenizer(rows: Rows, facts: dict[str, Any]) -> Table:
    columns = (
        Column("items", "Items", integer), Column("train_assignment", "Codes in training"),
        Column("steps_per_second", "steps/s", fixed(1)),
        Column("epoch_seconds", "s an epoch", fixed(3)),
    )  # fmt: skip
    return Table("speed-tokenizer", _frame(rows), columns,
                 "RQ-VAE at the released sizes: 384-512-256-128-64, 3 levels of 256 codes, batch "
                 "1,024.")  # fmt: skip


def _recbole(rows: Rows, facts: dict[str, Any]) -> Table:
    columns = (
        Column("experiment", "Experiment"), Column("dataset", "Data"), Column("method", "Method"),
        Column("epoch_seconds", "s an epoch", fixed(2)),
        Column("validation_seconds", "s a validation", fixed(3)),
        Column("ms_per_user", "ms a user", fixed(3)),
    )  # fmt: skip
    return Table("speed-recbole", _frame(rows), columns,
                 "The baselines through RecBole: the second epoch, a validation, lists of 20 items "
                 "of all users.")  # fmt: skip


def _statistics(rows: Rows, facts: dict[str, Any]) -> Table:
    frame = _frame(rows)
    # Files from before the seed-aware interval do not say: one or three by turns, averaged.
    seeds = [Column("seeds", "Seeds", integer)] if "seeds" in frame else []
    columns = (
        Column("methods", "Methods", integer), Column("users", "Users", integer),
        *seeds, Column("pairs", "Pairs", integer),
        Column("flips", "Sign flips", integer),
        Column("draws", "Bootstrap draws", integer), Column("seconds", "s", fixed(1)),
        Column("peak_memory_bytes", "MB", integer),
    )  # fmt: skip
    return Table("speed-statistics", frame, columns,
                 "All pairs of methods on made-up values, in a process of its own.")  # fmt: skip


def _report(rows: Rows, facts: dict[str, Any]) -> Table:
    frame = _frame(rows)
    frame["store_bytes"] /= MEGABYTE
    columns = (
        Column("datasets", "Data sets", integer), Column("methods", "Methods", integer),
        Column("seeds", "Seeds", integer), Column("users", "Users", integer),
        Column("runs", "Runs", integer), Column("store_bytes", "Store, MB", integer),
        Column("cores", "Cores", integer), Column("seconds", "s", fixed(1)),
        Column("cpu_seconds", "CPU s", fixed(1)), Column("processes", "Processes", integer),
        Column("peak_memory_bytes", "Peak MB", integer),
    )  # fmt: skip
    return Table("speed-report", frame, columns,
                 "python -m benchmark.report on made-up runs: tables, figures and pages of all "
                 "data sets, from the start to the end of all its processes; peaks of those alive "
                 "together are added up.")  # fmt: skip


def _agreement(rows: Rows, facts: dict[str, Any]) -> Table:
    columns = (
        Column("experiment", "Experiment"), Column("dataset", "Data"), Column("method", "Method"),
        Column("way", "Way"), Column("steps", "steps"),
        Column("largest_difference", "largest difference", "{:.1e}".format),
        Column("loss_before", "first loss", fixed(3)), Column("loss_after", "last loss", fixed(3)),
    )  # fmt: skip
    caption = (
        "Total losses beside those of the plain reference, step by step on the same batches from "
        "the same weights, without dropout and noise. The plain reference is fp32."
    )
    return Table("speed-agreement", _frame(rows), columns, caption)


def _deterministic(rows: Rows, facts: dict[str, Any]) -> Table:
    columns = (
        Column("dataset", "Data"), Column("method", "Method"),
        *_precision(rows), Column("deterministic", "deterministic"),
        Column("ms_per_step", "ms a step", fixed(1)), Column("same_bits", "same bits twice"),
    )  # fmt: skip
    caption = "The switch that makes runs on a GPU repeatable; on a CPU it has nothing to do."
    return Table("speed-deterministic", _frame(rows).astype({"deterministic": str,
                 "same_bits": str}), columns, caption)  # fmt: skip


TABLES = {
    "train": _training, "agreement": _agreement, "deterministic": _deterministic,
    "together": _together, "items": _items, "users": _users,
    "tokenizer": _tokenizer, "recbole": _recbole, "statistics": _statistics, "report": _report,
}  # fmt: skip


def _cost(rows: Rows, part: str, name: str) -> Drawing:
    """Milliseconds a step and a user against the number of items or users, both axes as powers."""
    frame = _frame(rows)
    lines = {"ms_per_step": "a training step", "ms_per_user": "a user's list"}
    if part == "items":
        lines |= {"ms_per_step_catalogue": "a step on the whole catalogue"}
    with style():
        figure = Figure(figsize=(5.0, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for key, label in lines.items():
            known = frame.dropna(subset=[key]) if key in frame else frame.iloc[:0]
            if len(known):
                axes.plot(known[part], known[key], marker="o", label=label)
        axes.set(xscale="log", yscale="log", xlabel=part, ylabel="milliseconds")
        plain_log(axes.xaxis)
        plain_log(axes.yaxis)
        axes.legend()
    caption = f"Cost against the number of {part}, made-up data."
    return Drawing(name, figure, caption)
