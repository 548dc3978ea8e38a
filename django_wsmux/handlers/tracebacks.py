"""Shows where an error was raised, in one line and without the error's text.

The text may quote a peer's data: a token, or a megabyte.
"""

from __future__ import annotations

import traceback
from os.path import basename
from typing import Final

__all__ = ["raised_at"]

#: Maximum number of calls to show.
_MOST: Final = 5


def raised_at(error: BaseException) -> str:
    """Return the type of an error and the last lines of its traceback.

    The function that catches the error is left out.

    Example:
        ``TypeError in tokens.py:12 > query.py:633``
    """
    walk = traceback.walk_tb(error.__traceback__ and error.__traceback__.tb_next)
    calls = [f"{basename(frame.f_code.co_filename)}:{line}" for frame, line in walk]
    lines = " > ".join(calls[-_MOST:]) or "the call itself"
    return f"{type(error).__name__} in {lines}"
