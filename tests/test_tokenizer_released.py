"""Released RQ-VAEs: the state of their file becomes ours, or one line says why not.

Nobody here has seen the released files: the stand-ins are made after the format's description in
``diger.released``, layer by layer with torch's own modules.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.config import build_method, compose_config, settings_from
from benchmark.data.checkpoint import FOLDER, checkpoint_records
from benchmark.data.download import MIRROR_VARIABLE, OFFLINE_VARIABLE
from benchmark.data.prepare import Prepared
from benchmark.errors import UserError
from benchmark.store import RunFolder, sha256_file
from diger.checks import SettingError
from diger.recommender import GenerativeRecommender
from diger.released import released_rqvae
from diger.rqvae import RQVAE, RQVAEConfig
from tests.test_checkpoint import Runs

WIDTH, HIDDEN, LATENT, LEVELS, CODES = 384, [24, 12], 6, 3, 32
SETTINGS = {
    "beta": 0.5, "num_emb_list": [CODES] * LEVELS, "e_dim": LATENT, "layers": HIDDEN,
    "sk_epsilons": [0.003] * LEVELS, "sk_iters": 50, "bn": False,
}  # fmt: skip


class StandIn(nn.Module):
    """The released format: a dropout before each linear layer, ReLU after all but the last."""

    encoder: Any
    decoder: Any
    rq: Any

    def __init__(self, width: int = WIDTH, bn: bool = False, levels: int = LEVELS) -> None:
        super().__init__()
        widths = [width, *HIDDEN, LATENT]
        self.encoder, self.decoder = self.stack_of(widths, bn), self.stack_of(widths[::-1], bn)
        self.rq = nn.Module()
        self.rq.vq_layers = nn.ModuleList(nn.Module() for _ in range(levels))
        for layer in self.rq.vq_layers:
            layer.embedding = nn.Embedding(CODES, LATENT)

    @staticmethod
    def stack_of(widths: list[int], bn: bool) -> nn.Module:
        modules: list[nn.Module] = []
        for i, (wide, narrow) in enumerate(pairwise(widths)):
            modules += [nn.Dropout(0.1), nn.Linear(wide, narrow)]
            modules += [nn.BatchNorm1d(narrow)] if bn else []
            modules += [nn.ReLU()] if i < len(widths) - 2 else []
        half = nn.Module()
        half.mlp_layers = nn.Sequential(*modules)
        return half


@pytest.fixture
def stand_in() -> StandIn:
    torch.manual_seed(0)
    return StandIn().eval()


def ours(state: Mapping[str, Tensor], **options: Any) -> RQVAE:
    given: dict[str, Any] = {
        "settings": SETTINGS,
        "width": WIDTH,
        "levels": LEVELS,
        "codebook_size": CODES,
        "config": RQVAEConfig(hidden=(7,)),
    }
    return released_rqvae(state=state, **(given | options))


def test_it_encodes_decodes_and_assigns_as_the_released_one(stand_in: StandIn) -> None:
    x = torch.randn(50, WIDTH)
    model = ours(stand_in.state_dict())
    latent = stand_in.encoder.mlp_layers(x)
    torch.testing.assert_close(model.encoder(x), latent)
    torch.testing.assert_close(model.decoder(latent), stand_in.decoder.mlp_layers(latent))
    residual, codes = latent, []
    for layer in stand_in.rq.vq_layers:
        codes.append(torch.cdist(residual, layer.embedding.weight).argmin(1))
        residual = residual - layer.embedding.weight[codes[-1]]
    assert np.array_equal(model.assign(x), torch.stack(codes, 1).numpy())
    assert model.facts["widths"] == [WIDTH, *HIDDEN, LATENT]


def test_layers_go_by_their_number_not_by_their_place(stand_in: StandIn) -> None:
    state = stand_in.state_dict()
    # As words, 10 comes before 4: a deeper model would be put together wrongly.
    renamed = {name.replace("layers.7.", "layers.10."): value for name, value in state.items()}
    renamed = {name: renamed[name] for name in sorted(renamed)}
    names = list(renamed)
    assert names.index("encoder.mlp_layers.10.bias") < names.index("encoder.mlp_layers.4.bias")
    x = torch.randn(5, WIDTH)
    torch.testing.assert_close(ours(renamed).encoder(x), stand_in.encoder.mlp_layers(x))


@pytest.mark.parametrize(
    ("settings", "beta"),
    [
        (SETTINGS, 0.5),
        ({}, 0.25),
        ({"beta": "much"}, 0.25),
        ({"beta": True}, 0.25),
        ({"beta": -1.0}, 0.25),
        ({"beta": 1e-4, "cf_emb": "sasrec.pt", "alpha": 0.01}, 0.25),  # LETTER's diversity weight
        ({"beta": 1e-4, "mu": 0.3, "n_clusters": 10}, 0.3),
    ],
)
def test_commitment_weight_is_the_files(
    settings: dict[str, Any], beta: float, stand_in: StandIn
) -> None:
    assert ours(stand_in.state_dict(), settings=settings).beta == beta


def test_half_precision_becomes_float32(stand_in: StandIn) -> None:
    state = {name: tensor.bfloat16() for name, tensor in stand_in.state_dict().items()}
    assert {value.dtype for value in ours(state).state_dict().values()} == {torch.float32}


def edits() -> dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]]:
    book, first = "rq.vq_layers.1.embedding.weight", "encoder.mlp_layers.1.weight"
    return {
        "left over": (
            lambda s: s.update({"extra.weight": torch.ones(2)}),
            "1 of its .*'extra.weight'",
        ),
        "a control character": (lambda s: s.update({"\x1b[2J": torch.ones(2)}), r"'\\x1b\[2J'"),
        "no encoder": (
            lambda s: [s.pop(n) for n in list(s) if n.startswith("encoder")],
            "no encoder",
        ),
        "no bias": (
            lambda s: s.pop("decoder.mlp_layers.4.bias"),
            "decoder.mlp_layers.4 has no bias",
        ),
        "a bias too long": (
            lambda s: s.update({"encoder.mlp_layers.1.bias": torch.ones(3)}),
            "is no linear layer",
        ),
        "layers that do not fit": (
            lambda s: s.update({"encoder.mlp_layers.4.weight": torch.ones(12, 5)}),
            "encoder takes 5 values and gets 24",
        ),
        "another decoder": (
            lambda s: [s.pop(f"decoder.mlp_layers.7.{part}") for part in ("weight", "bias")],
            "its decoder has the widths",
        ),
        "a level missing": (lambda s: s.pop(book), r"codebooks have the numbers \[0, 2\]"),
        "other sizes": (
            lambda s: s.update({book: torch.ones(9, LATENT)}),
            "the same on all levels",
        ),
        "a flat codebook": (
            lambda s: s.update(
                {f"rq.vq_layers.{i}.embedding.weight": torch.ones(9) for i in (0, 1, 2)}
            ),
            "codebooks have the shapes",
        ),
        "codes of another width": (
            lambda s: s.update(
                {f"rq.vq_layers.{i}.embedding.weight": torch.ones(CODES, 5) for i in range(3)}
            ),
            "codes are 5 wide, its latents 6",
        ),
        "not a number": (lambda s: s[first].fill_(float("nan")), "finite"),
        "whole numbers": (lambda s: s.update({first: s[first].int()}), "finite floating-point"),
        "sparse": (lambda s: s.update({first: s[first].to_sparse()}), "finite floating-point"),
        "without storage": (
            lambda s: s.update({first: s[first].to("meta")}),
            "finite floating-point",
        ),
    }


@pytest.mark.parametrize("name", edits())
def test_what_does_not_fit_the_format_is_refused(name: str, stand_in: StandIn) -> None:
    edit, message = edits()[name]
    state = {key: value.clone() for key, value in stand_in.state_dict().items()}
    edit(state)
    with pytest.raises(SettingError, match=message) as caught:
        ours(state)
    assert "\n" not in str(caught.value)


def test_batch_normalisation_is_refused() -> None:
    with pytest.raises(SettingError, match="batch normalisation"):
        ours(StandIn(bn=True).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 4096}, "embeddings of width 384, those of the data set have 4096"),
        ({"levels": 4}, "has 3 levels: set method.levels=3"),
        ({"codebook_size": 256}, "32 codes a level: set method.codebook_size"),
    ],
)
def test_what_does_not_fit_the_settings_is_refused(
    options: dict[str, Any], message: str, stand_in: StandIn
) -> None:
    with pytest.raises(SettingError, match=message):
        ours(stand_in.state_dict(), **options)


# --- through the harness --------------------------------------------------------------------


def save(path: Path, model: nn.Module, **more: Any) -> tuple[Path, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    args = argparse.Namespace(**SETTINGS)
    torch.save({"args": args, "state_dict": model.state_dict(), **more}, path)
    return path, sha256_file(path)


def settings_of(*overrides: str) -> Any:
    return settings_from(compose_config(["dataset=ml-100k-150u", "protocol=smoke", *overrides]))


def chosen(checkpoint: object, sha256: str | None = None) -> list[str]:
    text = [f"++method.tokenizer.checkpoint='{checkpoint}'"]
    return text + ([f"++method.tokenizer.checkpoint_sha256='{sha256}'"] if sha256 else [])


def made(prepared: Prepared, cache: Path, *overrides: str) -> Any:
    method = build_method(settings_of(*overrides))
    assert isinstance(method, GenerativeRecommender)
    return method.make_tokenizer(prepared.data, 0, RunFolder(cache / "run", cache, "cpu"))


def test_a_file_by_its_path(stand_in: StandIn, ml100k_small: Prepared, tmp_path: Path) -> None:
    path, digest = save(tmp_path / "model.pth", stand_in)
    tokenizer = made(ml100k_small, tmp_path, *chosen(path, digest))
    x = torch.as_tensor(ml100k_small.data.embeddings)
    torch.testing.assert_close(tokenizer.encoder(x), stand_in.encoder.mlp_layers(x))
    assert tokenizer.beta == 0.5
    assert tokenizer.assignment == "sinkhorn"  # ours: how the catalogue is numbered


def test_a_result_is_known_by_the_content(stand_in: StandIn, tmp_path: Path) -> None:
    path, digest = save(tmp_path / "a.pth", stand_in)
    copy, _ = save(tmp_path / "elsewhere" / "b.pth", stand_in)
    identities = [
        settings_of(*chosen(p, digest)).identity["method"]["tokenizer"] for p in (path, copy)
    ]
    assert identities[0] == identities[1]
    assert identities[0]["checkpoint"] == digest
    assert "checkpoint_sha256" not in identities[0]
    assert settings_of(*chosen(path, digest)).cell.config_sha256 != settings_of().cell.config_sha256
    other = settings_of(*chosen(path, "0" * 64)).cell.config_sha256
    assert other != settings_of(*chosen(path, digest)).cell.config_sha256


def test_a_path_needs_its_checksum_and_a_file(stand_in: StandIn, tmp_path: Path) -> None:
    path, _ = save(tmp_path / "model.pth", stand_in)
    with pytest.raises(UserError, match=r"checksum.*method\.tokenizer\.checkpoint_sha256="):
        _ = settings_of(*chosen(path)).cell
    with pytest.raises(UserError, match="neither a file nor a data set with"):
        _ = settings_of(*chosen(tmp_path / "none.pth", "0" * 64)).cell


@pytest.mark.parametrize("kind", ["changed", "cut", "hostile", "no checkpoint"])
def test_damaged_and_hostile_files_run_nothing(
    kind: str, stand_in: StandIn, ml100k_small: Prepared, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    attack = Runs(os.system, f"touch {victim}") if kind == "hostile" else None
    path, digest = save(tmp_path / "model.pth", stand_in, more=attack)
    content = path.read_bytes()
    if kind == "changed":
        path.write_bytes(content[:-1] + b"x")
    else:
        if kind == "cut":
            path.write_bytes(content[: len(content) // 2])
        if kind == "no checkpoint":
            path.write_bytes(b"hello")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError, match="not loaded"):
        made(ml100k_small, tmp_path, *chosen(path, digest))
    assert not victim.exists()


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stand_in: StandIn) -> list[str]:
    """Two releases of beauty on record, the first of them at hand in a mirror; their checksums."""
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path / "mirror"))
    _, first = save(tmp_path / "first.pth", stand_in)
    torch.manual_seed(1)
    _, second = save(tmp_path / "second.pth", StandIn())
    known = checkpoint_records()
    both = known | {"beauty": known["beauty"]._replace(sha256=(first, second))}
    for module in ("checkpoint", "tokenizer_choice"):
        monkeypatch.setattr(f"benchmark.data.{module}.checkpoint_records", lambda *_: both)
    at_hand(tmp_path, "first", first)
    return [first, second]


def at_hand(folder: Path, name: str, digest: str) -> None:
    place = folder / "mirror" / FOLDER / "beauty" / f"{digest}.pth"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes((folder / f"{name}.pth").read_bytes())


def test_a_name_is_the_release_that_is_at_hand(
    records: list[str], stand_in: StandIn, ml100k_small: Prepared, tmp_path: Path
) -> None:
    cache = f"cache={tmp_path}"
    found = made(ml100k_small, tmp_path, *chosen("beauty"), cache)
    books = torch.stack([layer.embedding.weight for layer in stand_in.rq.vq_layers])
    assert torch.equal(found.codebooks, books)
    by_name = settings_of(*chosen("beauty"), cache).identity["method"]["tokenizer"]
    assert by_name["checkpoint"] == records[0]
    assert (
        by_name == settings_of(*chosen("beauty", records[0]), cache).identity["method"]["tokenizer"]
    )


def test_of_two_at_hand_the_checksum_chooses(
    records: list[str], stand_in: StandIn, ml100k_small: Prepared, tmp_path: Path
) -> None:
    at_hand(tmp_path, "second", records[1])
    cache = f"cache={tmp_path}"
    with pytest.raises(UserError, match=f"2 released .*{records[0]} or .*{records[1]}"):
        _ = settings_of(*chosen("beauty"), cache).cell
    with pytest.raises(UserError, match="2 released checkpoints of beauty"):
        made(ml100k_small, tmp_path, *chosen("beauty"), cache)
    second = made(ml100k_small, tmp_path, *chosen("beauty", records[1]), cache)
    assert not torch.equal(second.codebooks[0], stand_in.rq.vq_layers[0].embedding.weight)


def test_what_is_not_at_hand_says_where_to_put_it(
    records: list[str], ml100k_small: Prepared, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"cannot be reached: put a file .*{records[1]}"):
        made(ml100k_small, tmp_path, *chosen("beauty", records[1]), f"cache={tmp_path}")
