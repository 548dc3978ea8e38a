"""Which implementation serves the sockets: the one in C if it is built, else the one in Python."""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["WHY_NOT", "in_words", "is_compiled"]


def _why_not(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == f"{__package__}._reactor":
        return "it was not compiled when the package was installed"
    return f"it cannot be loaded: {error}"


try:
    from ._reactor import __name__ as _  # noqa: F401
except ImportError as error:
    WHY_NOT = _why_not(error)
else:
    WHY_NOT = ""

#: Whether the C extension is in use; if not, ``WHY_NOT`` is the reason.
is_compiled: Final = not WHY_NOT


def in_words() -> str:
    """Return which implementation is in use, and why: "C", or "Python, since it was not ..."."""
    words = "C" if is_compiled else f"Python, since {WHY_NOT}"
    return words if sys.platform == "linux" else f"{words}; without epoll, which only Linux has"
