"""From Hydra's overrides to checked settings of one cell."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from benchmark.data.config import DatasetConfig, suite_datasets
from benchmark.data.download import Downloads
from benchmark.data.embed import EncodeOptions
from benchmark.data.tokenizer_choice import tokenizer_identity
from benchmark.errors import UserError
from benchmark.execution import ExecutionChoice
from benchmark.recommender import Recommender
from benchmark.store import Cell, sha256_json

CONF = Path(__file__).parent / "conf"


@dataclass(frozen=True)
class Protocol:
    """What is trained on and evaluated: rows, list length, cut-offs."""

    name: str
    max_history: int
    train_prefixes: int | None
    ks: Sequence[int]
    top_k: int

    def __post_init__(self) -> None:
        for name in ("max_history", "top_k"):
            _whole(f"protocol.{name}", getattr(self, name))
        if self.train_prefixes is not None:
            _whole("protocol.train_prefixes", self.train_prefixes)
        if self.ks == []:
            raise UserError("protocol.ks must name at least one cut-off, such as [5, 10, 20]")
        if not isinstance(self.ks, list | tuple):
            raise UserError(f"protocol.ks must be a list such as [5, 10, 20], got {self.ks!r}")
        for k in self.ks:
            _whole("protocol.ks", k)
        if max(self.ks) > self.top_k:
            raise UserError(
                f"protocol.top_k {self.top_k} is shorter than the largest cut-off in "
                f"protocol.ks {list(self.ks)}; raise protocol.top_k"
            )


def _whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name} must be a whole number of at least 1, got {value!r}")


@dataclass(frozen=True)
class Settings:
    """One cell's settings, resolved and checked; ``method`` is what its class is made from."""

    dataset: DatasetConfig
    protocol: Protocol
    method_name: str
    method_label: str
    method: Mapping[str, Any]
    exclude_seen: bool | None
    seed: int
    device: str
    threads: int
    results: Path
    reports: Path
    cache: Path
    embedding: EncodeOptions
    execution: ExecutionChoice = field(default_factory=ExecutionChoice)
    #: How the method's settings were chosen (conf/tuned); empty: they were not tuned.
    tuning: Mapping[str, Any] = field(default_factory=dict)
    #: Whether they were to be chosen (conf/tuning/validation.yaml), and have not been.
    untuned: bool = False

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the result, the seed apart; its hash is in the cell's path."""
        return {
            "dataset": self.dataset.identity(),
            "protocol": {
                "max_history": self.protocol.max_history,
                "train_prefixes": self.protocol.train_prefixes,
                "ks": list(self.protocol.ks),
                "top_k": self.protocol.top_k,
            },
            "method": self._method_identity(),
            "exclude_seen": self.exclude_seen,
        }

    def _method_identity(self) -> dict[str, Any]:
        tokenizer = self.method.get("tokenizer")
        if not isinstance(tokenizer, Mapping):
            return dict(self.method)
        known = tokenizer_identity(tokenizer, lambda: Downloads.from_environment(self.cache))
        return {**self.method, "tokenizer": known}

    @property
    def cell(self) -> Cell:
        return Cell(
            self.results, self.dataset.store_name, self.method_name,
            sha256_json(self.identity), self.seed,
        )  # fmt: skip


def one_line(error: BaseException) -> str:
    """An error's text on one line, without Hydra's search path."""
    text = str(error).split("Config search path:")[0]
    return " ".join(text.split())


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/config.yaml`` with the overrides.

    Raises:
        UserError: an unknown key, group, option or a value that cannot be parsed.
    """
    _check_grammar(overrides)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException, OSError) as error:
        text = one_line(error)
        if "Could not find 'dataset/" in text:  # Hydra does not list what is in folders
            text = f"{text.partition(' Available')[0]}: there are {', '.join(suite_datasets())}"
            text += ", custom (and samples of these with dataset.users=)"
        raise UserError(text) from None
    except ValueError as error:  # such as method=null, which Hydra does not name itself
        raise UserError(f"{' '.join(overrides)}: {one_line(error)}") from None


def _check_grammar(overrides: Sequence[str]) -> None:
    """Name the override that Hydra's grammar cannot read: its own message does not."""
    parser = OverridesParser.create()
    for override in overrides:
        try:
            parser.parse_overrides([override])
        except HydraException:
            raise UserError(
                f"cannot read {override}: a value with blanks, brackets, commas or = needs quotes "
                "of its own inside those of the shell, as in \"key='a value'\""
            ) from None


