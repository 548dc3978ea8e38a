"""Servers with other software in them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable

from tests.support import Server

StartServer = Callable[..., Server]

#: Seconds that a worker may take to load what is large, on a machine that is busy.
PATIENCE = 90


def start_site(start: StartServer, worker: str, *options: str, **env: str) -> Server:
    """Start one of ``SERVERS`` with the application of ``site.py``; it answers by then."""
    if worker == "runserver":
        more = {"WSGI_APPLICATION": "tests.compat.site.application"}
        env = {"TEST_SETTINGS": json.dumps(more), **env}
        server = start(worker, env=env)
    else:
        server = start(worker, *options, application="tests.compat.site", env=env)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    return server
