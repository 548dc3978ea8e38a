"""Servers with other software in them, and what that talks to."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator

import pytest

from tests.compat.collector import Collector
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


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Take what Sentry's SDK sends."""
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
