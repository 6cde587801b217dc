"""Bundles: what comes out is what went in, and nothing else gets in."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import store
from benchmark.errors import UserError
from benchmark.export.__main__ import export
from benchmark.export.bundle import write_bundle
from benchmark.export.manifest import is_safe
from benchmark.export.unpack import import_bundle
from benchmark.kept import kept_record
from benchmark.report.__main__ import write_report
from tests.store_fixture import add_run, stored

ODD = "50% <b>A_&#$~^\\{}|"
Files = dict[str, bytes]


def make_store(root: Path) -> list[store.StoredRun]:
    """Three cells of two data sets, with everything that a run leaves behind."""
    runs = [add_run(root, "pop", 0, n_users=20), add_run(root, "diger_sdud", 1, n_users=20),
            add_run(root, "tiger", 0, dataset="other", n_users=20, method_label=ODD)]  # fmt: skip
    for run in runs:
        (run.folder / "config.yaml").write_text("seed: 0\n", encoding="utf-8")
        (run.folder / "ranks.parquet").write_bytes(b"lists")
        (run.folder / "checkpoint.pt").write_bytes(b"weights")
        if (run.folder / "sids.npy").exists():
            sids = run.sids()
            assert sids is not None
            for epoch in (3, 4):
                store.write_npy(run.folder / "sids" / f"epoch={epoch:04d}.npy", sids[::-1])
        sums = {name: store.sha256_file(run.folder / name) for name in store.CHECKED_FILES
                if (run.folder / name).exists()}  # fmt: skip
        store.write_json(run.folder / "run.json", {**run.info, "sha256": sums})
    return [stored(run.folder) for run in runs]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(make_store(tmp_path / "source"), tmp_path / "b.zip", "made by a test")


def tree(root: Path) -> Files:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*"))
            if p.is_file()}  # fmt: skip


def read(path: Path) -> Files:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def write(path: Path, files: Files, kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, content in files.items():
            file.writestr(zipfile.ZipInfo(name), content, kind)
    return path


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The bundle with another manifest."""
    files = read(path)
    facts = json.loads(files["manifest.json"])
    change(facts)
    files["manifest.json"] = json.dumps(facts).encode()
    return write(path.with_name("edited.zip"), files)


def refused(path: Path, message: str, root: Path, **options: Any) -> None:
    """The import ends in one line that says so, and the store is as it was."""
    before = tree(root) if root.exists() else None
    with pytest.raises(UserError, match=message) as error:
        import_bundle(path, root, **options)
    assert "\n" not in str(error.value)
    assert (tree(root) if root.exists() else None) == before
    assert not list(root.parent.rglob(".import*"))


# What must come out ------------------------------------------------------------------------


def test_an_imported_store_reports_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    make_store(here / "results")
    there.mkdir()
    monkeypatch.chdir(here)
    export(["store=results", "bundle=all.zip"])
    write_report(["store=results", "out=report"])
    shutil.move(here / "all.zip", there / "all.zip")
    monkeypatch.chdir(there)
    text, problems = export(["import=all.zip", "store=results"])
    assert problems == []
    assert "3 runs imported into results, 0 were there" in text
    assert text.endswith("report: python -m benchmark.report store=results")
    write_report(["store=results", "out=report"])
    first, second = tree(here / "report"), tree(there / "report")
    assert first == second
    assert {"index.md", "tables/other-overall.md", "figures/other-validation.pdf",
            "figures/toy-codes-diger_sdud.png"} <= first.keys()  # fmt: skip


def test_an_experiment_travels_with_the_arguments_of_its_report(tmp_path: Path) -> None:
    arguments = ["experiment=quick", "grid.method=[pop,tiger]"]
    text, _ = export([*arguments, "store=results/published", f"bundle={tmp_path}/q.zip"])
    assert text.splitlines()[0] == f"{tmp_path}/q.zip (4 runs)"
    assert text.splitlines()[1] == f"sha256 {store.sha256_file(tmp_path / 'q.zip')}"
    text, _ = export([f"import={tmp_path}/q.zip", f"store={tmp_path}/s"])
    assert text.splitlines()[-1] == (
        f"report: python -m benchmark.report {' '.join(arguments)} store={tmp_path}/s"
    )
    published = Path("results/published")
    for name, content in tree(tmp_path / "s").items():
        assert (published / name).read_bytes() == content


