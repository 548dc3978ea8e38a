"""Fixtures: servers with other software installed, and the services that it needs."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator

import pytest

from tests.compat.collector import Collector
from tests.support import Server

StartServer = Callable[..., Server]

#: Seconds that a worker may take to load large packages, on a busy machine.
PATIENCE = 90


def start_site(start: StartServer, worker: str, *options: str, **env: str) -> Server:
    """Start one of ``SERVERS`` with the application of ``site.py``; return when it answers."""
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


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Receive what Sentry's SDK sends."""
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
