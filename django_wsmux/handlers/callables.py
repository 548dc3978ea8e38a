"""Checks of the functions that a project defines, and of their results.

All of them must be synchronous code. Calling an ``async def`` or a generator function runs none of
its code, so a socket would be open and silent for no visible reason. Both raise an error when they
are passed in, or else when they return.
"""

from __future__ import annotations

import inspect
from functools import partial
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final

from asgiref.sync import iscoroutinefunction
from django.http import HttpResponseBase

from ..logs import LogLimit, get_logger

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
    "this must be synchronous code, which may wait without blocking other sockets. Write def "
    "instead of async def, without await, and call async functions with async_to_sync()"
)

_GENERATOR: Final = "calling it would run none of its code. Remove yield, and send with send()"


def name_of(function: Any) -> str:
    """Return the name of a function, for an error message."""
    while isinstance(function, partial):
        function = function.func
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(function)


def require_plain(function: Any) -> None:
    """Raise if calling a function would run none of its code.

    Raises:
        TypeError: the function is async, or has ``yield`` in it.
    """
    # Calling an object calls a method of its class.
    for each in (function, getattr(type(function), "__call__", None)):  # noqa: B004
        if iscoroutinefunction(each) or inspect.isasyncgenfunction(each):
            raise TypeError(f"{name_of(function)} is async: {_ASYNC}")
        if inspect.isgeneratorfunction(each):
            raise TypeError(f"{name_of(function)} is a generator function: {_GENERATOR}")


def require_arguments(function: Any, *names: str, more: bool = False) -> None:
    """Raise if a function cannot be called with these arguments.

    Args:
        function: the function; without ``self``.
        names: names of the arguments, for the error.
        more: whether further arguments may follow.

    Raises:
        TypeError: the function takes other arguments.
    """
    try:
        # Not the signature of the wrapped function: a decorator may add arguments.
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
    """Return the result of a function, unless its code has not run yet.

    Raises:
        TypeError: the result is a coroutine, another awaitable, or a generator.
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
    """Log a view's return value that was probably meant to be sent: only ``send()`` sends.

    Args:
        result: the value, after ``require_done()``.
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
    """Return the name of the function of a coroutine or generator, if it has one."""
    name = getattr(result, "__qualname__", None)
    return f" of {name}()" if name else ""


#: Notes on code written for other packages, by part of Python's error message.
_HABITS: Final = {
    "argument 'text_data'": "send(text_data=...) belongs to Django Channels: write send(text)",
    "argument 'bytes_data'": "send(bytes_data=...) belongs to Django Channels: write send(data)",
    "required positional argument: 'websocket'": "is the view decorated with @websocket?",
}


def explain(error: BaseException) -> None:
    """Add a note to an error of a view if its cause is a common one."""
    if isinstance(error, TypeError):
        text = str(error)
        for said, note in _HABITS.items():
            if said in text and note not in getattr(error, "__notes__", ()):
                error.add_note(note)
