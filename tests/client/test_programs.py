"""The client in Node, with a real server and a line that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.conftest import StartServer
from tests.support import ROOT, TIMES, Server

from .nodes import STATIC, run
from .proxy import Proxy

HISTORY = {"c.value*": {"messages": 1, "seconds": 600}, "c.*": {"messages": 4, "seconds": 600}}


@pytest.fixture(scope="module")
def server(start_lasting_server: StartServer) -> Server:
    """A server that keeps messages and tells errors."""
    settings = json.dumps({"WEBSOCKET_HISTORY": HISTORY})
    return start_lasting_server("own", env={"TEST_SETTINGS": settings, "TEST_DEBUG": "1"})


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy in front of it."""
    proxy = Proxy(server.port)
    yield proxy
    proxy.stop()


def run_program(name: str, proxy: Proxy, **variables: str) -> None:
    """Run the tests of a program in Node."""
    environment = {
        "SITE": f"http://127.0.0.1:{proxy.target}",
        "LINE": f"ws://127.0.0.1:{proxy.port}",
        "CONTROL": proxy.control,
        "CLIENT": (STATIC / "client.js").as_uri(),
        **variables,
    }
    program = ROOT / "tests" / "client" / f"{name}.mjs"
    run("node", "--test-force-exit", program, env=environment)


PROGRAMS = ["connection", "pages", "presence", "requests", "resume", "units", "worker"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(proxy: Proxy, name: str) -> None:
    """Each test of a program in Node passes."""
    run_program(name, proxy)


def test_reload(start_server: StartServer) -> None:
    """When a server with many clients reloads, all of them return and none is refused."""
    server = start_server("own")
    proxy = Proxy(server.port)
    try:
        # Not over the line, which would take longer than the server.
        line = f"ws://127.0.0.1:{server.port}"
        run_program("reload", proxy, PID=str(server.process.pid), LINE=line)
    finally:
        proxy.stop()


def test_cuts(proxy: Proxy) -> None:
    """Over a line that is cut at random, each request is done once and its promise is settled."""
    run_program("cuts", proxy, REQUESTS=f"{300 * TIMES}")
