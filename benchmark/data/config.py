"""A data set as its yaml names it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from benchmark.data.embed import encoder_identity
from benchmark.data.encoder import EncoderConfig
from benchmark.data.files import default_name
from benchmark.data.filters import Filters
from benchmark.data.sources import open_source

COUNTS = (
    "users", "items", "interactions", "train_rows", "valid_rows", "test_rows",
    "users_with_repeated_items",
)  # fmt: skip
# Options of the source that stand at the top of custom.yaml, because people type them.
OWN_DATA = ("interactions", "items", "columns", "delimiter")


def suite_datasets() -> list[str]:
    """The data sets that the suite ships in full: neither samples nor the user's own."""
    folder = Path(__file__).parents[1] / "conf" / "dataset"
    names = sorted(
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")
    )
    return [name for name in names if name != "custom" and not re.search(r"-\d+u$", name)]


@dataclass(frozen=True)
class DatasetConfig:
    """A data set, as its yaml names it.

    Attributes:
        name: folder name in the store; lower case.
        label: the name that tables and figures show.
        source: options of the source, ``kind`` among them (see `benchmark.data.sources`).
        encoder: how items get their vectors; None for a data set without text.
        paper: the name under which benchmark/reported.json has numbers for this data set, whatever
            its texts; None where nobody reported any.
        filters: which of the source's interactions are kept.
        users: keep only a fixed sample of this many users; None keeps all.
        invariants: counts of the full data set, before sampling, that must come out; the rows are
            those of all prefixes.
    """

    name: str
    label: str
    source: Mapping[str, Any]
    encoder: EncoderConfig | None = None
    paper: str | None = None
    filters: Filters = field(default_factory=Filters)
    users: int | None = None
    invariants: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", self.name):
            raise ValueError(
                f"dataset.name must be lower-case letters, digits and . _ -, not {self.name!r}"
            )
        if self.users is not None and (type(self.users) is not int or self.users < 1):
            raise ValueError(
                f"dataset.users must be null or a whole number from 1, not {self.users!r}"
            )
        for key, value in self.invariants.items():
            if key not in COUNTS:
                raise ValueError(f"dataset.invariants has no {key!r}; it knows {', '.join(COUNTS)}")
            if type(value) is not int or value < 0:
                raise ValueError(f"dataset.invariants.{key} must be a whole number, not {value!r}")
        open_source(self.source)  # refuses impossible options; reads nothing

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> DatasetConfig:
        """From the yaml (a dict or hydra's own mapping).

        Raises:
            ValueError: an unknown or missing key, or an impossible value, in one line.
        """
        values: dict[str, Any] = _with_own_data(plain(options))
        known = [entry.name for entry in fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(f"dataset has no key {key!r}; it knows {', '.join(known)}")
        for key in ("name", "label", "source"):
            if not values.get(key):
                raise ValueError(f"dataset needs the key {key!r}")
        encoder = values.pop("encoder", None)
        filters = Filters.from_mapping(values.pop("filters", None) or {})
        values["invariants"] = values.get("invariants") or {}
        return cls(
            encoder=EncoderConfig.from_mapping(encoder) if encoder else None,
            filters=filters,
            **values,
        )

    @property
    def store_name(self) -> str:
        """The name that results are stored under: a sample never shares it with the full set."""
        return self.name if self.users is None else f"{self.name}-{self.users}u"

    def identity(self) -> dict[str, Any]:
        """What of a data set decides a result, as JSON. Files count by their content, and what
        only labels or checks the data does not count, save the label that stored results have.

        Raises:
            UserError: a local file is missing.
        """
        facts: dict[str, Any] = {
            "name": self.name,
            "label": self.label,
            "source": dict(open_source(self.source).identity),
            "users": self.users,
            "encoder": None if self.encoder is None else encoder_identity(self.encoder),
        }
        # Added later: their absence must go on meaning what it has meant in stored results.
        filters = self.filters.identity
        return {**facts, "filters": filters} if filters else facts


def _with_own_data(values: dict[str, Any]) -> dict[str, Any]:
    """The options of the user's own files moved into the source, and a name made of theirs."""
    own = {key: values.pop(key) for key in OWN_DATA if key in values}
    if not own:
        return values
    name = values.get("name") or default_name(str(own.get("interactions", "")))
    if re.sub(r"-\d+u$", "", name) in {suite.replace("/", "-") for suite in suite_datasets()}:
        raise ValueError(
            f"{name} is the name of a data set of the suite, whose results are stored under it: "
            "give yours another with dataset.name="
        )
    source = {**(values.get("source") or {}), **own}
    return {**values, "source": source, "name": name, "label": values.get("label") or name}


def plain(value: Any) -> Any:
    """Nested dicts and lists of a mapping that may be hydra's."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(inner) for inner in value]
    return value