def test_what_a_report_needs_comes_along_and_the_rest_stays(tmp_path: Path, bundle: Path) -> None:
    done = import_bundle(bundle, tmp_path / "target")
    assert (done.imported, done.present, done.command) == (3, 0, "made by a test")
    assert done.differences == []
    found = tree(tmp_path / "target")
    cell = next(name for name in found if "diger_sdud" in name).rpartition("/")[0].split("/sids")[0]
    assert {name.removeprefix(f"{cell}/") for name in found if name.startswith(cell)} == {
        "run.json", "config.yaml", "metrics.parquet", "train.jsonl", "sids.npy",
        "sids/epoch=0004.npy",
    }  # fmt: skip
    for name, content in found.items():
        source = tmp_path / "source" / name
        if name.endswith("run.json"):
            assert json.loads(content) == kept_record(source.parent)
            assert store.is_done(tmp_path / "target" / Path(name).parent)
        else:
            assert content == source.read_bytes()


def test_equal_runs_give_equal_bytes_in_any_order(tmp_path: Path, bundle: Path) -> None:
    runs = make_store(tmp_path / "again")
    again = write_bundle(runs[::-1], tmp_path / "again.zip", "made by a test")
    assert again.read_bytes() == bundle.read_bytes()
    with zipfile.ZipFile(bundle) as file:
        assert file.namelist()[0] == "manifest.json"
        assert {(i.date_time, i.compress_type) for i in file.infolist()} == {
            ((1980, 1, 1, 0, 0, 0), zipfile.ZIP_STORED)
        }


def test_the_manifest_says_what_is_there_and_how_it_was_made(bundle: Path) -> None:
    files = read(bundle)
    facts = json.loads(files.pop("manifest.json"))
    assert facts["version"] == 1
    assert {cell["dataset"] for cell in facts["cells"]} == {"toy", "other"}
    assert {entry["path"]: (entry["bytes"], entry["sha256"]) for entry in facts["files"]} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()
    }
    assert facts["made_by"]["command"] == "made by a test"
    assert facts["made_by"]["versions"].keys() >= {"python", "numpy", "matplotlib"}


def test_importing_twice_changes_nothing(tmp_path: Path, bundle: Path) -> None:
    import_bundle(bundle, tmp_path / "target")
    before = tree(tmp_path / "target")
    done = import_bundle(bundle, tmp_path / "target")
    assert (done.imported, done.present) == (0, 3)
    assert tree(tmp_path / "target") == before


def test_the_store_that_a_bundle_is_of_has_it_already(tmp_path: Path, bundle: Path) -> None:
    before = tree(tmp_path / "source")
    assert import_bundle(bundle, tmp_path / "source").present == 3
    assert tree(tmp_path / "source") == before  # the lists and checkpoints, too


def test_a_cut_import_is_gone_on_with(tmp_path: Path, bundle: Path) -> None:
    target = tmp_path / "target"
    import_bundle(bundle, target)
    shutil.move(target / "other", target / ".import" / "other")
    shutil.copytree(target / "toy", target / ".import" / "toy")
    index, _ = write_report([f"store={target}", f"out={tmp_path}/report"])
    assert "## Provenance\n\n2 runs." in index.read_text(encoding="utf-8")  # none that is hidden
    done = import_bundle(bundle, target)
    assert (done.imported, done.present) == (1, 2)
    assert not (target / ".import").exists()


