"""What a command line does with bad input."""

from __future__ import annotations

import sys
from collections.abc import Callable

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
