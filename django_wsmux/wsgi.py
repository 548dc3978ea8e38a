"""The WSGI applications for ``wsgi.py``.

Either the drop-in replacement::

    from django_wsmux.wsgi import get_wsgi_application
    application = get_wsgi_application()

or a wrapper for an existing application::

    from django_wsmux.wsgi import WebSocketDispatcher
    application = WebSocketDispatcher(application)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application as django_get_wsgi_application
from django.utils.log import request_logger

from . import conf
from .exceptions import BackendMisconfigured
from .groups import namespace
from .handlers import databases, moving
from .handlers.handler import WebSocketHandler, installed
from .handlers.refusing import limit_lines, limit_security
from .logs import get_logger
from .monitoring import access_log, actions, overview
from .server import patching
from .server.dispatcher import Dispatcher, WSGIApplication

__all__ = [
    "WebSocketDispatcher",
    "get_wsgi_application",
    "get_wsgi_websocket_application",
]


logger = get_logger("django_wsmux.backends")


class WebSocketDispatcher(Dispatcher):
    """WSGI middleware that routes WebSocket handshakes to ``WEBSOCKET_URLCONF``.

    Args:
        application: any WSGI callable; gets every other request with its environ unchanged, at the
            cost of one dictionary lookup.

    Raises:
        ImproperlyConfigured: the app is not installed, a setting is wrong, the backend cannot be
            used on this machine, or the process is only partly monkey-patched.

    Example::

        application = WebSocketDispatcher(WhiteNoise(get_wsgi_application()))
    """

    def __init__(self, application: WSGIApplication) -> None:
        super().__init__(application, _websocket_handler())


def get_wsgi_application() -> WebSocketDispatcher:
    """Return the project's WSGI application with WebSockets, like Django's function of this name.

    Raises:
        ImproperlyConfigured: see ``WebSocketDispatcher``.
    """
    return WebSocketDispatcher(django_get_wsgi_application())


def get_wsgi_websocket_application() -> WSGIApplication:
    """Return an application for WebSockets only, like that of django-gevent-websocket.

    It is for a second server on a port of its own. A plain request to the URL of a WebSocket gets
    426, to any other URL 404.

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
    moving.install()
    actions.install()
    overview.install()
    if conf.get("WEBSOCKET_OUTBOX"):
        from .groups import outbox

        outbox.install()
    request_logger.addFilter(limit_lines)
    handler = WebSocketHandler()
    installed.append(handler)
    limit_security()
    return handler


def _look_at_backend() -> None:
    """Report at the start what would keep this process from hearing the others."""
    problem = namespace.backend_problem()
    if isinstance(problem, BackendMisconfigured):
        raise ImproperlyConfigured(f"WEBSOCKET_BACKEND cannot be used: {problem}.")
    if problem is not None:
        logger.error("WEBSOCKET_BACKEND cannot be used at the moment: %s", problem)
    for doubt, cure in namespace.doubts():
        logger.warning("%s %s", doubt, cure)