def test_another_release_is_named(tmp_path: Path, bundle: Path) -> None:
    path = edited(bundle, lambda facts: facts["made_by"]["versions"].update(matplotlib="0.1\x1b["))
    (line,) = import_bundle(path, tmp_path / "target").differences
    assert line.startswith("matplotlib is ")
    assert "0.1?[ there" in line


def test_the_given_checksum_decides(tmp_path: Path, bundle: Path) -> None:
    refused(bundle, "does not have the given sha256", tmp_path / "target", sha256="0" * 64)
    assert import_bundle(bundle, tmp_path / "target", store.sha256_file(bundle)).imported == 3


# What must not get in ----------------------------------------------------------------------

EVIL = ("../evil", "/etc/evil", "runs/../../evil", "runs/toy//x", "C:/evil", "runs\\..\\evil",
        "runs/toy/./x", "runs/toy/.hidden", "runs/evil\n", "runs/toy/x ", "runs/ /x")  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_a_path_that_leads_elsewhere(tmp_path: Path, bundle: Path, name: str) -> None:
    """Even where the manifest has it, with its size and checksum."""
    files = read(bundle)
    facts = json.loads(files["manifest.json"])
    digest = hashlib.sha256(b"evil").hexdigest()
    facts["files"].append({"path": name, "bytes": 4, "sha256": digest})
    files |= {"manifest.json": json.dumps(facts).encode(), name: b"evil"}
    refused(write(tmp_path / "evil.zip", files), "cannot be in a bundle", tmp_path / "t" / "target")
    assert not list(tmp_path.rglob("*evil"))


@pytest.mark.parametrize("name", ["../evil", "a//b", "/a", "a/..", "a\\b", "c:/a", "", "a/", "\0"])
def test_unsafe_paths(name: str) -> None:
    assert is_safe("toy/a b/ü=1")
    assert not is_safe(name)


