"""Wrappers of a WSGI application; each follows PEP 3333, more or less."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any
from wsgiref.validate import validator

Application = Callable[..., Any]

#: What middleware sets for a request.
tag: ContextVar[str] = ContextVar("tag", default="none")

#: Events: bodies that were closed, statuses, errors.
seen: list[str] = []


class Closing:
    """A body with ``__iter__()`` and ``close()``, like Sentry's."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield from self._body
        seen.append("exhausted")

    def close(self) -> None:
        """Close the body."""
        seen.append("closed")
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


class Bare:
    """A body with ``__iter__()`` only."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)


def closing(inner: Application) -> Application:
    """Return an object with ``close()``."""
    return lambda environ, start_response: Closing(inner(environ, start_response))


def bare(inner: Application) -> Application:
    """Return an object without ``close()``."""
    return lambda environ, start_response: Bare(inner(environ, start_response))


def listed(inner: Application) -> Application:
    """Return a list; the body is closed by then."""

    def application(environ: Any, start_response: Any) -> Any:
        body = inner(environ, start_response)
        try:
            return list(body)
        finally:
            body.close()

    return application


def lazy(inner: Application) -> Application:
    """Return a generator: nothing happens before the first item is requested."""

    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        try:
            body = inner(environ, start_response)
            yield from body
            seen.append("exhausted")
        except BaseException as error:
            seen.append(f"error {type(error).__name__}")
            raise
        finally:
            seen.append("closed")
            body.close()

    return application


def late(inner: Application) -> Application:
    """Call ``start_response()`` when the body is requested, with a further header."""

    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        started: list[Any] = []
        body = inner(environ, lambda *args: started.append(args))
        status, headers = started[0]
        start_response(status, [*headers, ("X-Late", "yes")])
        yield from body
        body.close()

    return application


def copying(inner: Application) -> Application:
    """Pass on a copy of the environ."""
    return lambda environ, start_response: inner(dict(environ), start_response)


def raising(inner: Application) -> Application:
    """Raise after the application has run."""

    def application(environ: Any, start_response: Any) -> Any:
        inner(environ, start_response).close()
        raise LookupError("an agent has a bug")

    return application


def raising_at_close(inner: Application) -> Application:
    """Raise in ``close()``."""

    class Body(Closing):
        def close(self) -> None:
            super().close()
            raise LookupError("an agent has a bug in close()")

    return lambda environ, start_response: Body(inner(environ, start_response))


def blocking(inner: Application) -> Application:
    """Respond instead of the application, as firewalls do."""

    def application(environ: Any, start_response: Any) -> Any:
        start_response("403 Forbidden", [("Content-Type", "text/plain"), ("Content-Length", "7")])
        return [b"blocked"]

    return application


def priming(inner: Application) -> Application:
    """Request the first item at once."""

    def application(environ: Any, start_response: Any) -> Any:
        body = iter(inner(environ, start_response))
        first = next(body)
        seen.append(f"first {first[:20]!r}")
        return [first, *body]

    return application


def recording(inner: Application) -> Application:
    """Record statuses, headers and errors."""

    def application(environ: Any, start_response: Any) -> Any:
        def start(status: str, headers: Any, exc_info: Any = None) -> Any:
            seen.append(status)
            seen.extend(f"{name}: {value}" for name, value in headers if name.startswith("X-"))
            return start_response(status, headers)

        try:
            body = inner(environ, start)
            seen.append("returned")
            return body
        except BaseException as error:
            seen.append(f"error {type(error).__name__}")
            raise

    return application


def replacing_input(inner: Application) -> Application:
    """Replace the server's input by a copy, as loggers of bodies do."""

    def application(environ: Any, start_response: Any) -> Any:
        environ["wsgi.input"] = io.BytesIO()
        return inner(environ, start_response)

    return application


class Input:
    """Has some attributes of the server's input, and another ``reader``."""

    def __init__(self, source: Any) -> None:
        self.read, self.readline = source.read, source.readline
        self.reader = io.BytesIO()


def wrapping_input(inner: Application) -> Application:
    """Wrap the server's input."""

    def application(environ: Any, start_response: Any) -> Any:
        environ["wsgi.input"] = Input(environ["wsgi.input"])
        return inner(environ, start_response)

    return application


def replacing_socket(inner: Application) -> Application:
    """Hide gunicorn's socket."""

    def application(environ: Any, start_response: Any) -> Any:
        environ["gunicorn.socket"] = object()
        return inner(environ, start_response)

    return application


def tagging(inner: Application) -> Application:
    """Set a context variable for the request, and do not reset it."""

    def application(environ: Any, start_response: Any) -> Any:
        tag.set(environ["HTTP_X_TAG"])
        return inner(environ, start_response)

    return application


def plain(inner: Application) -> Application:
    """Do nothing."""
    return inner


#: Wrappers of the handler, whose responses are Django's.
AGENTS = {
    "nothing": plain,
    "closing": closing,
    "bare": bare,
    "listed": listed,
    "lazy": lazy,
    "late": late,
    "copying": copying,
    "raising": raising,
    "raising-at-close": raising_at_close,
    "blocking": blocking,
}

#: Wrappers of the dispatcher.
AROUND = {
    "nothing": plain,
    "closing": closing,
    "lazy": lazy,
    "copying": copying,
    "priming": priming,
    "recording": recording,
    "validating": validator,
    "tagging": tagging,
    "raising-at-close": raising_at_close,
    "replacing-input": replacing_input,
    "wrapping-input": wrapping_input,
    "replacing-socket": replacing_socket,
}
