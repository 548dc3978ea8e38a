"""What a WSGI application hands to its server, held until it is clear how it goes out.

What is put around an application, by middleware or by agents that wrap methods, may return any
iterable, and may call ``start_response()`` late (PEP 3333).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context
from itertools import chain
from typing import Any

__all__ = ["Answer", "InContext"]

StartResponse = Callable[..., Any]


class Answer:
    """One answer.

    Attributes:
        status: status line without the version; empty until ``start_response()`` is called.
        headers: of the response, cookies included.
    """

    def __init__(self) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self._body: Iterable[bytes] = ()
        # What is left of the body once some items were needed to learn the status, and those.
        self._rest: Iterator[bytes] | None = None
        self._first: list[bytes] = []
        self._write: Callable[[bytes], object] = self._first.append

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """Take status and headers; the last call counts."""
        self.status, self.headers = status, headers
        return lambda data: self._write(data)

    def receive(self, body: Iterable[bytes]) -> None:
        """Take the body; run what makes it until the status is known.

        Raises:
            RuntimeError: ``start_response()`` was never called.
        """
        self._body = body
        if self.status:
            return
        # A generator, which begins when it is asked for the first item.
        self._rest = iter(body)
        while not self.status:
            try:
                self._first.append(next(self._rest))
            except StopIteration:
                break
        if not self.status:
            raise RuntimeError("the application ended without a call of start_response()")

    def discard(self) -> None:
        """Run what makes the body to its end; the items go nowhere."""
        for _ in self._body if self._rest is None else self._rest:
            pass

    def send(self, start_response: StartResponse) -> Iterable[bytes]:
        """Hand status and headers to the server, and return the body for it to send and close."""
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
    """A body of which some items have been read already.

    Args:
        items: those and the rest.
        close: closes the body.
    """

    def __init__(self, items: Iterator[bytes], close: Callable[[], None]) -> None:
        self._items = items
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return self._items


class InContext:
    """A response that is iterated over and closed in the context of its handshake.

    So receivers of ``request_finished`` find what the handshake has used, such as its caches.

    Args:
        context: of the handshake.
        response: what the application has returned.
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
        """Close the response, where it can be closed."""
        close = getattr(self._response, "close", None)
        if close is not None:
            self._context.run(close)
