"""The speed command: that it measures what it says, and takes bad input well. No time is tested."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from benchmark import mps, provenance
from benchmark.config import CONF
from benchmark.errors import UserError
from benchmark.execution import Execution, ExecutionChoice, begin, faster_products
from benchmark.selection import collect, folders_below
from benchmark.speed import agreement, joined, profile, reporting, scaling, together, tokenizer
from benchmark.speed.__main__ import SESSION_VARIABLE, Session, arguments, main
from benchmark.speed.processes import watch
from benchmark.speed.report import write_report
from benchmark.speed.synthetic_store import Sizes, sizes_from, write_store
from benchmark.speed.target import CHEAP_TOKENIZER, Target


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, data_cache: Path) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("speed")
    main(["--device", "cpu", "--only", "train,tokenizer", "--targets", "smoke/ml-100k-150u",
          "--methods", "tiger,diger_frqud", "--budget-seconds", "4", "--out", str(out),
          f"cache={data_cache}"])  # fmt: skip
    (path,) = out.glob("*.json")
    return path, json.loads(path.read_text())


def test_every_way_is_measured_beside_the_plain_reference(measured: tuple[Path, Any]) -> None:
    _, facts = measured
    rows = facts["parts"]["train"]
    assert [(row["method"], row["way"]) for row in rows] == [
        (method, way) for method in ("tiger", "diger_frqud") for way in ("fp32", "plain", "bf16")
    ]
    for row in rows:
        plain = next(r for r in rows if r["method"] == row["method"] and r["way"] == "plain")
        assert row["ms_per_step"] > 0
        assert row["ms_per_user"] > 0
        assert row["steps_timed"] >= 5
        assert row["plain_over_ms_per_step"] == pytest.approx(
            plain["ms_per_step"] / row["ms_per_step"]
        )
        assert row["epoch_seconds"] == pytest.approx(
            row["ms_per_step"] / 1e3 * row["steps_per_epoch"]
        )
    assert [row["train_assignment"] for row in facts["parts"]["tokenizer"]] == [
        "argmin",
        "sinkhorn",
    ]
    assert facts["skipped"] == {}


def test_the_file_says_where_its_numbers_come_from(measured: tuple[Path, Any]) -> None:
    path, facts = measured
    assert facts["command"].startswith("python -m benchmark.speed")
    assert facts["device"]["kind"] == "cpu"
    assert facts["versions"]["torch"] == metadata.version("torch")
    assert set(facts["git"]) == {"commit", "dirty"}
    page = path.with_suffix(".md").read_text()
    assert facts["versions"]["torch"] in page
    assert page.count("| plain |") == 2
    assert "1,024" in page


@pytest.mark.slow
def test_side_by_side_and_the_repeatable_switch(tmp_path: Path, data_cache: Path) -> None:
    """In processes of their own, which say when they are ready and start together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "default_jobs", lambda: 2)
        main(["--device", "cpu", "--only", "together,deterministic",
              "--targets", "smoke/ml-100k-150u", "--methods", "diger_frqud",
              "--budget-seconds", "3", "--out", str(tmp_path), f"cache={data_cache}"])  # fmt: skip
    (path,) = tmp_path.glob("*.json")
    facts = json.loads(path.read_text())
    assert facts["skipped"] == {}
    rows = facts["parts"]["together"]
    assert [(row["way"], row["processes"], row["method"]) for row in rows] == [
        ("plain", 1, "diger_frqud"), ("plain", 2, "diger_frqud"),
        ("suite", 1, "diger_frqud"), ("suite", 2, "diger_frqud"),
        ("suite, bf16", 1, "diger_frqud"), ("suite, bf16", 2, "diger_frqud"),
        ("batched", 1, "tiger"), ("batched", 2, "tiger"), ("batched", 4, "tiger"),
    ]  # fmt: skip
    rate = {(row["way"], row["processes"]): row["steps_per_second"] for row in rows}
    most = max(rate["plain", 1], rate["plain", 2])
    for row in rows:
        assert row["over_one"] == pytest.approx(row["steps_per_second"] / rate[row["way"], 1])
        assert row["precision"] == ("bf16" if "bf16" in row["way"] else "fp32")
        if row["way"].startswith("suite"):
            assert row["over_plain"] == pytest.approx(row["steps_per_second"] / most)
    switched = facts["parts"]["deterministic"]
    assert [(row["deterministic"], row["same_bits"]) for row in switched] == [
        (True, True), (False, True)
    ]  # fmt: skip
    assert all(row["ms_per_step"] > 0 for row in switched)


