"""Pages that share one socket, in Chromium and Firefox, through a proxy."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

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
    yield from browser_of(request.param, "shared.cases.mjs", tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def proxy(start_lasting_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A proxy in front of a server whose groups keep their messages."""
    settings = {
        "WEBSOCKET_HISTORY": {"room*": {"messages": 5000, "seconds": 600, "bytes": 2**24}},
        "WEBSOCKET_HISTORY_STORE": f"local://{tmp_path_factory.mktemp('history')}",
    }
    server = start_lasting_server("own", env={"TEST_SETTINGS": json.dumps(settings)})
    proxy = Proxy(server.port)
    yield proxy
    proxy.stop()


def run(browser: Browser, proxy: Proxy, case: str, **options: Any) -> Any:
    """Run a case with a new group."""
    return browser.run(
        case,
        origin=f"http://127.0.0.1:{proxy.port}",
        control=proxy.control,
        group=f"room{next(_numbers)}",
        **options,
    )


@pytest.mark.parametrize("query", ["", "?no-store"])
def test_visit(browser: Browser, proxy: Proxy, query: str) -> None:
    """Five pages and a reload: each has each message once, over as few sockets as possible."""
    run(browser, proxy, "visit", query=query)