def settings_from(config: DictConfig) -> Settings:
    """Check a composed config.

    Raises:
        UserError: an impossible value.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} is needed: give {error.full_key}=...") from None
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from None
    assert isinstance(plain, dict)
    for group in ("method", "dataset", "protocol"):
        if not isinstance(plain.get(group), dict):
            raise UserError(f"{group} is missing; choose one with {group}=NAME")
    method = dict(plain["method"])
    try:
        name, label = str(method.pop("name")), str(method.pop("label"))
    except KeyError as error:
        raise UserError(f"the method's yaml needs the key {error.args[0]}") from None
    seed, threads = plain["seed"], plain["threads"]
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(f"seed must be a whole number from 0 to 2^32 - 1, got {seed!r}")
    _whole("threads", threads)
    if plain["exclude_seen"] not in (None, True, False):
        raise UserError(f"exclude_seen must be true, false or null, got {plain['exclude_seen']!r}")
    if plain["device"] not in ("auto", "cpu", "cuda"):
        raise UserError(f"device must be auto, cpu or cuda, got {plain['device']!r}")
    try:
        dataset = DatasetConfig.from_mapping(plain["dataset"])
        protocol = Protocol(**plain["protocol"])
        embedding = EncodeOptions.from_mapping(plain["embedding"])
        execution = ExecutionChoice(*(plain[k] for k in ("precision", "step", "deterministic")))
    except (ValueError, TypeError) as error:
        raise UserError(one_line(error)) from None
    tuning = dict(plain["tuning"] or {})
    untuned = bool(tuning.pop("wanted", False)) and not tuning
    return Settings(
        dataset, protocol, name, label, method, plain["exclude_seen"],
        seed, str(plain["device"]), threads,
        Path(plain["results"]), Path(plain["reports"]), Path(plain["cache"] or ".cache"),
        embedding, execution, tuning, untuned,
    )  # fmt: skip


def build_method(settings: Settings) -> Recommender:
    """Make the method from its config and check it against the protocol; trains nothing.

    Raises:
        UserError: an unknown or impossible setting.
    """
    try:
        method = instantiate(dict(settings.method), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise UserError(f"method {settings.method_name}: {one_line(cause)}") from None
    except (UserError, ValueError, TypeError) as error:
        raise UserError(f"method {settings.method_name}: {one_line(error)}") from None
    if not isinstance(method, Recommender):
        raise UserError(
            f"method {settings.method_name}: {type(method).__name__} lacks part of the interface "
            "in benchmark/recommender.py"
        )
    limit = method.max_list_length
    if limit is not None and limit < settings.protocol.top_k:
        raise UserError(
            f"method {settings.method_name}: {limit} beams cannot fill lists of "
            f"{settings.protocol.top_k}; raise method.decode.beams or lower protocol.top_k"
        )
    return method


def check_cell(overrides: Sequence[str]) -> Settings:
    """Compose and check one cell without running it."""
    settings = settings_from(compose_config(overrides))
    build_method(settings)
    return settings


def expand_sweep(overrides: Sequence[str]) -> Iterator[list[str]]:
    """The single-cell override lists behind Hydra's ``a=1,2 b=3,4`` (or the list itself)."""
    _check_grammar(overrides)
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    yield from (list(row) for row in itertools.product(*map(_choices, parsed)))


def _choices(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line or ""]
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]
