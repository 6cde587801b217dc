"""What a command line does with bad input."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmark.errors import UserError


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


@contextmanager
def undisturbed() -> Iterator[None]:
    """Meanwhile Ctrl-C is not heard: for a way out of a few seconds, which a second one would break
    off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