def test_one_that_ends_early_ends_all_of_those_side_by_side() -> None:
    """The others would wait for it for ever."""
    target = Target("smoke", "ml-100k-150u", "pop")  # without steps of the suite's own
    with pytest.raises(UserError, match="side by side ended early"):
        together._run(target, "cpu", 1, 1.0, 2, "suite", {})


# Stands for a training that has lost its service; notes its number, and whether it was let go.
WAITS = """
import os, pathlib, signal, sys, time
folder, deaf = pathlib.Path(sys.argv[1]), sys.argv[2] == "True"
try:
    signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else signal.default_int_handler)
    (folder / str(os.getpid())).touch()
    time.sleep(60)
except KeyboardInterrupt:
    (folder / "let go").touch()
"""


@pytest.mark.parametrize("deaf", [False, True])
def test_those_that_wait_for_ever_are_ended(
    deaf: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SIGTERM, and those that do not hear it soon after."""
    command = [sys.executable, "-I", "-S", "-c", WAITS, str(tmp_path), str(deaf)]
    monkeypatch.setattr(together, "_command", lambda *given: command)
    monkeypatch.setattr(together, "START_SECONDS", 4.0)
    monkeypatch.setattr(together, "END_SECONDS", 1.0 if deaf else 30.0)
    target = Target("paper", "beauty/keyphrases", "diger_frqud")
    started = time.monotonic()
    with pytest.raises(UserError, match=r"8 side by side \(suite, MPS\) had not ended after 5 s"):
        together._run(target, "cuda", 1, 1.0, 8, "suite, MPS", {})
    assert time.monotonic() - started < 40  # they wait for 60 s
    assert (tmp_path / "let go").exists() != deaf
    (pid,) = (int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal())
    assert not psutil.pid_exists(pid)


def test_with_a_service_already_there_nothing_is_measured_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mps, "running", lambda: {"CUDA_MPS_PIPE_DIRECTORY": "theirs"})
    monkeypatch.setattr(together, "_run", lambda *given: pytest.fail("it was measured"))
    target = Target("paper", "beauty/keyphrases", "diger_frqud")
    with pytest.raises(UserError, match="NVIDIA's MPS is running already"):
        next(together.measure(target, "cuda", 1, 1.0))


def _with_a_child(*given: Any) -> None:
    """Stands for a training whose data are loaded by processes of its own."""
    loader = multiprocessing.get_context("fork").Process(target=int, daemon=True)
    loader.start()
    loader.join()
    start, results = given[-2:]
    start.wait()
    results.put({"steps_per_second": 1.0})


def test_those_side_by_side_may_have_processes_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the plain reference has on a GPU."""
    monkeypatch.setattr(together, "_child", _with_a_child)
    monkeypatch.setattr(together, "limit_threads", lambda threads: None)
    target = Target("smoke", "ml-100k-150u", "tiger")
    found = together.side_by_side("suite", target, "cpu", 1, 1.0, 2)
    assert found == [{"steps_per_second": 1.0}] * 2


def test_on_a_gpu_what_has_a_bound_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one service for all of them, where there is one."""
    made: list[tuple[str, int, dict[str, str]]] = []

    def run(target: Target, device: str, threads: int, seconds: float, n: int, way: str,
            environment: dict[str, str]) -> list[dict[str, Any]]:  # fmt: skip
        made.append((way, n, environment))
        each = {"steps_per_second": 10.0 if n == 1 else 5.0, "peak_device_bytes": 7,
                "precision": "fp32"}  # fmt: skip
        return [each] * n

    @contextmanager
    def service(visible: str) -> Iterator[dict[str, str]]:
        assert visible == "GPU-b"
        yield {"CUDA_MPS_PIPE_DIRECTORY": "somewhere"}

    monkeypatch.setattr(together, "_run", run)
    monkeypatch.setattr(mps, "serve", service)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b,GPU-a")
    monkeypatch.setattr(together, "default_jobs", lambda: 16)
    target = Target("paper", "beauty/keyphrases", "diger_frqud")
    for installed in (False, True):
        monkeypatch.setattr(mps, "is_installed", lambda found=installed: found)
        made.clear()
        rows = list(together.measure(target, "cuda", 1, 3.0))
        ways = [("suite", 1), *([("suite, MPS", 8)] if installed else []), ("suite", 8)]
        assert [(row["way"], row["processes"]) for row in rows] == ways
        assert [row["over_one"] for row in rows] == [1.0, *[4.0] * (len(ways) - 1)]
        assert {row["over_plain"] for row in rows} == {None}
        assert [bool(environment) for _, _, environment in made] == ["MPS" in w for w, _ in ways]


def test_a_node_with_few_cores_says_that_it_did_not_try_eight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    each = {"steps_per_second": 10.0, "peak_device_bytes": 7, "precision": "fp32"}
    monkeypatch.setattr(together, "_run", lambda *given: [each])
    monkeypatch.setattr(mps, "is_installed", lambda: False)
    monkeypatch.setattr(together, "default_jobs", lambda: 6)
    found = together.measure(Target("quick", "ml-100k", "tiger"), "cuda", 1, 3.0)
    assert next(found)["processes"] == 1
    with pytest.raises(UserError, match="8 side by side want a core each, and there are 6"):
        next(found)


def test_ways_are_held_to_the_plain_reference_step_by_step(
    data_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target("smoke", "ml-100k-150u", "diger_frqud", (f"cache={data_cache}",))
    monkeypatch.setattr(agreement, "STEPS", 4)
    rows = list(agreement.measure(target, "cpu", 1))
    assert [(row["method"], row["way"], row["steps"]) for row in rows] == [
        (method, way, 4) for method in ("tiger", "ste") for way in ("fp32", "bf16")
    ]
    assert all(row["largest_difference"] < 1e-4 for row in rows if row["way"] == "fp32")
    assert all(0 < row["loss_after"] < row["loss_before"] for row in rows)
    # One that is off in a single step is seen.
    honest = agreement._fast
    monkeypatch.setattr(agreement, "METHODS", ("tiger",))
    monkeypatch.setattr(agreement, "_fast", lambda *given: [
        loss + 0.5 * (i == 2) for i, loss in enumerate(honest(*given))
    ])  # fmt: skip
    worst = [row["largest_difference"] for row in agreement.measure(target, "cpu", 1)]
    assert worst == pytest.approx([0.5, 0.5], abs=1e-2)


@pytest.mark.slow
def test_a_profile_names_what_took_the_time(tmp_path: Path, data_cache: Path) -> None:
    profile.main(["--device", "cpu", "--experiment", "smoke", "--dataset", "ml-100k-150u",
                  "--methods", "tiger", "--steps", "2", "--out", str(tmp_path),
                  f"cache={data_cache}"])  # fmt: skip
    (path,) = tmp_path.glob("*-1-threads-profile.json")
    facts = json.loads(path.read_text())
    assert [row["what"].rpartition(": ")[2] for row in facts["profiles"]] == [
        "a step", "a validation", "a step"
    ]  # fmt: skip
    for row in facts["profiles"]:
        shown = [kernel["ms"] for kernel in row["most"]]
        assert shown == sorted(shown, reverse=True)
        assert 0 < sum(shown) <= row["kernels_ms"] * (1 + 1e-9)
        assert row["wall_ms"] > 0
    assert any("mm" in kernel["name"] for kernel in facts["profiles"][0]["most"])
    assert path.with_suffix(".md").read_text() == profile.markdown(facts)


def session(out: Path, part: str) -> Session:
    return Session(arguments(["--device", "cpu", "--only", part, "--out", str(out)]))


def test_parts_of_one_commit_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state: dict[str, Any] = {"commit": "a" * 40, "dirty": False}
    monkeypatch.setattr(provenance, "git_state", lambda output: dict(state))
    first = session(tmp_path, "users")
    first.facts["parts"] |= {"users": [{"users": 1}]}
    first.save()
    assert session(tmp_path, "items").facts["parts"] == {"users": [{"users": 1}]}
    assert session(tmp_path, "users").facts["parts"] == {}
    for change in ({"dirty": True}, {"commit": "b" * 40}):
        with monkeypatch.context() as patch:
            patch.setattr(provenance, "git_state", lambda output, new=change: state | new)
            assert session(tmp_path, "items").facts["parts"] == {}


def test_parts_of_one_session_are_collected_whatever_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch system writes its log into the checkout, and that is enough to make it dirty."""
    state: dict[str, Any] = {"commit": "a" * 40, "dirty": True}
    monkeypatch.setattr(provenance, "git_state", lambda output: dict(state))

    def measured(name: str, part: str) -> dict[str, Any]:
        monkeypatch.setenv(SESSION_VARIABLE, name)
        found = session(tmp_path, part)
        found.facts["parts"] |= {part: [{part: 1}]}
        found.save()
        return found.facts["parts"]

    assert measured("", "users").keys() == {"users"}
    assert measured("", "items").keys() == {"items"}
    assert "written anew, without what was measured before: users" in capsys.readouterr().err
    assert measured("one", "users").keys() == {"users"}
    assert measured("one", "items").keys() == {"items", "users"}
    assert measured("two", "items").keys() == {"items"}
    state["dirty"] = False  # as it may have been before that log was there
    assert measured("three", "users").keys() == {"users"}
    state["dirty"] = True
    assert measured("three", "items").keys() == {"items", "users"}
    state["commit"] = "b" * 40
    assert measured("three", "items").keys() == {"items"}


def test_a_report_is_of_the_precision_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = {"commit": "a" * 40, "dirty": False}
    monkeypatch.setattr(provenance, "git_state", lambda output: clean)
    asked = ["--device", "cpu", "--targets", "quick/ml-100k", "--out", str(tmp_path)]
    first = Session(arguments([*asked, "precision=bf16"]))
    first.facts["parts"] |= {"users": [{"users": 1}]}
    assert first.facts["execution"]["precision"] == first.execution.precision == "bf16"
    first.save()
    again = [*asked, "--only", "items"]
    assert Session(arguments([*again, "precision=bf16"])).facts["parts"].keys() == {"users"}
    assert Session(arguments(again)).facts["parts"] == {}  # that would be of fp32


def test_parts_of_several_commits_are_joined_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for letter, parts in (("a", ["users", "items"]), ("b", ["items", "tokenizer"])):
        state: dict[str, Any] = {"commit": letter * 40, "dirty": None}
        monkeypatch.setattr(provenance, "git_state", lambda output, state=state: state)
        run = session(tmp_path / letter, "users")
        rows = {
            "users": {"users": 1, "rows": 1, "ms_per_step": 1.0, "epoch_seconds": 1.0,
                      "order_seconds": 1.0, "validation_seconds": 1.0},
            "items": {"items": 1, "ms_per_step": 1.0, "ms_per_user": 1.0, "trie_seconds": 1.0,
                      "refresh_seconds": 1.0, "peak_memory_bytes": 1},
            "tokenizer": {"items": 1, "train_assignment": letter, "steps_per_second": 1.0,
                          "epoch_seconds": 1.0},
        }  # fmt: skip
        run.facts["parts"] = {part: [rows[part]] for part in parts}
        run.facts["skipped"] = {"recbole": letter, "users": "in time for the other", letter: "why"}
        run.save()
        files.append(str(tmp_path / letter / f"{run.name}.json"))
    out = tmp_path / "joined"
    joined.main(["--out", str(out), *files])
    (page,) = out.glob("*.md")
    text = page.read_text()
    assert f"Commit {'a' * 12};" in text
    assert text.count("Measured at commit") == text.count(f"Measured at commit {'b' * 12}") == 1
    assert text.index("Codes in training") < text.index("Measured at commit")
    skipped = [line for line in text.splitlines() if line.startswith("Not measured")]
    assert skipped == ["Not measured: a: why", "Not measured: recbole: a", "Not measured: b: why"]
    again = tmp_path / "again"  # what was joined before keeps its sources; named parts come first
    joined.main(["--out", str(again), f"{files[1]}:items", str(page.with_suffix(".json"))])
    (found,) = (json.loads(path.read_text()) for path in again.glob("*.json"))
    assert set(found["parts"]) == {"items", "users", "tokenizer"}
    commits = {part: source["git"]["commit"][0] for part, source in found["sources"].items()}
    assert commits == {"users": "a"}
    capsys.readouterr()
    other = json.loads(Path(files[0]).read_text())
    for key, name in (("device", "name"), ("execution", "step")):
        changed = {**other, key: {**other[key], name: "another"}}
        (tmp_path / f"{key}.json").write_text(json.dumps(changed))
    (tmp_path / "text.json").write_text("[]")
    (tmp_path / "nameless.json").write_text(json.dumps(other | {"device": {}}))
    (tmp_path / "words.json").write_text(json.dumps(other | {"device": "a word"}))
    for given, message in (
        ([files[1], str(tmp_path / "device.json")], "differ in device"),
        ([files[1], str(tmp_path / "execution.json")], "differ in execution"),
        ([str(tmp_path / "words.json")], "no result of"),
        ([str(tmp_path / "nameless.json")], "no result of"),
        ([f"{files[1]}:users"], "no part 'users'"),
        ([str(tmp_path / "text.json")], "no result of"),
        ([str(tmp_path / "none.json")], "cannot read"),
    ):
        with pytest.raises(SystemExit) as ended:
            joined.main(["--out", str(tmp_path / "never"), *given])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "never").exists()


