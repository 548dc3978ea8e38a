"""``manage.py runserver`` with WebSockets: the same views, a thread for each socket, no gevent.

It extends the command of the next app in ``INSTALLED_APPS`` that has one (``staticfiles``,
WhiteNoise, or else Django's own) by a server whose connections can become WebSockets.
"""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.management import find_commands, load_command_class

from ... import wsgi
from ...monitoring.runserver_log import close_sockets, log_sockets
from ...server.dispatcher import dispatchers
from ...server.wsgiref import WebSocketServerMixin

if TYPE_CHECKING:
    from django.core.management.commands.runserver import Command as NextCommand

__all__ = ["Command"]

_NAME = "runserver"


def _next_command() -> type[Any]:
    """Return the class of the command that would run without this app."""
    names = [config.name for config in apps.get_app_configs()]
    for config in list(apps.get_app_configs())[names.index("django_wsmux") + 1 :]:
        if _NAME in find_commands(os.path.join(config.path, "management")):
            return type(load_command_class(config.name, _NAME))
    return type(load_command_class("django.core", _NAME))


if not TYPE_CHECKING:
    NextCommand = _next_command()


class Command(NextCommand):
    """Serve pages and sockets for development."""

    server_cls = type("WSGIServer", (WebSocketServerMixin, NextCommand.server_cls), {})

    def get_handler(self, *args: Any, **options: Any) -> Any:
        """Return the project's application, with WebSockets."""
        handler: Any = super().get_handler(*args, **options)
        if not any(isinstance(each, wsgi.WebSocketDispatcher) for each in dispatchers):
            self.stdout.write(
                "The WSGI application has no WebSocketDispatcher: runserver adds one, but other "
                "servers do not."
            )
            handler = wsgi.WebSocketDispatcher(handler)
        if not options["use_threading"]:
            self.stdout.write(
                self.style.WARNING("With --nothreading WebSocket handshakes are refused with 501.")
            )
        log_sockets()
        # Runs whenever the process ends; autoreload ends it after each edit.
        atexit.register(close_sockets)
        return handler
