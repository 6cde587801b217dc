"""The command ``python -m benchmark.prepare``: what it prints, and what it does with bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmark.config import check_cell, compose_config, settings_from
from benchmark.data.config import suite_datasets
from benchmark.data.download import MIRROR_VARIABLE, OFFLINE_VARIABLE
from benchmark.errors import UserError
from benchmark.prepare import execute
from tests.conftest import REPO

INTER = (
    "user_id:token\titem_id:token\ttimestamp:float\n"
    + "".join(f"u{user}\ti{(user + n) % 7}\t{n}\n" for user in range(6) for n in range(5))
    + "u0\ti7\t9\n"
)
ITEM = "item_id:token\ttitle:token_seq\n" + "".join(f"i{n}\tThing {n}\n" for n in range(7))


@pytest.fixture
def own_files(tmp_path: Path) -> list[str]:
    """Overrides for a small data set of the user's own, with a cache of its own."""
    (tmp_path / "Shop A.inter").write_text(INTER, encoding="utf-8")
    (tmp_path / "Shop A.item").write_text(ITEM, encoding="utf-8")
    return [
        "dataset=custom",
        f"dataset.interactions='{tmp_path}/Shop A.inter'",
        f"dataset.items='{tmp_path}/Shop A.item'",
        f"cache={tmp_path}/cache",
        f"results={tmp_path}/results",
    ]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")


def test_every_data_set_is_listed() -> None:
    assert suite_datasets() == [
        "beauty", "beauty/keyphrases", "beauty/released", "instruments", "instruments/released",
        "ml-100k", "yelp", "yelp/released",
    ]  # fmt: skip


@pytest.mark.parametrize("name", suite_datasets())
def test_every_data_set_composes_under_a_name_of_its_own(name: str) -> None:
    settings = check_cell([f"dataset={name}", "method=tiger"])
    assert settings.dataset.store_name == name.replace("/", "-")
    assert settings.dataset.invariants["train_rows"] > 0
    assert settings.cell.folder  # the identity needs no file


def test_facts_of_ml100k(capsys: pytest.CaptureFixture[str], data_cache: Path) -> None:
    execute(["dataset=ml-100k", "--no-embeddings", f"cache={data_cache}"])
    out = capsys.readouterr().out
    for line in (
        r"MovieLens 100K \(ml-100k\)",
        r"  users +943",
        r"  items +1,682",
        r"  interactions +100,000",
        r"  density +6\.3047%",
        r"  mean sequence +106\.04 interactions a user",
        r"  training rows +97,171",
        r"  repeats +no user has an item twice",
        r"  order +by timestamp",
        r"  split sha256 +cae023001632686c3f5a1dd1a7b688e51071870cfb273e4890b8631dc5b811ef",
        r"  OK  train_rows = 97,171",
        r"  text source +movie_title, release_year, class; 0 items without",
    ):
        assert re.search(f"^{line}$", out, re.MULTILINE), line
    assert re.search("^  embeddings +not made$", out, re.MULTILINE)


def test_a_broken_invariant_is_shown_among_those_that_hold(
    capsys: pytest.CaptureFixture[str], data_cache: Path
) -> None:
    with pytest.raises(UserError, match="should have items=1 but has 1682"):
        execute(["dataset=ml-100k", "dataset.invariants.items=1", f"cache={data_cache}"])
    out = capsys.readouterr().out
    assert "  NO  items = 1,682, expected 1\n" in out
    assert "  OK  users = 943\n" in out


