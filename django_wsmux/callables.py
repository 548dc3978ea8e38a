"""What a project gives us to call, and what comes back.

Everything here is plain synchronous code. Calling an ``async def``, or a function with ``yield`` in
it, runs nothing of it, so a socket would be open and silent for no visible reason. Both are refused
where they are given, and what slips through is an error where it comes back.
"""

from __future__ import annotations

import inspect
from functools import partial
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final

from asgiref.sync import iscoroutinefunction
from django.http import HttpResponseBase

from .server.logs import get_logger
from .server.refusals import LogLimit

__all__ = [
    "explain",
    "name_of",
    "note_result",
    "require_arguments",
    "require_done",
    "require_plain",
]

logger = get_logger("django_wsmux.views")

_lost_results: Final = LogLimit()

_ASYNC: Final = (
    "this must be synchronous code, and to wait in it blocks no other socket. Write def instead of "
    "async def, without await, and call async functions by async_to_sync()"
)

_GENERATOR: Final = "calling it would run none of its code. Remove yield, and send with send()"


def name_of(function: Any) -> str:
    """Return what to call a function in an error."""
    while isinstance(function, partial):
        function = function.func
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(function)


def require_plain(function: Any) -> None:
    """Raise if calling a function would run nothing of it.

    Raises:
        TypeError: it is async, or has ``yield`` in it.
    """
    # An object is called by a method of its class.
    for each in (function, getattr(type(function), "__call__", None)):  # noqa: B004
        if iscoroutinefunction(each) or inspect.isasyncgenfunction(each):
            raise TypeError(f"{name_of(function)} is async: {_ASYNC}")
        if inspect.isgeneratorfunction(each):
            raise TypeError(f"{name_of(function)} is a generator function: {_GENERATOR}")


def require_arguments(function: Any, *names: str, more: bool = False) -> None:
    """Raise if a function cannot be called with so many arguments.

    Args:
        function: what is to be called; without ``self``.
        names: of the arguments, for the error.
        more: others may follow.

    Raises:
        TypeError: it takes others.
    """
    try:
        # Not of what a decorator has around it, which may add arguments.
        signature = inspect.signature(function, follow_wrapped=False)
    except ValueError:
        return  # written in C
    try:
        (signature.bind_partial if more else signature.bind)(*names)
    except TypeError as error:
        arguments = ", ".join(names) + (", ..." if more else "")
        raise TypeError(
            f"{name_of(function)}{signature} is called with ({arguments}): {error}"
        ) from None


def require_done(result: Any, function: Any) -> Any:
    """Return what a function has returned, unless that is still to be run.

    Raises:
        TypeError: it is a coroutine, another awaitable, or a generator.
    """
    if result is None:
        return None
    if hasattr(result, "__await__") or isinstance(result, AsyncGeneratorType):
        if inspect.iscoroutine(result):
            result.close()  # else Python warns that it was never awaited
        kind = type(result).__name__
        raise TypeError(f"{name_of(function)} returned an unawaited {kind}{_of(result)}: {_ASYNC}")
    if isinstance(result, GeneratorType):
        raise TypeError(f"{name_of(function)} returned a generator{_of(result)}: {_GENERATOR}")
    return result


def note_result(result: Any, function: Any) -> None:
    """Log that a view returned what it probably means to send: only ``send()`` sends.

    Args:
        result: what it returned, after ``require_done()``.
        function: the view, or a method of it.
    """
    if not isinstance(result, (str, bytes, bytearray, dict, list, HttpResponseBase)):
        return
    suffix = _lost_results.suffix()
    if suffix is not None:
        logger.warning(
            "%s returned a value of type %s, which is not sent: call send() or send_json(), or "
            "close() to end the socket%s",
            name_of(function),
            type(result).__name__,
            suffix,
        )


def _of(result: Any) -> str:
    """Return which function a coroutine or generator is of, where it says so."""
    name = getattr(result, "__qualname__", None)
    return f" of {name}()" if name else ""


#: What users of other packages write, by what Python says of it.
_HABITS: Final = {
    "argument 'text_data'": "send(text_data=...) belongs to Django Channels: write send(text)",
    "argument 'bytes_data'": "send(bytes_data=...) belongs to Django Channels: write send(data)",
    "required positional argument: 'websocket'": "is the view decorated with @websocket?",
}


def explain(error: BaseException) -> None:
    """Add a note to an error of a view that has a usual cause."""
    if isinstance(error, TypeError):
        text = str(error)
        for said, note in _HABITS.items():
            if said in text and note not in getattr(error, "__notes__", ()):
                error.add_note(note)
