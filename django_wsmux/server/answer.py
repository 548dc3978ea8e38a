"""Holds the response of a WSGI application until it is decided how it is sent.

Middleware and agents that wrap an application may return any iterable, and may call
``start_response()`` late (PEP 3333).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context
from itertools import chain
from typing import Any

__all__ = ["Answer", "InContext"]

StartResponse = Callable[..., Any]


class Answer:
    """A response of the application.

    Attributes:
        status: status line without the version; empty until ``start_response()`` is called.
        headers: the headers of the response, including cookies.
    """

    def __init__(self) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self._body: Iterable[bytes] = ()
        # If items had to be read to learn the status: the rest of the body, and those items.
        self._rest: Iterator[bytes] | None = None
        self._first: list[bytes] = []
        self._write: Callable[[bytes], object] = self._first.append

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """Store status and headers; the last call counts."""
        self.status, self.headers = status, headers
        return lambda data: self._write(data)

    def receive(self, body: Iterable[bytes]) -> None:
        """Store the body; read from it until the status is known.

        Raises:
            RuntimeError: ``start_response()`` was never called.
        """
        self._body = body
        if self.status:
            return
        # A generator, which only starts to run at the first item.
        self._rest = iter(body)
        while not self.status:
            try:
                self._first.append(next(self._rest))
            except StopIteration:
                break
        if not self.status:
            raise RuntimeError("the application returned without calling start_response()")

    def discard(self) -> None:
        """Read the body to its end and discard the items."""
        for _ in self._body if self._rest is None else self._rest:
            pass

    def send(self, start_response: StartResponse) -> Iterable[bytes]:
        """Pass status and headers to the server; return the body for it to send and close."""
        self._write = start_response(self.status, self.headers)
        if self._rest is None and not self._first:
            return self._body
        rest = self._body if self._rest is None else self._rest
        return _Begun(chain(self._first, rest), self.close)

    def close(self) -> None:
        """Close the body, as a server does."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


class _Begun:
    """A body from which some items have been read already.

    Args:
        items: those items and the rest.
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
