"""Wrappers for the response of a WSGI application that is not sent yet.

Middleware and agents that wrap an application may return any iterable, and may call
``start_response()`` late (PEP 3333).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Any

__all__ = ["BegunBody", "InContext"]


class BegunBody:
    """A body that has been read in part.

    Args:
        items: the items that were read, and the rest.
        close: closes the body.
    """

    def __init__(self, items: Iterator[bytes], close: Callable[[], None]) -> None:
        self._items = items
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return self._items


class InContext:
    """A response that is iterated over and closed in the context of its handshake.

    So receivers of ``request_finished`` see the context of the handshake, such as its caches.

    Args:
        context: the context of the handshake.
        response: the response of the application.
    """

    __slots__ = ("_context", "_response")

    def __init__(self, context: Context, response: Any) -> None:
        self._context = context
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the body."""
        parts = self._context.run(iter, self._response)
        while (part := self._context.run(next, parts, None)) is not None:
            yield part

    def close(self) -> None:
        """Close the response, if it has a ``close()``."""
        close = getattr(self._response, "close", None)
        if close is not None:
            self._context.run(close)
