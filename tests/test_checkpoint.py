"""Released checkpoints: tensors and settings come out, or the file is refused and runs nothing."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark import released
from benchmark.data.checkpoint import Checkpoint, load_checkpoint
from benchmark.errors import UserError
from benchmark.store import sha256_file
from tests.conftest import REPO

STATE = {
    "encoder.weight": torch.arange(6.0).reshape(2, 3),
    "rq.codes": torch.tensor([1, 2], dtype=torch.int64),
}


def load(path: Path) -> Checkpoint:
    return load_checkpoint(path, [sha256_file(path)])


def save(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoint_loads(zipped: bool, tmp_path: Path) -> None:
    args = argparse.Namespace(
        lr=1e-3, layers=[2048, 1024], data=("a", None), bn=False, device="cuda:0",
        kmeans={"iters": 100}, limit=float("inf"),
    )  # fmt: skip
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1).state_dict()
    value = {"args": args, "epoch": 3, "best_loss": 0.5, "state_dict": STATE, "opt": optimizer}
    path = save(tmp_path / "model.pth", value, _use_new_zipfile_serialization=zipped)
    found = load(path)
    assert found.settings == {
        "lr": 1e-3, "layers": [2048, 1024], "data": ["a", None], "bn": False, "device": "cuda:0",
        "kmeans": {"iters": 100}, "limit": "inf",
    }  # fmt: skip
    assert list(found.state) == list(STATE)
    assert all(torch.equal(found.state[name], STATE[name]) for name in STATE)
    assert found.state["rq.codes"].dtype == torch.int64
    assert found.sha256 == sha256_file(path)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", None])
def test_parameters_are_found(key: str | None, tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    state = model.state_dict()  # an OrderedDict with metadata
    found = load(save(tmp_path / "model.pth", {key: state} if key else state))
    assert type(found.state) is dict
    assert torch.equal(found.state["weight"], model.weight)
    assert found.settings == {}


def test_parameters_that_want_gradients(tmp_path: Path) -> None:
    value = {"state_dict": {"w": torch.nn.Parameter(torch.ones(2))}}
    found = load(save(tmp_path / "model.pth", value))
    assert not found.state["w"].requires_grad
    assert type(found.state["w"]) is torch.Tensor


# --- refusals -------------------------------------------------------------------------------


class Runs:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Own:
    """A class that a checkpoint has no business with."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["path"]).touch()


def attacks(victim: Path) -> dict[str, tuple[Any, str]]:
    own = Own()
    own.path = str(victim)  # type: ignore[attr-defined]
    return {
        "a command": (Runs(os.system, f"touch {victim}"), r"(posix|nt|os).system"),
        "a process": (Runs(subprocess.call, ["touch", str(victim)]), r"\w+\.call"),
        "a file": (Runs(open, str(victim), "w"), "(_io|io).open"),
        "code": (Runs(exec, f"open({str(victim)!r}, 'w')"), "exec"),
        "a method": (Runs(Path.touch, victim), "getattr"),
        "an attribute": (Runs(getattr, os, "system"), "getattr"),
        "torch's own loader": (Runs(torch.load, str(victim)), "torch"),
        "another class": (own, "tests.test_checkpoint.Own"),
        "a class of the library": (collections.deque([1]), "collections.deque"),
    }


@pytest.fixture(autouse=True)
def modules_pickle() -> Any:
    """Lets this test's pickles name a module, as an attacker's may."""
    import copyreg
    import types

    copyreg.pickle(types.ModuleType, lambda module: (__import__, (module.__name__,)))
    yield
    copyreg.dispatch_table.pop(types.ModuleType)