def entry(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(facts: dict[str, Any]) -> None:
        facts["files"][1].update(changes)

    return change


def drop(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(facts: dict[str, Any]) -> None:
        for name in names:
            facts.pop(name)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: facts.update(version=2), "bundle of version 2, and this release reads"),
        (lambda facts: facts.update(version="1"), "bundle of version '1'"),
        (lambda facts: facts.update(format="zip"), "not that of a bundle"),
        (drop("version"), "not that of a bundle"),
        (drop("files"), "is damaged"),
        (drop("made_by"), "is damaged"),
        (entry(bytes=-1), "is damaged"),
        (entry(bytes=True), "is damaged"),
        (entry(sha256="x"), "is damaged"),
        (entry(more=1), "is damaged"),
        (entry(path=3), "is damaged"),
        (entry(sha256="0" * 64), "does not have the checksum"),
        (entry(bytes=2**40), "does not have the size"),
        (lambda facts: facts["files"].pop(1), "in the file only"),
        (lambda facts: facts["files"].append(facts["files"][0]), "there twice"),
        (lambda facts: facts["cells"].append(facts["cells"][0]), "there twice"),
        (lambda facts: facts["cells"].pop(), "cannot be in a bundle"),
        (lambda facts: facts["cells"][0].update(path="toy"), "cannot be the path of a cell"),
        (lambda facts: facts["cells"][0].update(dataset=".."), "cannot be the path of a cell"),
        (lambda facts: facts["cells"][0].update(seed="0"), "is damaged"),
    ],
)
def test_a_bad_manifest(
    tmp_path: Path, bundle: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    refused(edited(bundle, change), message, tmp_path / "t" / "target")


def test_a_file_that_is_not_there(tmp_path: Path, bundle: Path) -> None:
    files = read(bundle)
    files.popitem()
    path = write(tmp_path / "less.zip", files)
    refused(path, "in the manifest but not in the file", tmp_path / "target")


@pytest.mark.parametrize("name", ["run.json", "metrics.parquet"])
def test_a_cell_without_its_record_or_metrics(tmp_path: Path, bundle: Path, name: str) -> None:
    """Where manifest and file agree that it is not there."""
    files = read(bundle)
    facts = json.loads(files["manifest.json"])
    gone = next(e["path"] for e in facts["files"] if e["path"].endswith(name))
    facts["files"] = [e for e in facts["files"] if e["path"] != gone]
    files["manifest.json"] = json.dumps(facts).encode()
    del files[gone]
    path = write(tmp_path / "less.zip", files)
    refused(path, "has no run.json or no metrics.parquet", tmp_path / "target")


def test_a_changed_file(tmp_path: Path, bundle: Path) -> None:
    for name, content in read(bundle).items():
        if name == "manifest.json":
            continue
        changed = bytes([content[0] ^ 1]) + content[1:]
        path = write(tmp_path / "changed.zip", {**read(bundle), name: changed})
        refused(path, "does not have the checksum", tmp_path / "target")


def with_run(bundle: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The bundle with another run.json of the first cell, and a manifest that agrees with it."""
    files = read(bundle)
    facts = json.loads(files["manifest.json"])
    item = next(e for e in facts["files"] if e["path"].endswith("run.json"))
    record = json.loads(files[item["path"]])
    change(record)
    content = json.dumps(record).encode()
    item |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    files |= {item["path"]: content, "manifest.json": json.dumps(facts).encode()}
    return write(bundle.with_name("run.zip"), files)


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run.update(status="running"),
        lambda run: run.update(seed=7),
        lambda run: run.update(dataset="third"),
        lambda run: run.update(config_sha256="0" * 64),
        lambda run: run.pop("method"),
        lambda run: run.pop("sha256"),
        lambda run: run.update(sha256=3),
        lambda run: run["sha256"].update({"/dev/zero": "0"}),
        lambda run: run["sha256"].update({"ranks.parquet": "0" * 64}),
        lambda run: run["sha256"].update({"metrics.parquet": "0" * 64}),
    ],
)
def test_a_record_of_another_run(
    tmp_path: Path, bundle: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    refused(with_run(bundle, change), "is not that of this run", tmp_path / "target")


def test_compressed_files_are_refused_whatever_they_would_become(
    tmp_path: Path, bundle: Path
) -> None:
    path = write(tmp_path / "small.zip", read(bundle), zipfile.ZIP_DEFLATED)
    refused(path, "is compressed or encrypted", tmp_path / "target")


def test_a_file_that_claims_to_hold_more_than_its_size(tmp_path: Path, bundle: Path) -> None:
    """Two names for the same bytes: each would be written out in full."""
    content = bundle.read_bytes()
    with zipfile.ZipFile(bundle) as file:
        largest = max(file.infolist(), key=lambda info: info.file_size)
    size = largest.file_size.to_bytes(4, "little")
    start = content.index(b"PK\x01\x02")
    assert content.count(size + size, start) >= 1
    bomb = content[:start] + content[start:].replace(size + size, b"\xf0\xff\xff\xff" * 2)
    path = tmp_path / "bomb.zip"
    path.write_bytes(bomb)
    refused(path, "more than its own size", tmp_path / "target")


def special(path: Path, mode: int, name: str = "runs/link") -> Path:
    files = read(path)
    result = write(path.with_name("special.zip"), files)
    with zipfile.ZipFile(result, "a") as file:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        file.writestr(info, b"/etc/passwd")
    return result


@pytest.mark.parametrize("mode", [0o120777, 0o010644, 0o040755])
def test_links_and_other_odd_files(tmp_path: Path, bundle: Path, mode: int) -> None:
    refused(special(bundle, mode), "not a plain file", tmp_path / "target")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice(tmp_path: Path, bundle: Path) -> None:
    name = list(read(bundle))[1]
    refused(special(bundle, 0o100644, name), "there twice", tmp_path / "target")


def test_a_cut_file_wherever_it_is_cut(tmp_path: Path, bundle: Path) -> None:
    content = bundle.read_bytes()
    path = tmp_path / "cut.zip"
    for length in (0, 1, 100, len(content) // 2, len(content) - 22, len(content) - 1):
        path.write_bytes(content[:length])
        refused(path, "not a whole bundle", tmp_path / "target")


def test_any_changed_byte_is_an_error_line_or_changes_nothing(tmp_path: Path, bundle: Path) -> None:
    content, rng = bundle.read_bytes(), random.Random(0)
    wanted = tree_of_import(bundle, tmp_path / "whole")
    start = content.index(b"PK\x01\x02")
    places = [rng.randrange(len(content)) for _ in range(60)]
    places += [rng.randrange(start, len(content)) for _ in range(120)]
    path = tmp_path / "fuzzed.zip"
    for number, place in enumerate(places):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        root = tmp_path / f"t{number}"
        try:
            found = tree_of_import(path, root)
        except UserError:
            assert not root.exists()
        else:  # a field that nothing depends on
            assert found == wanted


def tree_of_import(path: Path, root: Path) -> Files:
    import_bundle(path, root)
    return tree(root)


# What the store has already ----------------------------------------------------------------


def other_log(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"epoch": 0}\n', encoding="utf-8")
    record = store.read_run_json(folder)
    assert record is not None
    record["sha256"]["train.jsonl"] = store.sha256_file(folder / "train.jsonl")
    store.write_json(folder / "run.json", record)


def other_record(folder: Path) -> None:
    record = store.read_run_json(folder)
    store.write_json(folder / "run.json", {**(record or {}), "peak_memory_bytes": 1})


def other_last_ids(folder: Path) -> None:
    store.write_npy(folder / "sids" / "epoch=0004.npy", np.zeros((20, 4), dtype=np.int32))


def damage(folder: Path) -> None:
    (folder / "metrics.parquet").write_bytes(b"")


def unfinished(folder: Path) -> None:
    record = store.read_run_json(folder)
    store.write_json(folder / "run.json", {**(record or {}), "status": "running"})


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    "change", [other_log, other_record, other_last_ids, damage, unfinished, empty]
)
def test_a_cell_with_other_content_is_left_alone(
    tmp_path: Path, bundle: Path, change: Callable[[Path], None]
) -> None:
    target = tmp_path / "target"
    import_bundle(bundle, target)
    shutil.rmtree(target / "other")  # would be imported
    change(next((target / "toy" / "diger_sdud").rglob("seed=1")))
    refused(bundle, "is there already with other content", target)


def test_a_link_in_the_place_of_a_cell(tmp_path: Path, bundle: Path) -> None:
    target = tmp_path / "target"
    import_bundle(bundle, target)
    cell = next((target / "toy" / "pop").rglob("seed=0"))
    cell.rename(tmp_path / "elsewhere")
    cell.symlink_to(tmp_path / "elsewhere")
    refused(bundle, "is there already", target)


def test_odd_places(tmp_path: Path, bundle: Path) -> None:
    refused(tmp_path / "none.zip", "no bundle", tmp_path / "target")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        import_bundle(bundle, tmp_path / "file")


# What cannot be bundled --------------------------------------------------------------------


def test_nothing_to_bundle_and_one_cell_twice(tmp_path: Path) -> None:
    runs = make_store(tmp_path / "source")
    with pytest.raises(UserError, match="no finished runs"):
        write_bundle([], tmp_path / "b.zip", "")
    again: Iterable[store.StoredRun] = [*runs, *make_store(tmp_path / "copy")]
    with pytest.raises(UserError, match="a cell is there twice"):
        write_bundle(list(again), tmp_path / "b.zip", "")
    assert not (tmp_path / "b.zip").exists()


@pytest.mark.parametrize("name", ["../out", ".hidden", "a:b", "a\nb"])
def test_a_cell_whose_path_is_unsafe(tmp_path: Path, name: str) -> None:
    run = make_store(tmp_path / "source")[0]
    odd = store.StoredRun(run.folder, {**run.info, "dataset": name})
    with pytest.raises(UserError, match="cannot be the path of a cell"):
        write_bundle([odd], tmp_path / "b.zip", "")
