"""Exceptions of this package.

::

    OSError
    +-- WebSocketError
        +-- ConnectionClosed                     the socket is closed; code and reason say how
        +-- HandshakeRefused                     in tests: the handshake was refused
    AssertionError
    +-- RequestFailed                            in tests: a request was answered with errors
    BackendUnavailable                           other processes cannot be reached
    +-- BackendMisconfigured                     they never can, as the backend is set up

In a process that has imported gevent-websocket, ``ConnectionClosed`` is also a subclass of its
``WebSocketError``, so code written for that package catches it. This module does not import its
exceptions, since that would import all of gevent's I/O, also under ``manage.py runserver``.

A wrong setting raises Django's ``ImproperlyConfigured``; a wrong argument raises ``ValueError`` or
``TypeError``.
"""

from __future__ import annotations

import sys
from typing import Any

from .protocol.environ import wire_path

__all__ = [
    "BackendMisconfigured",
    "BackendUnavailable",
    "ConnectionClosed",
    "HandshakeRefused",
    "RequestFailed",
    "WebSocketError",
]


class WebSocketError(OSError):
    """Base class of errors of a WebSocket."""


class ConnectionClosed(WebSocketError):
    """The WebSocket is closed, so nothing can be sent on it.

    A view need not catch it: a view that ends with it has ended normally.

    Attributes:
        code: close code of the side that closed first; 1006 when the connection was lost
            without a close frame (RFC 6455 section 7.1.5).
        reason: the text of the close frame, or ``""``.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        _join_gevent_websocket()
        self.code = code
        self.reason = reason
        super().__init__(f"WebSocket closed with {code}" + (f": {reason}" if reason else ""))


class HandshakeRefused(WebSocketError):
    """A test's handshake was answered with an ordinary HTTP response instead of the 101.

    Attributes:
        response: the response, as ``django.test.Client`` returns it, with ``status_code``, ``url``
            of a redirect, ``content``, ``context``, ``templates``.

    Example::

        with pytest.raises(HandshakeRefused) as refused:
            client.websocket("/chat/staff/")
        assert refused.value.response.status_code == 403
    """

    def __init__(self, response: Any) -> None:
        self.response = response
        location = response.headers.get("Location")
        super().__init__(
            f"handshake of {wire_path(response.request)!r} refused with "
            f"{response.status_code} {response.reason_phrase}"
            + (f", redirect to {location!r}" if location else "")
        )


class RequestFailed(AssertionError):
    """A test's request was answered with errors instead of a reply.

    Attributes:
        errors: lists of ``{"message": ..., "code": ...}`` by the names of fields; ``"__all__"`` for
            errors of no field.
        codes: the codes of all errors.
    """

    def __init__(self, kind: str, errors: dict[str, list[dict[str, str]]]) -> None:
        self.errors = errors
        self.codes = [each["code"] for found in errors.values() for each in found]
        super().__init__(f"{kind!r} was answered with errors: {errors}")


class BackendUnavailable(Exception):
    """The backend cannot be reached.

    Attributes:
        backend: the URL of the backend, without password.
        problem: what went wrong.
        advice: what to check.
    """

    def __init__(self, backend: str, problem: str, advice: str = "") -> None:
        self.backend = backend
        self.problem = problem
        self.advice = advice
        super().__init__(backend, problem, advice)

    def __str__(self) -> str:
        return f"{self.backend}: {self.problem}" + (f"; {self.advice}" if self.advice else "")


class BackendMisconfigured(BackendUnavailable):
    """The backend can never be reached with this configuration."""


def _join_gevent_websocket() -> None:
    """Make gevent-websocket's error a base class of ours, once it is imported."""
    module = sys.modules.get("geventwebsocket.exceptions")
    theirs = getattr(module, "WebSocketError", None)  # missing while it is being imported
    if theirs is not None and not issubclass(ConnectionClosed, theirs):
        ConnectionClosed.__bases__ = (WebSocketError, theirs)


_join_gevent_websocket()
