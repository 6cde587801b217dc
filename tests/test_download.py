"""Downloads against a real server on 127.0.0.1 that cuts, lies, redirects and refuses.

Every case ends in the right file or in one line that says what to do, and never in a bad cache:
`fetch` and `refuse` check that each time.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from benchmark.data import transfer
from benchmark.data.checksum import mismatch
from benchmark.data.download import Downloads, RemoteFile, Unavailable, _shown
from benchmark.errors import UserError
from tests.file_server import (
    Answer,
    FileServer,
    Seen,
    chunked,
    cut,
    header,
    no_ranges,
    redirect,
    replaced,
    unframed,
    wait_at,
    wrong_byte,
)

REAL_MIRROR = os.environ.get("DIGER_BENCH_MIRROR", "")
REPO = Path(__file__).parents[1]

NAME = "letter/data.json"
BYTES = random.Random(0).randbytes(300_000)
PAGE = b"<!DOCTYPE html>\n<html><body>please log in</body></html>" * 20


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def remote(url: str, content: bytes = BYTES, **changes: Any) -> RemoteFile:
    sha256 = hashlib.sha256(content).hexdigest()
    return RemoteFile(
        **{"name": NAME, "url": url, "sha256": sha256, "bytes": len(content), **changes}
    )


@pytest.fixture(autouse=True)
def quick_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses, and nothing from the environment of whoever runs the tests."""
    monkeypatch.setattr(transfer, "BACKOFF_SECONDS", 0.0)
    for variable in list(os.environ):
        if variable.lower().endswith("_proxy") or variable.startswith("DIGER_BENCH_"):
            monkeypatch.delenv(variable)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of each pause between two tries, which are not waited for."""
    waited: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waited.append)
    return waited


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({NAME: BYTES}) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "downloads"


def assert_clean(folder: Path, content: bytes = BYTES, part: bool = False) -> None:
    """Nothing but the file and locks; ``part``: and a part, good as far as it goes."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name == NAME:
            assert path.read_bytes() == content
        elif path.is_file() and part and name == f"{NAME}.part":
            assert content.startswith(path.read_bytes())
        elif path.is_file():
            assert name == f"{NAME}.lock"
            assert path.stat().st_size == 0


def fetch(downloads: Downloads, file: RemoteFile, content: bytes = BYTES) -> None:
    path = downloads.get(file)
    assert path == downloads.folder / file.name
    assert path.read_bytes() == content
    assert_clean(downloads.folder, content)


def refuse(
    downloads: Downloads, file: RemoteFile, kind: type[UserError] = Unavailable, part: bool = False
) -> str:
    """The message, which is one line and says where a copy can be put."""
    with pytest.raises(UserError) as caught:
        downloads.get(file)
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert "\n" not in message
    assert str(downloads.folder / file.name) in message
    assert file.url in message
    assert file.name in message
    if kind is Unavailable:
        assert "DIGER_BENCH_MIRROR" in message
    assert not (downloads.folder / file.name).exists()
    assert_clean(downloads.folder, part=part)
    return message


# --- the plain way ------------------------------------------------------------------------------


