"""A chat with htmx 2 and htmx 4, and their own extensions for WebSockets."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support import TIMES, Server

from .browsers import BROWSERS, Browser, browser_of
from .proxy import Proxy

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=BROWSERS)
def browser(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """The browsers."""
    yield from browser_of(request.param, "htmx.cases.mjs", tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def server(start_lasting_server: StartServer, tmp_path_factory: Any) -> Server:
    """A server whose rooms keep their messages."""
    settings = {
        "WEBSOCKET_HISTORY": {"room*": {"messages": 5000, "seconds": 600, "bytes": 2**24}},
        "WEBSOCKET_HISTORY_STORE": f"local://{tmp_path_factory.mktemp('history')}",
        "WEBSOCKET_HISTORY_LIMIT": 5000,
    }
    return start_lasting_server("own", env={"TEST_SETTINGS": json.dumps(settings)})


@pytest.fixture(scope="module")
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy in front of it."""
    proxy = Proxy(server.port)
    yield proxy
    proxy.stop()


def run(
    browser: Browser, server: Server, proxy: Proxy, case: str, version: int, **options: Any
) -> Any:
    """Run a case with a new room."""
    return browser.run(
        case,
        origin=f"http://127.0.0.1:{proxy.port}",
        direct=f"http://127.0.0.1:{proxy.target}",
        control=proxy.control,
        group=f"room{next(_numbers)}",
        version=version,
        pid=server.process.pid,
        **options,
    )


CASES = {
    "forms": "Forms are sent and validated; an invalid one comes back to its page alone.",
    "plain": "So they are without the module, over a plain socket.",
    "shared": "So they are if all pages share a socket.",
    "deferred": "The module may come before htmx.",
    "cut": "A page whose line is cut misses nothing; forms that are sent meanwhile wait.",
    "hidden": "A hidden page keeps its socket, and misses nothing when the server reloads.",
    "closes": "A close that is final reaches htmx, which does not try again.",
    "removed": "An element that is removed closes its socket.",
    "gap": "The element is told of a gap.",
    "history": "A place that the user comes back to has what it has missed, and nothing twice.",
    "header": "Requests to the own server tell which page sends them, others do not.",
}

VERSIONS = pytest.mark.parametrize("version", [2, 4])

#: Each case in both browsers, and with both versions.
pytestmark = pytest.mark.combinations(2)


@VERSIONS
@pytest.mark.parametrize("case", CASES)
def test_case(browser: Browser, server: Server, proxy: Proxy, case: str, version: int) -> None:
    """A case of ``htmx.cases.mjs`` passes; ``CASES`` says what it shows."""
    run(browser, server, proxy, case, version)


@VERSIONS
@pytest.mark.parametrize("query", ["", "shared"])
def test_kept(browser: Browser, server: Server, proxy: Proxy, version: int, query: str) -> None:
    """A page that the browser has kept opens its socket again, and has what it has missed."""
    result = run(browser, server, proxy, "kept", version, query=query)
    # Firefox keeps no page with an open socket of its own.
    assert result["isKept"] == (browser.name == "chromium" or query == "shared")


@pytest.mark.combinations(1)
@VERSIONS
@pytest.mark.parametrize("query", ["", "shared"])
def test_storm(browser: Browser, server: Server, proxy: Proxy, version: int, query: str) -> None:
    """Pages that are hidden and shown again and again show what a new page shows."""
    print(run(browser, server, proxy, "storm", version, query=query, cycles=4 * TIMES))
