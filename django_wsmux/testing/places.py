"""Names of views, and the lines in which they wait, for the messages of assertions."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

from django.http import HttpRequest
from greenlet import greenlet

__all__ = ["place_of", "view_name"]

_PACKAGE = __name__.partition(".")[0] + "."


def view_name(request: HttpRequest) -> str:
    """Return the dotted path of the view to which the request was resolved."""
    match = request.resolver_match
    if match is None:
        return "its view"
    view = getattr(match.func, "view_class", match.func)
    return f"{view.__module__}.{getattr(view, '__qualname__', type(view).__qualname__)}"


def place_of(task: greenlet) -> str:
    """Return the line of the project's code in which a task waits, in words, or ``""``."""
    frame: FrameType | None = task.gr_frame
    while frame is not None:
        if not frame.f_globals.get("__name__", "").startswith(_PACKAGE):
            path, code = Path(frame.f_code.co_filename), frame.f_code
            if path.is_relative_to(Path.cwd()):
                path = path.relative_to(Path.cwd())
            if not path.is_relative_to(sys.prefix):
                return f" in {code.co_qualname}(), {path}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
