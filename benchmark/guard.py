"""What a command line does with bad input."""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmark.errors import UserError


def guard(action: Callable[[], None]) -> None:
    """Run ``action``; bad input ends in one line on standard error and exit code 2."""
    try:
        action()
    except (UserError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