def test_rows_are_kept_whatever_comes_after_them(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield {"row": 1}
        raise MemoryError("no room")

    run = session(tmp_path, "together")
    run._keep("together", [("what broke", broken), ("what did not", lambda: [{"row": 2}])])
    assert run.facts["parts"]["together"] == [{"row": 1}, {"row": 2}]
    assert run.facts["skipped"] == {"what broke": "MemoryError: no room"}
    with pytest.raises(MemoryError):
        run._keep("items", [("items", broken)])
    (path,) = tmp_path.glob("*.json")
    stored = json.loads(path.read_text())["parts"]
    assert (stored["together"], stored["items"]) == ([{"row": 1}, {"row": 2}], [{"row": 1}])


def test_what_a_command_writes_is_no_change_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        named = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *named, *words], check=True)

    git("init", "-q")
    (tmp_path / "code").write_text("1")
    git("add", "code")
    git("commit", "-q", "-m", "code")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    out = tmp_path / "out" / "here"
    out.mkdir(parents=True)
    (out / "measured").write_text("1")
    assert provenance.git_state()["dirty"] is True
    assert provenance.git_state(out)["dirty"] is False
    (tmp_path / "out" / "other").write_text("1")
    assert provenance.git_state(out)["dirty"] is True
    (tmp_path / "out" / "other").unlink()
    (tmp_path / "code").write_text("2")
    assert provenance.git_state(out)["dirty"] is True
    assert provenance.git_state(tmp_path / "..")["dirty"] is True


