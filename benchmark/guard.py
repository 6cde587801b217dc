"""What a command line does with bad input."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from benchmark.errors import UserError

Handler = Callable[[int, FrameType | None], None]


def guard(action: Callable[[], None], usage: str | None = None) -> None:
    """Run ``action``; bad input ends in one line on standard error and exit code 2.

    Args:
        usage: printed in its place where the command line asks for help; None: the action does it.
    """
    if usage and {"-h", "--help"} & set(sys.argv[1:]):
        print(usage.strip())
        return
    try:
        action()
    except (UserError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


#: What ends a process: Ctrl-C, a batch system, a terminal that is closed.
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_once(number: int, frame: FrameType | None) -> None:
    """A handler that ends this process as Ctrl-C does, after which no other signal is heard that
    would break its way out off: they often come in twos, to the group and to the process."""
    _replace(ENDINGS, _unheard)
    raise KeyboardInterrupt


@contextmanager
def ended_once() -> Iterator[None]:
    """Meanwhile `end_once` answers all that would end this process, but for what it ignores."""
    with _instead(ENDINGS, end_once):
        yield


@contextmanager
def undisturbed(*numbers: signal.Signals) -> Iterator[None]:
    """Meanwhile these signals are not heard: for a way out of a few seconds."""
    with _instead(numbers, _unheard):
        yield


def _unheard(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which processes started meanwhile would have, too."""


@contextmanager
def _instead(numbers: Sequence[signal.Signals], handler: Handler) -> Iterator[None]:
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = _replace(numbers, handler)
    try:
        yield
    finally:
        for number, one in before.items():
            signal.signal(number, one)


def _replace(numbers: Sequence[signal.Signals], handler: Handler) -> dict[signal.Signals, Any]:
    """The handlers until now; what is ignored, as by nohup, stays so."""
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: one for number, one in before.items() if one is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    return before