def test_fetches_once(server: FileServer, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = remote(server.url(NAME))
    fetch(Downloads(folder), file)
    fetch(Downloads(folder), file)
    fetch(Downloads(folder, offline=True), file)
    (seen,) = server.seen
    assert seen.headers["user-agent"].startswith("diger-bench")
    assert seen.headers["accept-encoding"] == "identity"
    assert capfd.readouterr() == ("", "")  # nothing of pooch's, and no bar for a small file
    mode = (folder / NAME).stat().st_mode & 0o777
    plain = folder / "plain"
    plain.write_bytes(b"")
    assert mode == plain.stat().st_mode & 0o777  # not for the owner alone


@pytest.mark.parametrize("known", [True, False])
def test_git_blob_alone(server: FileServer, folder: Path, known: bool) -> None:
    size = len(BYTES) if known else None
    file = remote(server.url(NAME), sha256=None, git_blob=git_blob(BYTES), bytes=size)
    fetch(Downloads(folder), file)
    shutil.rmtree(folder)
    server.on(NAME, wrong_byte(200_000))
    changed = bytearray(BYTES)
    changed[200_000] ^= 1
    message = refuse(Downloads(folder), file, UserError)
    assert git_blob(BYTES) in message
    assert git_blob(bytes(changed)) in message


def test_git_blob_is_what_git_says(tmp_path: Path) -> None:
    """The empty blob's id, and that of "test content", are in git's own book."""
    path = tmp_path / "x"
    for content, blob in (
        (b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
        (b"test content\n", "d670460b4b4aece5915caf5c68d12f560a9fe3e4"),
    ):
        path.write_bytes(content)
        file = RemoteFile("x", "https://localhost/x", git_blob=blob)
        assert mismatch(file, path) is None


def test_both_checksums_must_hold(server: FileServer, folder: Path) -> None:
    file = remote(server.url(NAME), git_blob="0" * 40)
    assert "0" * 40 in refuse(Downloads(folder), file, UserError)


def test_empty_file(folder: Path) -> None:
    with FileServer({NAME: b""}) as server:
        fetch(Downloads(folder), remote(server.url(NAME), b""), b"")


def test_a_bar_for_a_large_file(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    large = random.Random(1).randbytes(1_500_000)
    with FileServer({NAME: large}) as server:
        server.on(NAME, cut(700_000), times=1)
        fetch(Downloads(folder), remote(server.url(NAME), large), large)
    out, err = capfd.readouterr()
    assert out == ""
    assert f"{NAME}: 100%" in err
    assert "1.50M/1.50M" in err
    assert f"{NAME}:  47%" in err  # the second try begins where the first broke off


# --- transfers that break off -------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_cut_once_resumes(server: FileServer, folder: Path, known: bool) -> None:
    server.on(NAME, cut(100_000), times=1)
    fetch(Downloads(folder), remote(server.url(NAME), bytes=len(BYTES) if known else None))
    assert server.ranges(NAME) == [None, "bytes=100000-"]


def test_cut_again_and_again_resumes(server: FileServer, folder: Path) -> None:
    server.on(NAME, cut(70_001), times=4)
    fetch(Downloads(folder), remote(server.url(NAME)))
    assert server.ranges(NAME) == [None, *(f"bytes={70_001 * tries}-" for tries in range(1, 5))]


def test_cut_without_ranges_starts_over(server: FileServer, folder: Path) -> None:
    server.on(NAME, no_ranges, cut(100_000), times=2)
    server.on(NAME, no_ranges)
    fetch(Downloads(folder), remote(server.url(NAME)))
    assert server.count(NAME) == 3


def test_cut_without_a_length_resumes(server: FileServer, folder: Path) -> None:
    """Only the size on record shows that something is missing."""
    server.on(NAME, unframed, cut(100_000), times=1)
    fetch(Downloads(folder), remote(server.url(NAME)))
    assert server.ranges(NAME) == [None, "bytes=100000-"]


def test_cut_in_chunks_resumes(server: FileServer, folder: Path) -> None:
    server.on(NAME, chunked, cut(160_000), times=1)
    fetch(Downloads(folder), remote(server.url(NAME)))
    first, second = server.ranges(NAME)
    assert first is None
    assert second is not None
    assert int(second[6:-1]) > 150_000


@pytest.mark.parametrize("known", [True, False])
def test_chunks(server: FileServer, folder: Path, known: bool) -> None:
    server.on(NAME, chunked)
    fetch(Downloads(folder), remote(server.url(NAME), bytes=len(BYTES) if known else None))


def test_always_cut_is_given_up_and_the_next_run_goes_on(server: FileServer, folder: Path) -> None:
    server.on(NAME, cut(10_000), times=transfer.TRIES)
    file = remote(server.url(NAME))
    message = refuse(Downloads(folder), file, part=True)
    assert "broke off" in message
    assert "goes on from there" in message
    assert server.count(NAME) == transfer.TRIES
    fetch(Downloads(folder), file)
    assert server.ranges(NAME)[-1] == f"bytes={10_000 * transfer.TRIES}-"


def test_cut_before_the_first_byte(server: FileServer, folder: Path) -> None:
    server.on(NAME, cut(0), times=2)
    fetch(Downloads(folder), remote(server.url(NAME)))
    assert server.ranges(NAME) == [None, None, None]


def test_silence_is_a_cut(
    server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT_SECONDS", (5.0, 0.2))
    server.on(NAME, wait_at(100_000, server.gate()), times=1)
    server.on(NAME, wait_at(0, server.gate()))
    message = refuse(Downloads(folder), remote(server.url(NAME)), part=True)
    assert "no answer in time" in message
    assert server.ranges(NAME)[1] == "bytes=100000-"


# --- a part from before -------------------------------------------------------------------------


def put_part(folder: Path, content: bytes) -> Path:
    part = folder / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    return part


def damaged(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


@pytest.mark.parametrize(
    ("part", "ranges"),
    [
        (BYTES[:5000], ["bytes=5000-"]),
        (BYTES, []),  # killed just before it was renamed
        (BYTES + b"more", [None]),  # longer than the file: of no use
        (b"", [None]),
        (damaged(BYTES[:5000]), ["bytes=5000-", None]),
        (damaged(BYTES), [None]),
    ],
    ids=["good", "whole", "too long", "empty", "damaged", "whole and damaged"],
)
def test_part_from_before(
    server: FileServer, folder: Path, part: bytes, ranges: list[str | None]
) -> None:
    put_part(folder, part)
    fetch(Downloads(folder), remote(server.url(NAME)))
    assert server.ranges(NAME) == ranges


def test_whole_part_of_unknown_size(server: FileServer, folder: Path) -> None:
    """The server has no range behind the end (416): start over."""
    put_part(folder, BYTES)
    fetch(Downloads(folder), remote(server.url(NAME), bytes=None))
    assert server.ranges(NAME) == [f"bytes={len(BYTES)}-", None]


@pytest.mark.parametrize(
    "value", ["bytes 0-299999/300000", "bytes 5000-9/7", "bytes=5000-", ""], ids=repr
)
def test_wrong_content_range_starts_over(server: FileServer, folder: Path, value: str) -> None:
    put_part(folder, BYTES[:5000])
    server.on(NAME, header("Content-Range", value), times=1)
    fetch(Downloads(folder), remote(server.url(NAME)))
    assert server.ranges(NAME) == ["bytes=5000-", None]


def test_always_416(server: FileServer, folder: Path) -> None:
    put_part(folder, BYTES[:5000])
    server.on(NAME, replaced(416))
    assert "HTTP 416" in refuse(Downloads(folder), remote(server.url(NAME)))
    assert server.ranges(NAME) == ["bytes=5000-", None]


def test_resumed_and_wrong_twice_is_refused(server: FileServer, folder: Path) -> None:
    put_part(folder, BYTES[:5000])
    server.on(NAME, wrong_byte(200_000))
    refuse(Downloads(folder), remote(server.url(NAME)), UserError)
    assert server.ranges(NAME) == ["bytes=5000-", None]


# --- what is not the file -----------------------------------------------------------------------


def test_wrong_byte(server: FileServer, folder: Path) -> None:
    changed = bytearray(BYTES)
    changed[-1] ^= 1
    server.on(NAME, wrong_byte(len(BYTES) - 1), times=1)
    file = remote(server.url(NAME))
    message = refuse(Downloads(folder), file, UserError)
    assert hashlib.sha256(BYTES).hexdigest() in message
    assert hashlib.sha256(bytes(changed)).hexdigest() in message
    assert "try again" in message
    assert server.count(NAME) == 1
    fetch(Downloads(folder), file)


@pytest.mark.parametrize("known", [True, False])
def test_another_file(server: FileServer, folder: Path, known: bool) -> None:
    server.files[NAME] = BYTES[:1000]
    size = len(BYTES) if known else None
    refuse(Downloads(folder), remote(server.url(NAME), bytes=size), UserError)


@pytest.mark.parametrize("frame", [None, unframed, chunked], ids=["length", "no length", "chunks"])
def test_longer_than_on_record(
    server: FileServer, folder: Path, frame: Callable[[Answer, bytes | None], None] | None
) -> None:
    server.files[NAME] = BYTES * 20
    server.on(NAME, *([frame] if frame else []))
    message = refuse(Downloads(folder), remote(server.url(NAME)), UserError)
    assert f"longer than its {len(BYTES)} bytes" in message


def test_endless_answer_is_cut_off(server: FileServer, folder: Path) -> None:
    """No more is read than needed to see that it is too long."""
    gate = server.gate()
    server.files[NAME] = BYTES * 20
    server.on(NAME, wait_at(len(BYTES) + 100_000, gate))
    message = refuse(Downloads(folder), remote(server.url(NAME)), UserError)
    assert "longer than" in message
    assert not gate.expired.is_set()


def test_more_than_announced_is_not_read(server: FileServer, folder: Path) -> None:
    server.files[NAME] = BYTES + b"and more"
    server.on(NAME, header("Content-Length", str(len(BYTES))))
    fetch(Downloads(folder), remote(server.url(NAME)))


@pytest.mark.parametrize("frame", [[], [unframed], [chunked]], ids=["length", "none", "chunks"])
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/json"])
@pytest.mark.parametrize("size", [None, 10, 300_000])
def test_web_page(
    server: FileServer, folder: Path, kind: str, size: int | None, frame: list[Any]
) -> None:
    server.on(NAME, replaced(200, PAGE, {"Content-Type": kind}), *frame)
    message = refuse(Downloads(folder), remote(server.url(NAME), bytes=size), UserError)
    assert "a web page, such as a login or an error page" in message
    assert server.count(NAME) == 1


def test_web_page_by_its_type_alone(server: FileServer, folder: Path) -> None:
    server.on(NAME, replaced(200, b"who are you?", {"Content-Type": "text/html"}))
    message = refuse(Downloads(folder), remote(server.url(NAME)), UserError)
    assert "a web page" in message


def test_cut_web_page_leaves_no_part(server: FileServer, folder: Path) -> None:
    server.on(NAME, replaced(200, PAGE), cut(100))
    refuse(Downloads(folder), remote(server.url(NAME)))


def test_right_file_under_a_wrong_type(server: FileServer, folder: Path) -> None:
    server.on(NAME, header("Content-Type", "text/html"))
    fetch(Downloads(folder), remote(server.url(NAME)))


def test_compressed_unasked(server: FileServer, folder: Path) -> None:
    server.on(NAME, header("Content-Encoding", "gzip"))
    message = refuse(Downloads(folder), remote(server.url(NAME)))
    assert "compressed" in message


def test_the_server_compresses_when_asked(server: FileServer) -> None:
    """Or the tests above would not show that it was not asked."""
    assert server.answer(Seen(NAME, {"accept-encoding": "gzip"})).body[:2] == b"\x1f\x8b"


# --- answers that are no file -------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_errors_are_tried_again(
    server: FileServer, folder: Path, status: int, pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(transfer, "BACKOFF_SECONDS", 0.5)
    server.on(NAME, replaced(status), times=4)
    fetch(Downloads(folder), remote(server.url(NAME)))
    assert server.count(NAME) == 5
    assert pauses == [1, 2, 4]  # the first one is none


@pytest.mark.parametrize(
    ("value", "waited"),
    [("7", [7, 7]), ("3600", [30, 30]), ("soon", []), ("-5", []), ("", [])],
)
def test_retry_after(
    server: FileServer, folder: Path, value: str, waited: list[float], pauses: list[float]
) -> None:
    server.on(NAME, replaced(503, headers={"Retry-After": value}), times=2)
    fetch(Downloads(folder), remote(server.url(NAME)))
    assert server.count(NAME) == 3
    assert pauses == waited


def test_retry_after_a_date(server: FileServer, folder: Path, pauses: list[float]) -> None:
    far = formatdate(4_000_000_000, usegmt=True)
    server.on(NAME, replaced(503, headers={"Retry-After": far}), times=1)
    fetch(Downloads(folder), remote(server.url(NAME)))
    assert pauses == [30]


def test_always_503(server: FileServer, folder: Path) -> None:
    server.on(NAME, replaced(503))
    message = refuse(Downloads(folder), remote(server.url(NAME)))
    assert "HTTP 503, at the last of 5 tries" in message
    assert server.count(NAME) == 5


def test_503_in_the_middle_keeps_the_part(server: FileServer, folder: Path) -> None:
    server.on(NAME, cut(100_000), times=1)
    server.on(NAME, replaced(503, PAGE, {"Content-Type": "text/html"}), times=2)
    fetch(Downloads(folder), remote(server.url(NAME)))
    assert server.ranges(NAME) == [None, *["bytes=100000-"] * 3]


@pytest.mark.parametrize("status", [401, 403, 404, 410, 204, 206, 304, 501])
def test_other_answers_are_final(server: FileServer, folder: Path, status: int) -> None:
    server.on(NAME, replaced(status, b"" if status in (204, 304) else PAGE))
    assert f"HTTP {status}" in refuse(Downloads(folder), remote(server.url(NAME)))
    assert server.count(NAME) == 1


def test_no_server(folder: Path) -> None:
    with FileServer() as gone:
        url = gone.url(NAME)
    message = refuse(Downloads(folder), remote(url))
    assert "the server cannot be reached, at the last of 5 tries" in message


def test_no_such_host(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        import socket

        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", fail)
    message = refuse(Downloads(folder), remote(f"https://nowhere.invalid/{NAME}"))
    assert "host name cannot be resolved" in message


def test_no_proxy_there(server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of the environment count."""
    with FileServer() as gone:
        monkeypatch.setenv("http_proxy", gone.root)
    message = refuse(Downloads(folder), remote(server.url(NAME)))
    assert "proxy cannot be reached" in message
    assert server.seen == []


# --- redirects ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect(server: FileServer, folder: Path, status: int) -> None:
    server.on("old/place.json", redirect("/old/other.json", status))
    server.on("old/other.json", redirect(server.url(NAME), status))
    server.on(NAME, cut(100_000), times=1)
    fetch(Downloads(folder), remote(server.url("old/place.json")))
    assert server.ranges(NAME) == [None, "bytes=100000-"]


def test_redirect_loop(server: FileServer, folder: Path) -> None:
    server.on("a", redirect("/b"))
    server.on("b", redirect("/a"))
    message = refuse(Downloads(folder), remote(server.url("a")))
    assert "redirects without end" in message
    assert len(server.seen) == transfer.REDIRECTS + 1


def test_redirect_to_another_scheme(server: FileServer, folder: Path) -> None:
    server.on(NAME, redirect("ftp://127.0.0.1/x"))
    assert "not a usable address" in refuse(Downloads(folder), remote(server.url(NAME)))


@pytest.mark.parametrize("way", ["https", "http"])
def test_redirect_out_of_https(
    server: FileServer, folder: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server stands in for one with TLS: what is sent to https://secure is sent to it."""
    send = HTTPAdapter.send

    def stand_in(self: HTTPAdapter, request: Any, *args: Any, **more: Any) -> requests.Response:
        asked = request.url
        request.url = asked.replace("https://secure", server.root)
        response = send(self, request, *args, **more)
        response.url = request.url = asked
        return response

    monkeypatch.setattr(HTTPAdapter, "send", stand_in)
    to = server.url(NAME) if way == "http" else f"https://secure/{NAME}"
    server.on("start", redirect("/middle"))
    server.on("middle", redirect(to))
    file = remote("https://secure/start")
    if way == "https":
        fetch(Downloads(folder), file)
        return
    assert "redirects from https to http" in refuse(Downloads(folder), file)
    assert [seen.path for seen in server.seen] == ["start", "middle"]


# --- mirrors ------------------------------------------------------------------------------------


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A folder that holds the file."""
    path = tmp_path / "mirror" / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(BYTES)
    return tmp_path / "mirror"


@pytest.mark.parametrize("offline", [False, True])
def test_mirror_folder(server: FileServer, folder: Path, mirror: Path, offline: bool) -> None:
    put_part(folder, b"from before")
    fetch(Downloads(folder, str(mirror), offline), remote(server.url(NAME)))
    shutil.rmtree(mirror)
    fetch(Downloads(folder), remote(server.url(NAME)))  # it does not depend on the mirror
    assert server.seen == []


def test_mirror_url(server: FileServer, folder: Path) -> None:
    server.files[f"some/{NAME}"] = server.files.pop(NAME)
    server.on(f"some/{NAME}", cut(100_000), times=1)
    fetch(Downloads(folder, server.url("some/")), remote(server.url(NAME)))
    assert server.ranges(f"some/{NAME}") == [None, "bytes=100000-"]
    assert server.count(NAME) == 0


def test_mirror_url_lacks_the_file(server: FileServer, folder: Path) -> None:
    fetch(Downloads(folder, server.url("some")), remote(server.url(NAME)))
    assert server.count(f"some/{NAME}") == 1


def test_mirror_folder_lacks_the_file(server: FileServer, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mirror" / NAME).mkdir(parents=True)  # a folder in its place is no file either
    fetch(Downloads(folder, str(tmp_path / "mirror")), remote(server.url(NAME)))


def test_mirror_cannot_be_reached(server: FileServer, folder: Path) -> None:
    with FileServer() as gone:
        mirror = gone.url("some").replace("//", "//me:secret@")
    fetch(Downloads(folder, mirror), remote(server.url(NAME)))
    server.on(NAME, replaced(404))
    shutil.rmtree(folder)
    message = refuse(Downloads(folder, mirror), remote(server.url(NAME)))
    assert "mirror http://127.0.0.1" in message
    assert "network: HTTP 404" in message
    assert "secret" not in message


def test_passwords_are_not_shown() -> None:
    assert _shown("http://user:pass@word@host:80/a@b") == "http://host:80/a@b"
    assert _shown("a@b/c") == "a@b/c"  # a folder


@pytest.mark.parametrize("kind", ["folder", "url"])
def test_mirror_with_a_wrong_byte(
    server: FileServer, folder: Path, mirror: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = damaged(BYTES)
    (mirror / NAME).write_bytes(wrong)
    with FileServer(folder=mirror) as other:
        place = str(mirror) if kind == "folder" else other.root
        fetch(Downloads(folder, place), remote(server.url(NAME)))
        err = capfd.readouterr().err
        assert err.count("\n") == 1
        for part in (
            NAME, place, hashlib.sha256(wrong).hexdigest(), hashlib.sha256(BYTES).hexdigest(),
        ):  # fmt: skip
            assert part in err
        assert server.ranges(NAME) == [None]
        assert (mirror / NAME).read_bytes() == wrong

        shutil.rmtree(folder)
        server.on(NAME, wrong_byte(1))
        refuse(Downloads(folder, place), remote(server.url(NAME)), UserError)

        shutil.rmtree(folder)
        message = refuse(Downloads(folder, place, offline=True), remote(server.url(NAME)))
        assert ("a wrong copy" in message) == (kind == "folder")
        assert (hashlib.sha256(wrong).hexdigest() in message) == (kind == "folder")


@pytest.mark.parametrize("where", ["nowhere", "a-file", "ftp://127.0.0.1/x"])
def test_no_such_mirror(server: FileServer, folder: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "a-file").write_text("")
    place = where if "://" in where else str(tmp_path / where)
    with pytest.raises(UserError, match="DIGER_BENCH_MIRROR must be") as caught:
        Downloads(folder, place).get(remote(server.url(NAME)))
    assert place in str(caught.value)
    assert server.seen == []
    assert not folder.exists()


# --- offline ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["none", "folder", "url"])
def test_offline_asks_nobody(server: FileServer, folder: Path, tmp_path: Path, way: str) -> None:
    mirror = {"none": None, "folder": str(tmp_path), "url": server.url("some")}[way]
    message = refuse(Downloads(folder, mirror, offline=True), remote(server.url(NAME)))
    assert "DIGER_BENCH_OFFLINE" in message
    assert ("no such file" in message) == (way == "folder")
    assert server.seen == []


@pytest.mark.parametrize(
    ("value", "offline"), [("1", True), ("true", True), ("0", False), ("", False), ("No", False)]
)
def test_from_environment(
    tmp_path: Path, value: str, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIGER_BENCH_OFFLINE", value)
    monkeypatch.setenv("DIGER_BENCH_MIRROR", "m" if offline else "")
    expected = Downloads(tmp_path / "downloads", "m" if offline else None, offline)
    assert Downloads.from_environment(tmp_path) == expected


# --- what is there already ----------------------------------------------------------------------


@pytest.fixture
def stored(folder: Path) -> Path:
    """The file in the folder."""
    path = folder / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(BYTES)
    return path


def test_damaged_copy_is_fetched_anew(
    server: FileServer, folder: Path, stored: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stored.write_bytes(damaged(BYTES))
    fetch(Downloads(folder), remote(server.url(NAME)))
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert f"{stored} is damaged" in err


def test_damaged_copy_offline(server: FileServer, folder: Path, stored: Path) -> None:
    stored.write_bytes(BYTES[:-1])
    message = refuse(Downloads(folder, offline=True), remote(server.url(NAME)))
    assert "was damaged and is removed" in message


def test_a_good_copy_is_only_read(server: FileServer, folder: Path, stored: Path) -> None:
    """So it works in a folder that cannot be written to, and with any mirror setting."""
    places = [stored, stored.parent, folder]
    modes = [place.stat().st_mode for place in places]
    for place in places:
        place.chmod(0o555)
    before = [place.stat().st_mtime_ns for place in places]
    try:
        fetch(Downloads(folder, "no such mirror"), remote(server.url(NAME)))
    finally:
        for place, mode in zip(places, modes, strict=True):
            place.chmod(mode)
    assert [place.stat().st_mtime_ns for place in places] == before
    assert list(stored.parent.iterdir()) == [stored]
    assert server.seen == []


def test_folder_is_a_file(server: FileServer, folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(UserError, match=f"^cannot write to {folder}/letter .*directory"):
        Downloads(folder).get(remote(server.url(NAME)))
    assert server.seen == []


def test_file_is_a_folder(server: FileServer, folder: Path) -> None:
    (folder / NAME).mkdir(parents=True)
    with pytest.raises(UserError, match=f"^{folder / NAME} cannot be read: Is a directory$"):
        Downloads(folder).get(remote(server.url(NAME)))
    assert server.seen == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_disk(server: FileServer, folder: Path) -> None:
    put_part(folder, b"").unlink()
    (folder / f"{NAME}.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write to .*letter \(No space left on device\)"):
        Downloads(folder).get(remote(server.url(NAME)))
    assert not (folder / NAME).exists()


# --- more than one process, and processes that die ----------------------------------------------

CHILD = """
import sys
from pathlib import Path
from benchmark.data.download import Downloads, RemoteFile
folder, name, url, sha256, size = sys.argv[1:]
Downloads(Path(folder)).get(RemoteFile(name, url, sha256=sha256, bytes=int(size)))
"""


def start(folder: Path, file: RemoteFile) -> subprocess.Popen[str]:
    arguments = [str(folder), file.name, file.url, str(file.sha256), str(file.bytes)]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], cwd=REPO, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_fetch_once(server: FileServer, folder: Path) -> None:
    gate = server.gate()
    server.on(NAME, wait_at(100_000, gate))
    file = remote(server.url(NAME))
    with start(folder, file) as first:
        assert gate.reached.wait(60)
        with start(folder, file) as second:
            assert second.stderr is not None
            assert "waiting for another process" in second.stderr.readline()
            gate.opened.set()
            assert (second.wait(), first.wait()) == (0, 0)
            assert second.stderr.read() == ""
            assert first.stderr is not None
            assert first.stderr.read() == ""  # nothing of pooch's either
    assert server.ranges(NAME) == [None]
    fetch(Downloads(folder), file)


def test_two_threads_fetch_once(server: FileServer, folder: Path) -> None:
    file = remote(server.url(NAME))
    threads = [threading.Thread(target=Downloads(folder).get, args=(file,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.ranges(NAME) == [None]
    fetch(Downloads(folder), file)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle(server: FileServer, folder: Path, end: signal.Signals) -> None:
    """The next process goes on from the last byte that came."""
    gate = server.gate()
    server.on(NAME, wait_at(1_000, gate), times=1)
    file = remote(server.url(NAME))
    part = folder / f"{NAME}.part"
    with start(folder, file) as child:
        assert gate.reached.wait(60)
        while not gate.expired.wait(0.01) and (not part.exists() or part.stat().st_size < 1_000):
            pass
        child.send_signal(end)
        assert child.wait() != 0
    assert not gate.expired.is_set()
    assert_clean(folder, part=True)
    fetch(Downloads(folder), file)
    assert server.ranges(NAME) == [None, "bytes=1000-"]


# --- the real thing -----------------------------------------------------------------------------


@pytest.mark.skipif(not Path(REAL_MIRROR or "-").is_dir(), reason="DIGER_BENCH_MIRROR is no folder")
def test_real_file_over_http(folder: Path) -> None:
    name = "letter/Yelp.inter.json"
    with FileServer(folder=Path(REAL_MIRROR)) as server:
        server.on(name, cut(2_500_000), times=1)
        file = RemoteFile(
            name,
            server.url(name),
            sha256="22069fef8afd1d53fe9e0aaa385a6c93f7b43e43574fb10f5f5155fa2c869a97",
            git_blob="c80dd3c4131613d694e6be909f0485fcec3b87e3",
            bytes=5_117_807,
        )
        path = Downloads(folder).get(file)
        assert server.ranges(name) == [None, "bytes=2500000-"]
    assert path.stat().st_size == 5_117_807
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name, f"{path.name}.lock"]
