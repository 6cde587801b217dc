"""One file over HTTP: resumed where it broke off, tried again with growing pauses."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests
from tqdm import tqdm
from urllib3 import Retry
from urllib3 import exceptions as http

from benchmark.data.checksum import RemoteFile, is_web_page, mismatch

TRIES = 5
BACKOFF_SECONDS = 0.5  # The pauses are 0, 2, 4 and 8 times this, or what the server asks for.
LONGEST_PAUSE_SECONDS = 30
TIMEOUT_SECONDS = (10.0, 60.0)  # to connect; between two pieces
REDIRECTS = 10
CHUNK_BYTES = 1 << 16
BAR_BYTES = 1_000_000  # Less than this needs no progress bar.

# Answers that another try may mend.
_PASSING = (429, 500, 502, 503, 504)


class Lacking(Exception):
    """A place does not give the file; the message says why in a few words."""


class Wrong(Exception):
    """What a place gave is not the file; the message says in what."""


class Broken(Exception):
    """A try that failed in a way that the next one may not."""

    def __init__(self, reason: str, response: requests.Response | None = None) -> None:
        super().__init__(reason)
        self.response = response


def fetch_http(url: str, file: RemoteFile, part: Path) -> None:
    """Fetch over HTTP, resuming and trying again."""
    with _Session() as session:
        _Http(session, url, file, part).fetch()


class _Http:
    """One fetch over HTTP into the part file.

    The part is good as far as it goes, or removed: what is a web page, or too long, or has a
    wrong checksum does not stay.
    """

    def __init__(self, session: requests.Session, url: str, file: RemoteFile, part: Path) -> None:
        self._session, self._url, self._file, self._part = session, url, file, part
        self._resumed = False
        self._type = ""

    def fetch(self) -> None:
        # What was resumed and is wrong may be wrong in the old piece only.
        for last in (False, True):
            self._resumed = False
            try:
                self._transfer()
                check(self._file, self._part, self._type)
                return
            except Wrong:
                self._part.unlink(missing_ok=True)
                if last or not self._resumed:
                    raise

    def _transfer(self) -> None:
        retry = Retry(
            TRIES - 1,
            backoff_factor=BACKOFF_SECONDS,
            backoff_max=LONGEST_PAUSE_SECONDS,
            retry_after_max=LONGEST_PAUSE_SECONDS,
        )
        while True:
            try:
                self._try()
                return
            except Broken as broken:
                if self._part.exists() and self._is_page():
                    self._part.unlink()
                try:
                    retry = retry.increment("GET", self._url, error=http.HTTPError(str(broken)))
                except http.MaxRetryError:
                    raise Lacking(f"{broken}, at the last of {TRIES} tries") from None
                _pause(retry, broken.response)

    def _try(self) -> None:
        offset = self._part.stat().st_size if self._part.exists() else 0
        limit = self._file.bytes
        if limit is not None and offset > limit:
            self._part.unlink()
            offset = 0
        if offset and offset == limit:
            self._resumed = True  # Only the check is left to do.
            return
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            with self._session.get(
                self._url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS
            ) as response:
                start, end = self._span(response, offset)
                self._receive(response, start, end)
        except requests.exceptions.SSLError:
            raise Lacking("no trusted TLS connection") from None
        except requests.TooManyRedirects:
            raise Lacking("it redirects without end") from None
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            http.HTTPError,
        ) as error:
            raise Broken(_in_words(error)) from None
        except requests.RequestException as error:
            raise Lacking(f"not a usable address ({type(error).__name__})") from None

    def _span(self, response: requests.Response, offset: int) -> tuple[int, int | None]:
        """What the body covers: its first byte, and the end of the file where that is said."""
        status, headers = response.status_code, response.headers
        if status in _PASSING:
            raise Broken(f"HTTP {status}", response)
        if offset and status == 416:
            self._part.unlink()
            raise Broken("HTTP 416")
        if status not in ((200, 206) if offset else (200,)):
            raise Lacking(f"HTTP {status}")
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Lacking("it is sent compressed, which was not asked for")
        self._type = headers.get("Content-Type", "")
        if status == 200:
            length = headers.get("Content-Length", "")
            return 0, int(length) if length.isdecimal() else self._file.bytes
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        total = int(span[2]) if span and span[2] != "*" else self._file.bytes
        if span is None or int(span[1]) != offset or self._file.bytes not in (None, total):
            self._part.unlink()
            raise Broken("a wrong Content-Range", response)
        self._resumed = True
        return offset, total

    def _receive(self, response: requests.Response, start: int, end: int | None) -> None:
        limit, size = self._file.bytes, start
        with (
            self._part.open("ab" if start else "wb") as out,
            _bar(self._file.name, start, end if limit is None else limit) as bar,
        ):
            # read1, since it gives what there is: nothing that came is lost with the rest.
            while piece := response.raw.read1(CHUNK_BYTES, decode_content=False):
                out.write(piece)
                out.flush()  # A process that is killed has lost nothing.
                bar.update(len(piece))
                size += len(piece)
                if limit is not None and size > limit:
                    break
        if limit is not None and size > limit:
            raise Wrong(_PAGE if self._is_page() else f"it is longer than its {limit} bytes")
        if end is not None and size < end:
            if self._is_page():
                raise Wrong(_PAGE)
            raise Broken(f"the transfer broke off at {size} of {end} bytes")

    def _is_page(self) -> bool:
        return _is_page(self._file, self._part, self._type)


class _Session(requests.Session):
    """Proxies and certificates as the environment says; no way back from https to http."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = REDIRECTS
        # Compressed, neither the byte counts nor the ranges would be those of the file.
        self.headers.update({"User-Agent": "diger-bench", "Accept-Encoding": "identity"})

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        if _is_secure(resp.url) and not _is_secure(urljoin(resp.url, target)):
            raise Lacking("it redirects from https to http")
        return target


_PAGE = "it is a web page, such as a login or an error page"


def _is_page(file: RemoteFile, path: Path, content_type: str) -> bool:
    if file.name.endswith((".html", ".htm")):
        return False
    return content_type.lower().startswith("text/html") or is_web_page(path)


def check(file: RemoteFile, path: Path, content_type: str = "") -> None:
    """Raise `Wrong` unless this is the file."""
    fault = mismatch(file, path)
    if fault is not None:
        raise Wrong(_PAGE if _is_page(file, path, content_type) else str(fault))


def _pause(retry: Retry, response: requests.Response | None) -> None:
    try:
        retry.sleep(None if response is None else response.raw)
    except http.InvalidHeader:  # A Retry-After that is neither a number nor a date.
        retry.sleep()


def _in_words(error: Exception) -> str:
    cause = error.args[0] if error.args else None
    cause = getattr(cause, "reason", cause)
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy cannot be reached"
    if isinstance(cause, http.NameResolutionError):
        return "its host name cannot be resolved"
    if isinstance(cause, http.NewConnectionError):  # Counts as a timeout too, so it comes first.
        return "the server cannot be reached"
    if any(isinstance(one, requests.Timeout | http.TimeoutError) for one in (error, cause)):
        return "no answer in time"
    return "the transfer broke off"


@contextmanager
def _bar(name: str, done: int, total: int | None) -> Iterator[tqdm[Any]]:
    # In a log file a line now and then is enough.
    pause = 0.2 if sys.stderr.isatty() else 15.0
    with tqdm(
        desc=name, initial=done, total=total, unit="B", unit_scale=True, mininterval=pause,
        disable=total is not None and total < BAR_BYTES,
    ) as bar:  # fmt: skip
        yield bar


def _is_secure(url: str) -> bool:
    return url.lower().startswith("https:")
