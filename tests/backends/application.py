"""A WSGI application for gunicorn whose workers listen to a backend."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from django_wsmux.backends import from_url

backend = from_url(os.environ["TEST_BACKEND"], namespace="gunicorn")
# With --preload this runs in the master, before the fork and before gevent's patching, and leaves
# locks and, with a broker, a connection behind.
backend.publish("room", b"from the import")

heard: list[str] = []


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Do what the path says; return the worker's process id and the messages that it received."""
    path = environ["PATH_INFO"]
    if path == "/start":
        backend.start(
            lambda channel, payload: heard.append(payload.decode()),
            answer=lambda channel, question: str(os.getpid()).encode(),
        )
        assert backend.subscribe("room").wait(20)
    elif path.startswith("/publish/"):
        backend.publish("room", path.removeprefix("/publish/").encode())
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([os.getpid(), heard]).encode()]