def test_all_prepares_what_can_be_had(
    no_network: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(["dataset=all", "--no-embeddings", f"cache={tmp_path}"])
    out = capsys.readouterr().out
    assert re.search("^ml-100k +ready, not embedded$", out, re.MULTILINE)
    for name, file in (("beauty", "letter/Beauty.inter.json"), ("yelp", "letter/Yelp.inter.json")):
        (line,) = re.findall(f"^{name} .*$", out, re.MULTILINE)
        assert "not prepared: " in line
        assert file in line
        assert str(tmp_path / "downloads" / file) in line


def test_all_fails_where_something_is_wrong(
    no_network: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"^ml-100k: what is at hand is not usable"):
        execute(
            ["dataset=all", "--no-embeddings", f"cache={tmp_path}", "dataset.invariants.items=1"]
        )
    assert "ml-100k               not prepared: ml-100k should have items=1" in (
        capsys.readouterr().out
    )


def test_real_data_sets(mirror: Path, data_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    execute(["dataset=yelp", "--no-embeddings", f"cache={data_cache}"])
    out = capsys.readouterr().out
    assert "  OK  users_with_repeated_items = 7,102\n" in out
    assert re.search("^  text source +LETTER: title and categories; 0 items without$", out, re.M)


def test_texts_missing_is_exit_2_unless_best_effort(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    arguments = ["dataset=instruments", f"cache={tmp_path}"]
    with pytest.raises(UserError, match=r"Instruments\.item\.json"):
        execute(arguments)
    assert "  OK  train_rows = 131,837\n" in capsys.readouterr().out
    execute([*arguments, "--best-effort"])
    assert re.search(r"^  note: .*Instruments\.item\.json", capsys.readouterr().err, re.MULTILINE)


def test_own_data(own_files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    execute([*own_files, "--no-embeddings", "dataset.filters.item_core=3"])
    out = capsys.readouterr().out
    assert out.startswith("shop-a (shop-a)\n")
    assert re.search(r"^  items +7$", out, re.MULTILINE)
    assert re.search(r"^  k-core +users 0, items 3: ", out, re.MULTILINE)
    assert re.search(r"^  text source +Shop A.item: title; 0 items without$", out, re.MULTILINE)
    # The same file and cache under other filters is another data set.
    # The same file and cache under other filters are another data set.
    execute([*own_files, "--no-embeddings"])
    out = capsys.readouterr().out
    assert re.search(r"^  items +8$", out, re.MULTILINE)
    assert re.search(r"^  text source +Shop A.item: title; 1 items without$", out, re.MULTILINE)


def test_own_data_runs_by_the_same_road(own_files: list[str]) -> None:
    """Without texts, popularity runs and a generative method says what it needs."""
    small = ["protocol.ks=[2]", "protocol.top_k=2"]
    for extra, code, words in (
        (["method=pop", "dataset.items=null"], 0, "done: shop-a/pop/"),
        (["method=tiger", "dataset.items=null"], 2, "shop-a has no item texts, and semantic IDs"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "benchmark.run", *own_files[:2], *own_files[3:], *small, *extra],
            cwd=REPO, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert words in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_own_data_keeps_out_of_the_suites_names(tmp_path: Path) -> None:
    """Results are stored under the name."""
    (tmp_path / "Yelp.inter").write_text(INTER, encoding="utf-8")
    own = ["dataset=custom", f"dataset.interactions={tmp_path}/Yelp.inter"]
    for name in ([], ["dataset.name=beauty-released"], ["dataset.name=ml-100k-150u"]):
        with pytest.raises(UserError, match="is the name of a data set of the suite"):
            settings_from(compose_config([*own, *name]))
    named = settings_from(compose_config([*own, "dataset.name=my-yelp"]))
    assert named.dataset.store_name == named.dataset.label == "my-yelp"


def test_own_vectors_are_called_by_their_file(
    own_files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "mine.npy", np.ones((8, 3), dtype=np.float32))
    execute([*own_files, "dataset.encoder.source=npy", f"dataset.encoder.path={tmp_path}/mine.npy"])
    out = capsys.readouterr().out
    assert re.search(r"^  text source +none, but the vectors of mine.npy$", out, re.MULTILINE)
    assert re.search(r"^  embeddings +8 x 3, mine.npy$", out, re.MULTILINE)
    assert "MiniLM" not in out
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps({f"i{n}": 8 - n for n in range(8)}), encoding="utf-8")
    execute([*own_files, "dataset.encoder.source=npy", f"dataset.encoder.path={tmp_path}/mine.npy",
             f"dataset.encoder.rows={rows}", "dataset.encoder.row_base=1"])  # fmt: skip
    assert re.search(r"^  embeddings +8 x 3, mine.npy$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(("method", "need"), [("pop", "rows"), ("tiger", "vectors")])
def test_a_run_prepares_what_its_method_needs_as_told(
    method: str, need: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark import run

    asked: dict[str, object] = {}

    def prepare(*_: object, **options: object) -> None:
        asked.update(options)
        raise UserError("far enough")

    monkeypatch.setattr(run, "prepare", prepare)
    folders = [f"results={tmp_path}/r", f"cache={tmp_path}/c"]
    settings = settings_from(compose_config([f"method={method}", "embedding.batch=4", *folders]))
    with pytest.raises(UserError, match="far enough"):
        run.run_cell(settings)
    assert asked == {"need": need, "options": settings.embedding}
    assert settings.embedding.batch == 4


def test_empty_cache_variable_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGER_BENCH_CACHE", "")
    assert settings_from(compose_config([])).cache == Path(".cache")


def test_identity_of_own_data_is_its_content(own_files: list[str], tmp_path: Path) -> None:
    def identity(overrides: list[str]) -> str:
        return settings_from(compose_config([*overrides, "method=pop"])).cell.config_sha256

    before = identity(own_files)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("Shop A.inter", "Shop A.item"):
        (moved / name).write_bytes((tmp_path / name).read_bytes())
    assert identity([o.replace(f"'{tmp_path}/Shop", f"'{moved}/Shop") for o in own_files]) == before
    assert identity([*own_files, "dataset.filters.user_core=3"]) != before
    (tmp_path / "Shop A.inter").write_text(INTER + "u9\ti1\t3\n", encoding="utf-8")
    assert identity(own_files) != before


def test_speed_settings_are_no_part_of_the_identity() -> None:
    plain, fast = (
        settings_from(compose_config(["method=tiger", *extra])).cell.config_sha256
        for extra in ([], ["embedding.batch=4", "embedding.workers=1", "embedding.device=cpu"])
    )
    assert plain == fast


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=ml-100k", "cache=/dev/null/x"], "choose another folder with cache="),
        (["dataset=custom"], "dataset.interactions is needed: give dataset.interactions=..."),
        (["dataset=custom", "dataset.interactions=a (1).csv"], "needs quotes of its own"),
        (["dataset=custom", "dataset.interactions=/no/where.inter"], "/no/where.inter"),
        (["dataset=custom", "dataset.interactions=a.xlsx"], "a.xlsx"),
        (["dataset=all", "embedding.speed=9"], "embedding.speed"),
        (["dataset=nonsense"], "Could not find 'dataset/nonsense': there are beauty, beauty/key"),
        (["--fast"], "no option --fast"),
        (["dataset=ml-100k", "embedding.batch=0"], "embedding.batch"),
        (["dataset=ml-100k", "embedding.device=tpu"], "embedding.device"),
        (["dataset=custom", "dataset.interactions=a.csv", "dataset.filters.user_core=-1"],
         "dataset.filters.user_core"),
        (["dataset=custom", "dataset.interactions=a.csv", "+dataset.filters.core=5"], "core"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        execute(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
