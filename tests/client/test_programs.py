"""The client in Node, with a real server and a line that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.conftest import StartServer
from tests.support import ROOT, Server

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


@pytest.mark.parametrize("name", ["connection", "resume"])
def test_program(proxy: Proxy, name: str) -> None:
    """Each test of a program in Node passes."""
    environment = {
        "SITE": f"http://127.0.0.1:{proxy.target}",
        "LINE": f"ws://127.0.0.1:{proxy.port}",
        "CONTROL": proxy.control,
        "CLIENT": (STATIC / "client.js").as_uri(),
    }
    program = ROOT / "tests" / "client" / f"{name}.mjs"
    run("node", "--test-force-exit", "--test-timeout=60000", program, env=environment)