def test_plots_show_cost_against_items_and_users(
    tmp_path: Path, measured: tuple[Path, Any]
) -> None:
    _, facts = measured
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling, "USERS_BESIDE_ITEMS", 300)
        patch.setattr(scaling, "ITEMS_BESIDE_USERS", 300)
        patch.setattr(scaling, "RANKED", 20)
        items = scaling.against_items("cpu", Execution(), 0.01, [300, 600])
        users = scaling.against_users("cpu", Execution(), 0.01, [300])
    assert [row["items"] for row in items] == [300, 600]
    assert all(row["ms_per_step_catalogue"] > 0 and row["refresh_seconds"] > 0 for row in items)
    assert users[0]["epoch_seconds"] > users[0]["order_seconds"] > 0
    written = write_report({**facts, "parts": {"items": items, "users": users}}, tmp_path, "x")
    assert {path.name for path in written} == {
        "x.md", "x-items.png", "x-items.pdf", "x-users.png", "x-users.pdf"
    }  # fmt: skip
    assert "| 300 |" in (tmp_path / "x.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "nonsense"], "--only knows statistics"),
        (["--budget-seconds", "0"], "more than 0"),
        (["--threads", "0"], "at least 1"),
        (["--device", "tpu"], "auto, cpu or cuda"),
        (["--targets", "quick"], "experiment/dataset"),
        (["--targets", "quick/nonsense"], "nonsense"),
        (["--methods", "nonsense"], "nonsense"),
        (["--device", "cpu", "--ways", "fp32, graph"], "--ways knows fp32; bf16"),
        (["--methods", "pop"], "pop has no plain reference"),
        (["--publish", "--out", "x"], "leave out --out"),
        (["--nonsense"], "--help"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1


def test_a_report_on_made_up_runs_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    sizes = Sizes(datasets=1, methods=5, seeds=2, users=40, items=30, epochs=3)
    row = reporting.measure(sizes, tmp_path / "kept")
    assert row["runs"] == 10
    assert row["seconds"] > 0
    assert row["cpu_seconds"] > 0
    assert row["peak_memory_bytes"] > 2**26
    index = (tmp_path / "kept" / "report" / "index.md").read_text(encoding="utf-8")
    assert "Made up, as large as Beauty" in index
    with pytest.raises(UserError, match="is there already"):
        reporting.measure(sizes, tmp_path / "kept")
    facts = {"command": "x", "device": {"name": "x", "kind": "cpu", "threads": 1},
             "git": {"commit": None, "dirty": None}, "versions": {"torch": "1", "python": "3"},
             "started": "now", "execution": {}, "skipped": {},
             "parts": {"report": [row]}}  # fmt: skip
    write_report(facts, tmp_path, "x")
    assert "| 1 | 5 | 2 | 40 | 10 |" in (tmp_path / "x.md").read_text(encoding="utf-8")


GROW = "x = bytearray(100 * 2**20); import time; time.sleep(0.5)"
FAMILY = (
    "import subprocess, sys; "
    f"children = [subprocess.Popen([sys.executable, '-c', {GROW!r}]) for _ in range(2)]; "
    "sum(range(10**7)); [child.wait() for child in children]; print('done'); sys.exit(3)"
)


def test_processes_are_counted_together(tmp_path: Path) -> None:
    use, done = watch([sys.executable, "-c", FAMILY], tmp_path)
    assert (done.returncode, done.stdout) == (3, "done\n")
    assert use.processes == 3
    assert use.peak_memory_bytes > 200 * 2**20
    assert use.seconds >= 0.5
    assert use.cpu_seconds > 0.05


def test_made_up_runs_are_whole_and_the_same_each_time(tmp_path: Path) -> None:
    sizes = Sizes(datasets=2, methods=12, seeds=2, users=40, items=30, epochs=2)
    for name in ("a", "b"):
        assert write_store(tmp_path / name, sizes) == 48
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert files == sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*.*"))
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes()
               for f in files)  # fmt: skip
    runs, problems = collect(folders_below(tmp_path / "a"))
    assert (len(runs), problems) == (48, [])
    seeds = [run.metrics()["value"].sum() for run in runs if run.method == "tiger"]
    assert len(set(seeds)) == len(seeds)  # another training, other values


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["users=1"], "2 is the least"),
        (["methods=13"], "there are 12"),
        (["users=many"], "unknown argument 'users=many'"),
        (["folder=x"], "unknown argument 'folder=x'"),
    ],
)
def test_made_up_runs_of_no_possible_size(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        sizes_from(arguments, "store")


def test_tokenizer_steps_are_those_of_training() -> None:
    rows = tokenizer.measure("cpu", 0.01)
    assert all(row["steps_per_second"] > 0 and row["recorded"] == 0 for row in rows)


def test_published_tables_are_those_of_their_file(tmp_path: Path) -> None:
    published = list(Path("reports/published/speed").glob("*.json"))
    assert published
    for path in published:
        facts = json.loads(path.read_text())
        # On a GPU node there is a copy without git: it has the commit that was packed, and null.
        clean = facts["git"]["dirty"] is False
        assert clean or (facts["device"]["kind"] == "cuda" and facts["git"]["commit"])
        if "profiles" in facts:
            assert profile.markdown(facts) == path.with_suffix(".md").read_text()
            continue
        assert facts["skipped"] == {}
        page, *_ = write_report(facts, tmp_path, path.stem)
        assert page.read_text() == path.with_suffix(".md").read_text()


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "experiment").glob("*.yaml")))
def test_every_experiment_can_be_measured(name: str) -> None:
    """With a tokenizer that trains for a short time, whichever settings it has."""
    target = Target(name, "ml-100k", "diger_frqud")
    tokenizer = target.settings("cpu", 1, CHEAP_TOKENIZER).method["tokenizer"]
    assert (tokenizer["epochs"], tokenizer["min_epochs"]) == (150, 0)


