"""Every method file under every protocol makes a method that has the whole interface."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.config import CONF, build_method, compose_config, expand_sweep, settings_from
from benchmark.errors import UserError
from benchmark.recommender import Recommender

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
PROTOCOLS = sorted(path.stem for path in (CONF / "protocol").glob("*.yaml"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("method", METHODS)
def test_method_under_protocol(method: str, protocol: str) -> None:
    settings = settings_from(compose_config([f"method={method}", f"protocol={protocol}"]))
    assert settings.method_name == method  # its folder in the store is its file's name
    assert settings.method_label
    assert isinstance(build_method(settings), Recommender)


def identity(*overrides: str) -> str:
    return settings_from(compose_config(overrides)).cell.config_sha256


def test_hash_covers_what_decides_the_result_and_nothing_else(tmp_path: Path) -> None:
    base = identity("method=tiger")
    for same in ("seed=1", f"results={tmp_path}", "threads=2", "device=cpu"):
        assert identity("method=tiger", same) == base, same
    for other in (
        "protocol.max_history=7",
        "protocol.top_k=30",
        "method.codebook_size=32",
        "method.train.epochs=7",
        "method.estimator._target_=baselines.ste.StraightThrough",
        "dataset.users=100",
        "exclude_seen=true",
    ):
        assert identity("method=tiger", other) != base, other


def test_vectors_and_models_count_by_their_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    files = {"a.npy": b"one", "copy/b.npy": b"one", "other.npy": b"two",
             "a.json": b"{}", "copy/b.json": b"{}", "other.json": b"[]",
             "model/model.safetensors": b"one", "copy/m/model.safetensors": b"one",
             "other/model.safetensors": b"two"}  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)

    def npy(path: str, *extra: str) -> str:
        return identity("dataset.encoder.source=npy", f"dataset.encoder.path='{path}'", *extra)

    table = npy(f"{tmp_path}/a.npy")
    monkeypatch.chdir(tmp_path)
    assert {table, npy("a.npy"), npy("copy/b.npy"), npy("~/a.npy")} == {table}
    assert npy("a.npy", "dataset.encoder.name=mine") == table  # a label
    assert npy("other.npy") != table
    assert npy("a.npy", "dataset.encoder.normalize=true") != table
    mapped = npy("a.npy", "dataset.encoder.rows=a.json")
    assert mapped != table
    assert npy("a.npy", "dataset.encoder.rows=copy/b.json") == mapped
    assert npy("a.npy", "dataset.encoder.rows=other.json") != mapped
    assert npy("a.npy", "dataset.encoder.rows=a.json", "dataset.encoder.row_base=1") != mapped
    (tmp_path / "a.npy").write_bytes(b"new")
    assert npy("~/a.npy") != table
    with pytest.raises(UserError, match=r"encoder.path: .*gone.npy does not exist"):
        npy("gone.npy")

    def model(path: str) -> str:
        name = "dataset.encoder.name=mine"
        return identity("dataset.encoder.source=path", f"dataset.encoder.path='{path}'", name)

    folder = model("model")
    assert {folder, model("copy/m"), model("~/model")} == {folder}
    assert model("other") != folder
    (tmp_path / "model" / "model.safetensors").write_bytes(b"new")
    assert model("model") != folder


def test_what_only_labels_or_checks_data_is_no_part_of_the_hash() -> None:
    base = identity("dataset=yelp")
    for same in (
        "dataset.invariants.items=1",
        "dataset.paper=null",
        "dataset.source.url='https://elsewhere/{path}'",
        "dataset.encoder.name=all-MiniLM-L6-v2",
        "dataset.encoder.sha256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "dataset.encoder.revision=1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        "+dataset.filters.user_core=1",
        "+dataset.filters.duplicates=keep",
    ):
        assert identity("dataset=yelp", same) == base, same
    for other in (
        "+dataset.filters.user_core=2",
        "+dataset.filters.duplicates=first",
        "dataset.encoder.template='{title}'",
        f"dataset.source.interactions.sha256={'0' * 64}",
    ):
        assert identity("dataset=yelp", other) != base, other
    released = identity("dataset=instruments/released")
    for same in (
        "dataset.source.url='https://elsewhere/{path}'",
        "dataset.source.released.hub='https://elsewhere'",
        f"dataset.source.released.vectors.sha256={'0' * 64}",
    ):
        assert identity("dataset=instruments/released", same) == released, same


def test_hash_of_the_published_runs() -> None:
    # Stored results lie under it. It may change only where what a result means has changed, and
    # then every published run has to be made again.
    published = Path(__file__).parents[1] / "results" / "published" / "ml-100k"
    for method in ("pop", "tiger", "diger_frqud"):
        cell = settings_from(compose_config(["experiment=quick", f"method={method}"])).cell
        assert (published / method / cell.config_sha256[:12]).is_dir()


def test_path_is_the_identity(tmp_path: Path) -> None:
    cell = settings_from(compose_config([f"results={tmp_path}", "method=pop", "seed=5"])).cell
    assert cell.folder == tmp_path / "ml-100k" / "pop" / cell.config_sha256[:12] / "seed=5"


def test_sweep_expands_to_its_cells() -> None:
    cells = list(expand_sweep(["method=pop,tiger", "seed=0,1", "protocol.ks=[5,10]"]))
    assert cells == [
        [f"method={method}", f"seed={seed}", "protocol.ks=[5,10]"]
        for method in ("pop", "tiger")
        for seed in (0, 1)
    ]


def test_unparsable_sweep() -> None:
    with pytest.raises(UserError):
        list(expand_sweep(["seed=["]))
