"""The encoder's model: found, checked and loaded."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark.data.encoder import OFFLINE_MODELS, EncoderConfig, Pooling
from benchmark.errors import UserError
from benchmark.store import sha256_file

MODEL_FILES = (".safetensors", ".json", ".txt", ".model")


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
    weights = {path.parent for path in model_files(folder) if path.suffix == ".safetensors"}
    pickled = {path.parent for path in folder.rglob("pytorch_model*.bin")} - weights
    if not weights or pickled:
        place = min(pickled, default=folder)
        raise UserError(f"{place} holds no .safetensors weights; pickled ones are not loaded")
    expected = config.resolved().sha256
    if expected is None:
        return
    file = folder / "model.safetensors"
    found = sha256_file(file) if file.is_file() else "no such file"
    if found != expected:
        raise UserError(f"{file} is not the expected one (sha256 {found}, not {expected})")


def _check_tensors(model: Any, folder: Path) -> None:
    """Raise ValueError if most of the model's tensors are not in the files: the loader fills what
    it does not find with random numbers, and only warns."""
    from safetensors import safe_open

    named: set[str] = set()
    for path in model_files(folder):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                named.update(suffix for key in file.keys() for suffix in _suffixes(key))  # noqa: SIM118
    wanted = list(model.state_dict())
    found = sum(any(suffix in named for suffix in _suffixes(key)) for key in wanted)
    if found < len(wanted) / 2:
        raise ValueError(
            f"only {found} of the {len(wanted)} tensors that its config.json asks for are in its "
            ".safetensors files"
        )


def _suffixes(key: str) -> list[str]:
    """A tensor's name without its first parts: which model it is wrapped in differs."""
    parts = key.split(".")
    return [".".join(parts[start:]) for start in range(min(4, len(parts) - 1))]


def load_model(config: EncoderConfig, device: str) -> Any:
    """The sentence-transformers model in float32 on a torch device.

    Raises:
        UserError: it is not there, has other weights than expected, or cannot be loaded.
    """
    folder = model_folder(config)
    check_weights(folder, config)
    with _offline():
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging

            logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            model = SentenceTransformer(
                str(folder),
                device=device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            ).float()  # some releases keep half precision where the weights have it, some do not
            _check_tensors(model, folder)
            _set_pooling(model, config.pooling)
        except Exception as error:  # each architecture and file format has kinds of its own
            raise unusable(f"in {folder}", error) from None
    tokenizer = getattr(model, "tokenizer", None)
    if getattr(tokenizer, "pad_token", "") is None:
        raise UserError(
            f"the encoder in {folder} cannot be used: its tokenizer has no padding token; "
            "name one as pad_token in its tokenizer_config.json"
        )
    return model


def unusable(where: str, error: BaseException) -> UserError:
    """The one line for a model that does not load or run."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(f"the encoder {where} cannot be used: {reason}")


def _set_pooling(model: Any, pooling: Pooling | None) -> None:
    """Replace the model's pooling layer; what follows it (a normalisation, say) stays."""
    if pooling is None:
        return
    for index, module in enumerate(model):
        if type(module).__name__ == "Pooling":
            # The second name is that of older releases.
            width = getattr(module, "embedding_dimension", None) or module.word_embedding_dimension
            model[index] = type(module)(width, pooling_mode=pooling)
            return
    raise ValueError("encoder.pooling is set, but the model has no pooling layer")


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the model's loader from asking the hub about files that are there already."""
    # The library reads the variable once, when it is imported; so it is imported first and its
    # own copy changed with the variable, or a hub model could not be fetched later on.
    from huggingface_hub import constants

    variable, constant = os.environ.get("HF_HUB_OFFLINE"), constants.HF_HUB_OFFLINE
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = constant
        if variable is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = variable
