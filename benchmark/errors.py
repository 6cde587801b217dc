"""The one kind of error that a user can cause and mend."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong and what to do about it.

    Command lines print it as ``error: <message>`` and exit with code 2, without a traceback.
    """