# Execution ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "device", "want"),
    [
        (ExecutionChoice(), "cpu", Execution("fp32", "eager")),
        (ExecutionChoice(), "cuda", Execution("fp32", "graph")),
        (ExecutionChoice("fp32", "eager", True), "cuda", Execution("fp32", "eager", True)),
        (ExecutionChoice("bf16"), "cpu", Execution("bf16", "eager")),
    ],
)
def test_auto_depends_on_the_device(choice: ExecutionChoice, device: str, want: Execution) -> None:
    assert choice.on(device) == want


@pytest.mark.parametrize(
    "bad", [{"precision": "fp8"}, {"step": "fast"}, {"deterministic": "yes"}], ids=str
)
def test_impossible_choices_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        ExecutionChoice(**bad)


def test_graphs_without_a_gpu_are_refused() -> None:
    with pytest.raises(UserError, match="CUDA graphs"):
        ExecutionChoice(step="graph").on("cpu")


def test_products_go_elsewhere_only_where_they_stay_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    onednn: Any = torch.backends.mkldnn
    before = onednn.matmul.fp32_precision
    try:
        chosen = faster_products()
        random = torch.Generator().manual_seed(0)
        a, b = (torch.randn(shape, generator=random) for shape in ((512, 64), (64, 192)))
        torch.testing.assert_close(a @ b, (a.double() @ b.double()).float(), atol=1e-4, rtol=1e-5)
        assert chosen in ("onednn", "blas")
        monkeypatch.setattr("benchmark.execution._exact", lambda: False)
        assert faster_products() == "blas"
        assert onednn.matmul.fp32_precision == "ieee"
    finally:
        onednn.matmul.fp32_precision = before


def test_deterministic_sets_up_torch_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", lambda on, warn_only: asked.append(on)
    )
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    begin(Execution(deterministic=True), "cpu")
    assert asked == []
    facts = begin(Execution(deterministic=True), "cuda")
    assert asked == [True]
    assert facts == {"precision": "fp32", "step": "eager", "deterministic": True}
