"""The table of data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from benchmark.aggregate import DatasetResults
from benchmark.report.provenance import encoder_names, protocol_limits
from benchmark.report.table import Column, Table, fixed, integer, share

_COUNTS = {
    "users": "Users", "items": "Items", "interactions": "Interactions",
    "train_rows": "Training rows", "dropped_users": "Dropped users",
}  # fmt: skip


def dataset_row(result: DatasetResults) -> dict[str, Any]:
    """A data set's row of ``dataset_table``."""
    info = result.runs[0].info
    counts = info["counts"]
    users, items, interactions = (counts[k] for k in ("users", "items", "interactions"))
    return {
        "dataset": result.dataset,
        **{k: counts.get(k) for k in _COUNTS},
        "density": interactions / (users * items),
        "mean": interactions / users,
        "evaluated": len(result.users),
        "limits": ", ".join(protocol_limits(info)) or "none",
        "text": "; ".join(result.text_sources) or None,
        "encoder": encoder_names(result),
    }


def dataset_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of ``dataset_row``: sizes, limits of the protocol, where the texts come from."""
    columns = (
        Column("dataset", "Data set"),
        *(Column(key, header, integer) for key, header in _COUNTS.items()),
        Column("density", "Density", share), Column("mean", "Interactions a user", fixed(1)),
        Column("evaluated", "Users evaluated", integer), Column("limits", "Limits"),
        Column("text", "Item text"), Column("encoder", "Text encoder"),
    )  # fmt: skip
    caption = (
        "Data sets after preparation. Density is interactions / (users x items); a training row "
        "is one prefix of a user's training items with at least one history item."
    )
    return Table("datasets", pd.DataFrame(list(rows)), columns, caption)
