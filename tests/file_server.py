"""An HTTP file server on 127.0.0.1 that misbehaves when told to.

with FileServer({"a/b.txt": b"..."}) as server:
    server.on("a/b.txt", cut(1000), times=1)
    fetch(server.url("a/b.txt"))
    assert server.ranges("a/b.txt") == [None, "bytes=1000-"]
"""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass
class Answer:
    """What is about to be sent; a fault changes it.

    Attributes:
        body: the bytes announced by Content-Length, unless ``headers`` says otherwise.
        sent: how many bytes of the body go out before the connection is cut; None: all.
        framed: whether the length is announced; if not, the body ends with the connection.
        gate: where to stop and wait after what is sent, with the connection open.
    """

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    sent: int | None = None
    framed: bool = True
    gate: Gate | None = None


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]  # names in lower case


@dataclass(frozen=True)
class Gate:
    """A place in an answer at which the server waits, for 20 seconds at most.

    Attributes:
        reached: the server waits, or has waited.
        opened: set it to let the server go on.
        expired: nobody opened it in time.
    """

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)
    expired: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        self.reached.set()
        if not self.opened.wait(20):
            self.expired.set()


#: Changes the answer; gets the whole file (None: there is none) besides.
Fault = Callable[[Answer, bytes | None], None]


class FileServer:
    """Serves ``files`` (name -> content) and the files below ``folder``, with ranges."""

    def __init__(self, files: Mapping[str, bytes] | None = None, folder: Path | None = None):
        self.files = dict(files or {})
        self.folder = folder
        self.seen: list[Seen] = []
        self._faults: dict[str, list[tuple[tuple[Fault, ...], int | None]]] = {}
        self._gates: list[Gate] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"server_files": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for gate in self._gates:
            gate.opened.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def url(self, name: str) -> str:
        return f"{self.root}/{name}"

    def on(self, name: str, *faults: Fault, times: int | None = None) -> None:
        """Answer the next ``times`` requests for a name so (None: all from there on). Further
        calls queue up."""
        self._faults.setdefault(name, []).append((faults, times))

    def gate(self) -> Gate:
        """A gate that opens at the latest when the server stops."""
        self._gates.append(Gate())
        return self._gates[-1]

    def count(self, name: str) -> int:
        return len(self.ranges(name))

    def ranges(self, name: str) -> list[str | None]:
        """The Range header of each request for a name, in order; None for those without."""
        return [seen.headers.get("range") for seen in self.seen if seen.path == name]

    def answer(self, seen: Seen) -> Answer:
        with self._lock:
            self.seen.append(seen)
            faults = self._next_faults(seen.path)
        content = self._content(seen.path)
        answer = Answer(404, b"not here\n") if content is None else _plain(content, seen.headers)
        for fault in faults:
            fault(answer, content)
        return answer

    def _content(self, name: str) -> bytes | None:
        if name in self.files:
            return self.files[name]
        if self.folder is not None and ".." not in name and (self.folder / name).is_file():
            return (self.folder / name).read_bytes()
        return None

    def _next_faults(self, name: str) -> tuple[Fault, ...]:
        queue = self._faults.get(name, [])
        if not queue:
            return ()
        faults, times = queue[0]
        if times is not None:
            queue[0] = (faults, times - 1)
            if times == 1:
                queue.pop(0)
        return faults


def _plain(content: bytes, headers: Mapping[str, str]) -> Answer:
    """The right answer; ranges are of the form ``bytes=N-`` only."""
    wanted = headers.get("range")
    if wanted is not None:
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            return Answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return Answer(206, content[start:], {"Content-Range": span})
    if "gzip" in headers.get("accept-encoding", ""):
        return Answer(200, gzip.compress(content), {"Content-Encoding": "gzip"})
    return Answer(200, content, {"Accept-Ranges": "bytes"})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_files: FileServer

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server_files.answer(Seen(self.path.lstrip("/"), headers))
        self.send_response(answer.status)
        if answer.framed:
            answer.headers.setdefault("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(answer.body[: answer.sent])
            self.wfile.flush()
            if answer.gate is not None:
                answer.gate.wait()
                self.wfile.write(answer.body[answer.sent :] if answer.sent is not None else b"")
            elif answer.sent is not None or not answer.framed:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_WR)
        except OSError:
            self.close_connection = True  # The client went away, as some tests have it do.

    def log_message(self, *_: Any) -> None:
        pass


def cut(sent: int) -> Fault:
    """Close the connection after so many bytes of the body."""

    def fault(answer: Answer, _: bytes | None) -> None:
        answer.sent = sent

    return fault


def unframed(answer: Answer, _: bytes | None) -> None:
    """Do not say how long the body is."""
    answer.framed = False
    answer.headers["Connection"] = "close"


def chunked(answer: Answer, _: bytes | None) -> None:
    """Send the body in chunks, without saying how long it is."""
    half = len(answer.body) // 2
    pieces = [answer.body[:half], answer.body[half:], b""]
    answer.body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    answer.framed = False
    answer.headers["Transfer-Encoding"] = "chunked"


def no_ranges(answer: Answer, content: bytes | None) -> None:
    """Send the whole file whatever range is asked for."""
    if content is not None:
        answer.status, answer.body, answer.headers = 200, content, {}


def wrong_byte(at: int) -> Fault:
    """Another byte at this place of the file."""

    def fault(answer: Answer, content: bytes | None) -> None:
        assert content is not None
        place = at - (len(content) - len(answer.body))
        if place >= 0:
            body = bytearray(answer.body)
            body[place] ^= 1
            answer.body = bytes(body)

    return fault


def replaced(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Fault:
    """Another answer altogether."""

    def fault(answer: Answer, _: bytes | None) -> None:
        answer.status, answer.body, answer.headers = status, body, dict(headers or {})

    return fault


def redirect(to: str, status: int = 302) -> Fault:
    return replaced(status, b"", {"Location": to})


def header(name: str, value: str) -> Fault:
    """Say this in a header; the body stays."""

    def fault(answer: Answer, _: bytes | None) -> None:
        answer.headers[name] = value

    return fault


def wait_at(sent: int, gate: Gate) -> Fault:
    """Send so many bytes, then wait at the gate, then send the rest."""

    def fault(answer: Answer, _: bytes | None) -> None:
        answer.sent, answer.gate = sent, gate

    return fault