@pytest.mark.parametrize("place", ["args", "state_dict", "inside the namespace", "as it is"])
@pytest.mark.parametrize("attack", attacks(Path("victim")))
def test_malicious_pickles_run_nothing(attack: str, place: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    value, name = attacks(victim)[attack]
    content: Any = {"args": argparse.Namespace(lr=1), "state_dict": dict(STATE)}
    if place == "inside the namespace":
        content["args"].extra = value
    elif place == "state_dict":
        content["state_dict"]["more"] = value
    elif place == "args":
        content["args"] = value
    else:
        content = value
    for zipped in (True, False):
        path = save(tmp_path / "model.pth", content, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=f"wants to run .*{name}.* not loaded") as caught:
            load(path)
        assert "\n" not in str(caught.value)
        assert not victim.exists()


def test_plain_pickle_runs_nothing(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "model.pth"
    path.write_bytes(pickle.dumps(Runs(os.system, f"touch {victim}"), protocol=2))
    with pytest.raises(UserError, match="not loaded"):
        load(path)
    assert not victim.exists()
    # The attack itself works: whoever loads it the usual way has the file.
    pickle.loads(path.read_bytes())
    assert victim.exists()


def test_what_others_have_allowed_is_not_allowed(tmp_path: Path) -> None:
    own = Own()
    own.path = str(tmp_path / "victim")  # type: ignore[attr-defined]
    path = save(tmp_path / "model.pth", {"args": own, "state_dict": STATE})
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([Own])
    try:
        with pytest.raises(UserError, match=r"wants to run .*Own"):
            load(path)
        # And the process is as it was: neither more nor less is allowed.
        assert set(torch.serialization.get_safe_globals()) == {*before, Own}
        load(save(tmp_path / "good.pth", STATE))
        assert set(torch.serialization.get_safe_globals()) == {*before, Own}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    assert not (tmp_path / "victim").exists()


def test_checksum_comes_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "model.pth", STATE)
    found = sha256_file(path)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(UserError, match=f"has the sha256 {found}, not {'0' * 64} or {'1' * 64}"):
        load_checkpoint(path, ["0" * 64, "1" * 64])
    with pytest.raises(UserError, match=f"has the sha256 {found}, not one that is on record"):
        load_checkpoint(path, [])


def zip_file(**entries: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in entries.items():
            archive.writestr(f"archive/{name.replace('_', '.')}", data)
    return file.getvalue()


def whole() -> bytes:
    file = io.BytesIO()
    torch.save(STATE, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"text, not a checkpoint\n" * 50, b"\x00" * 100, b"<!DOCTYPE html>", b"PK\x03\x04",
        whole()[:200], whole()[:-30], whole()[100:], zip_file(), zip_file(data_pkl=b"text"),
        zip_file(data_pkl=pickle.dumps({"a": 1}, protocol=2)), pickle.dumps([1, 2], protocol=2),
        b"\x80\x02" + b"(" * 100_000 + b"l.", pickle.dumps({"a": 1}, protocol=5),
    ],
    ids=range(14),
)  # fmt: skip
def test_damaged_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch advises to drop its safeguards


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "holds no parameters"),
        ([1, 2], "holds no parameters"),
        (torch.zeros(2), "holds no parameters"),
        ({"state_dict": {}}, "holds no parameters"),
        ({"state_dict": {"a": 1}}, "holds no parameters"),
        ({"state_dict": {1: torch.zeros(2)}}, "holds no parameters"),
        (
            {"args": argparse.Namespace(x=torch.zeros(2)), "state_dict": STATE},
            "setting 'x' is a Tensor",
        ),
        ({"args": argparse.Namespace(x={1: 2}), "state_dict": STATE}, "setting 'x' is a dict"),
        ({"args": argparse.Namespace(x=[{3}]), "state_dict": STATE}, "setting 'x' is a set"),
        (
            {"args": argparse.Namespace(x=argparse.Namespace()), "state_dict": STATE},
            "setting 'x' is a Namespace",
        ),
    ],
)
def test_other_contents_are_refused(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(save(tmp_path / "model.pth", value))


def test_settings_that_contain_themselves(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    value = {"args": argparse.Namespace(x=endless), "state_dict": STATE}
    with pytest.raises(UserError, match="setting 'x' is a list"):
        load(save(tmp_path / "model.pth", value))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(tmp_path / "none.pth", [])
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(tmp_path, [])


# --- the command ----------------------------------------------------------------------------


def test_command_shows_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = {"args": argparse.Namespace(lr=0.5), "state_dict": STATE}
    path = save(tmp_path / "model.pth", value)
    released.main([f"checkpoint={path}", f"sha256={sha256_file(path)}"])
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: sha256 {sha256_file(path)}",
        "  lr = 0.5",
        "  encoder.weight: float32 [2, 3]",
        "  rq.codes: int64 [2]",
    ]
    with pytest.raises(UserError, match="it is not loaded; if you trust it, name its sha256"):
        released.main([f"checkpoint={path}"])


def test_module_needs_no_torch() -> None:
    code = (
        "import sys, benchmark.data.checkpoint, benchmark.data.release, benchmark.released;"
        "assert not {'torch', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True, timeout=60)
