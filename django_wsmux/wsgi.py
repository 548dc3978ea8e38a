"""The applications to put into ``wsgi.py``.

Either the drop-in::

    from django_wsmux.wsgi import get_wsgi_application
    application = get_wsgi_application()

or around what is there::

    from django_wsmux.wsgi import WebSocketDispatcher
    application = WebSocketDispatcher(application)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application as django_get_wsgi_application
from django.utils.log import request_logger

from . import access_log, conf, databases, namespace
from .backends import BackendMisconfigured
from .handler import WebSocketHandler
from .refusing import limit_lines, limit_security
from .server import patching
from .server.dispatcher import Dispatcher, WSGIApplication

__all__ = [
    "WebSocketDispatcher",
    "get_wsgi_application",
    "get_wsgi_websocket_application",
]


logger = logging.getLogger("django_wsmux.backends")


class WebSocketDispatcher(Dispatcher):
    """WSGI middleware: WebSocket handshakes go to ``WEBSOCKET_URLCONF``, all else passes through.

    Args:
        application: any WSGI callable; gets every other request with its environ untouched, at
            the price of one dictionary look-up.

    Raises:
        ImproperlyConfigured: the app is not installed, a setting is not right, the backend cannot
            be used on this machine, or the process is monkey-patched in part.

    Example::

        application = WebSocketDispatcher(WhiteNoise(get_wsgi_application()))
    """

    def __init__(self, application: WSGIApplication) -> None:
        super().__init__(application, _websocket_handler())


def get_wsgi_application() -> WebSocketDispatcher:
    """Return the project's WSGI application, as Django's function of this name, with WebSockets.

    Raises:
        ImproperlyConfigured: see ``WebSocketDispatcher``.
    """
    return WebSocketDispatcher(django_get_wsgi_application())


def get_wsgi_websocket_application() -> WSGIApplication:
    """Return an application for WebSockets only, as django-gevent-websocket had it.

    For a second server on a port of its own. A plain request to the URL of a WebSocket gets
    426, to any other 404.

    Raises:
        ImproperlyConfigured: see ``WebSocketDispatcher``.
    """
    handler = _websocket_handler()
    return Dispatcher(handler, handler)


def _websocket_handler() -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    django.setup(set_prefix=False)
    conf.require_valid()
    if problem := patching.partial_problem():
        raise ImproperlyConfigured(problem)
    _look_at_backend()
    patching.after_preload(databases.separate_greenlets)
    access_log.install()
    request_logger.addFilter(limit_lines)
    handler = WebSocketHandler()
    limit_security()
    return handler


def _look_at_backend() -> None:
    """Say at the start what would keep this process from hearing the others."""
    problem = namespace.backend_problem()
    if isinstance(problem, BackendMisconfigured):
        raise ImproperlyConfigured(f"WEBSOCKET_BACKEND cannot be used: {problem}.")
    if problem is not None:
        logger.error("WEBSOCKET_BACKEND cannot be used at the moment: %s", problem)
    for doubt, cure in namespace.doubts():
        logger.warning("%s %s", doubt, cure)
