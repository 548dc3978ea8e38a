"""A page with a socket of its own, in Chromium and Firefox."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest

from tests.conftest import StartServer

from .browsers import BROWSERS, Browser, browser_of
from .proxy import Proxy

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=BROWSERS)
def browser(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """The browsers."""
    yield from browser_of(request.param, "page.cases.mjs", tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def proxy(start_lasting_server: StartServer) -> Iterator[Proxy]:
    """A proxy in front of a server with short heartbeats."""
    settings = {"WEBSOCKET_HISTORY": {"page*": {"messages": 5000, "seconds": 600}}}
    environment = {
        "TEST_SETTINGS": json.dumps(settings),
        "TEST_PING_INTERVAL": "2",
        "TEST_PING_TIMEOUT": "2",
    }
    proxy = Proxy(start_lasting_server("own", env=environment).port)
    yield proxy
    proxy.stop()


CASES = {
    "kept": "A page that Chromium has kept opens its socket again, and has what it has missed.",
    "persists": "The next page continues, and a copy of the tab is a client of its own.",
    "wakes": "The page tries at once when it wakes up, but not more than once a second.",
    "offline": "A page that comes online has what it has missed.",
    "clock": "A clock that jumps loses and doubles nothing.",
    "present": "A page shows who is present; after a reconnect it notes only who came or went.",
    "expires": "When its token ends, the page gets another one, and each message once.",
    "hidden": "A tab in the background notices that the server is silent.",
}


@pytest.mark.parametrize("case", CASES)
def test_case(browser: Browser, proxy: Proxy, case: str) -> None:
    """A case of ``page.cases.mjs`` passes; ``CASES`` says what it shows."""
    browser.run(
        case,
        origin=f"http://127.0.0.1:{proxy.port}",
        direct=f"http://127.0.0.1:{proxy.target}",
        control=proxy.control,
        group=f"page{next(_numbers)}",
    )
