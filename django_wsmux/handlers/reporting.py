"""Reports errors of WebSocket views as Django reports those of pages.

A report runs third-party code: receivers of ``got_request_exception``, ``handler500``, logging
handlers, error trackers. Afterwards the socket must be closed, and the greenlet must continue with
the next one, so no exception leaves a report.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.handlers.exception import response_for_exception
from django.http import HttpRequest, HttpResponseBase, HttpResponseServerError

from ..connection.counters import count
from ..logs import LogLimit, get_logger

__all__ = ["describe", "note_late_response", "report"]

logger = get_logger("django_wsmux.connection")

_limit = LogLimit()
_late_responses = LogLimit()


def report(
    path: str,
    error: BaseException,
    find_request: Callable[[], HttpRequest],
    user_id: str | None,
) -> HttpResponseBase:
    """Log and signal an error as Django does for a view. Never raises.

    Args:
        path: path of the socket, for the log.
        error: the error that is being handled.
        find_request: returns the request to report it with.
        user_id: primary key of the signed-in user, as a string.

    Returns:
        The response of a page with this error; an empty 500 if reporting fails.
    """
    try:
        request = find_request()
        with _sentry_scope(request, user_id):
            response: Any = response_for_exception(request, error)  # type: ignore[arg-type]
        if isinstance(response, HttpResponseBase):
            return response
        raise TypeError(f"the error handler of the URLconf returned {response!r}, not a response")
    except BaseException as failure:
        count("reports_failed")
        suffix = _limit.suffix()
        if suffix is not None:
            logger.error(
                "%s: reporting an error of the view failed%s", path, suffix, exc_info=failure
            )
    return HttpResponseServerError()


@contextmanager
def _sentry_scope(request: HttpRequest, user_id: str | None) -> Iterator[None]:
    """Add URL and user to reports of Sentry, if its SDK is loaded.

    The SDK takes both from the WSGI call, which has ended.
    """
    isolation_scope = getattr(sys.modules.get("sentry_sdk"), "isolation_scope", None)
    if isolation_scope is None:
        yield
        return
    url = f"{request.scheme}://{request.get_host()}{request.path}"

    def add_url(event: dict[str, Any], hint: object) -> dict[str, Any]:
        event.setdefault("request", {}).update(url=url, method=request.method)
        return event

    with isolation_scope() as scope:
        scope.add_event_processor(add_url)
        if user_id is not None:
            scope.set_user({"id": user_id})
        yield


def describe(error: BaseException) -> str:
    """Return class and text of an error; the class alone if ``str()`` fails."""
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:
        return name


def note_late_response(websocket: object, response: HttpResponseBase) -> None:
    """Log that a view returned a response that cannot be sent."""
    suffix = _late_responses.suffix()
    if suffix is not None:
        logger.warning(
            "%r: the view returned a response (%d) after the 101. Call websocket.close() instead, "
            "or refuse the handshake: in a decorator above @websocket, or in connect()%s",
            websocket,
            response.status_code,
            suffix,
        )
