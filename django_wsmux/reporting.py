"""Errors of views, reported as Django reports those of pages.

A report runs the code of others: receivers of ``got_request_exception``, ``handler500``, logging
handlers, error trackers. It is made where a socket is about to be closed and a greenlet to go on to
the next one, so nothing that is raised in it gets out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.handlers.exception import response_for_exception
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponseBase, HttpResponseServerError

from .server.counters import count
from .server.logs import get_logger
from .server.refusals import LogLimit

__all__ = ["describe", "notify", "report"]

logger = get_logger("django_wsmux.connection")

_limit = LogLimit()


def report(
    path: str, error: BaseException, find_request: Callable[[], HttpRequest]
) -> HttpResponseBase:
    """Log and signal an error as Django does for a view. Never raises.

    Args:
        path: of the socket, for the log.
        error: the one that is being handled.
        find_request: returns the request to report it with.

    Returns:
        What a page would show; a bare 500 if that cannot be found out.
    """
    try:
        response: Any = response_for_exception(find_request(), error)  # type: ignore[arg-type]
        if isinstance(response, HttpResponseBase):
            return response
        raise TypeError(f"the error handler of the URLconf returned {response!r}, not a response")
    except BaseException as failure:
        count("reports_failed")
        suffix = _limit.suffix()
        if suffix is not None:
            logger.error(
                "%s: an error of the view could not be reported%s", path, suffix, exc_info=failure
            )
    return HttpResponseServerError()


def notify(signal: Signal, sender: Any, **arguments: Any) -> None:
    """Send a signal; what its receivers raise is logged. Never raises."""
    try:
        signal.send_robust(sender, **arguments)
    except BaseException:
        # send_robust() lets SystemExit and its like pass, and logging handlers may raise too.
        logger.exception("A receiver of a signal failed")


def describe(error: BaseException) -> str:
    """Return class and text of an error, as far as it can tell them."""
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:
        return name
