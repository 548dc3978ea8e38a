"""Pages that share one socket, in Chromium and Firefox, through a proxy."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import django
import pytest

from tests.conftest import StartServer

from .browsers import BROWSERS, Browser, browser_of
from .proxy import Proxy

StartProxy = Callable[..., Proxy]

#: Who sends the header of a Content Security Policy. Django does so since 6.0.
POLICIES = ["django-csp", *(["django"] if django.VERSION >= (6, 0) else [])]

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=BROWSERS)
def browser(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """The browsers."""
    yield from browser_of(request.param, "shared.cases.mjs", tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def start_proxy(start_lasting_server: StartServer, tmp_path_factory: Any) -> Iterator[StartProxy]:
    """Start a proxy in front of a server whose groups keep their messages."""
    settings = {
        "WEBSOCKET_HISTORY": {"room*": {"messages": 5000, "seconds": 600, "bytes": 2**24}},
        "WEBSOCKET_HISTORY_STORE": f"local://{tmp_path_factory.mktemp('history')}",
    }
    proxies: list[Proxy] = []

    def start(**env: str) -> Proxy:
        env["TEST_SETTINGS"] = json.dumps(settings)
        proxies.append(Proxy(start_lasting_server("own", env=env).port))
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.stop()


@pytest.fixture(scope="module")
def proxy(start_proxy: StartProxy) -> Proxy:
    """A proxy that all tests of ordinary pages share."""
    return start_proxy()


@pytest.fixture(scope="module", params=POLICIES)
def strict_proxy(request: pytest.FixtureRequest, start_proxy: StartProxy) -> Proxy:
    """A proxy in front of a site with a Content Security Policy."""
    return start_proxy(DJANGO_SETTINGS_MODULE="tests.project.csp_settings", TEST_CSP=request.param)


def run(browser: Browser, proxy: Proxy, case: str, **options: Any) -> Any:
    """Run a case with a new group."""
    return browser.run(
        case,
        origin=f"http://127.0.0.1:{proxy.port}",
        direct=f"http://127.0.0.1:{proxy.target}",
        control=proxy.control,
        group=f"room{next(_numbers)}",
        **options,
    )


PAGES = pytest.mark.parametrize("query", ["", "?no-store"])


@PAGES
def test_visit(browser: Browser, proxy: Proxy, query: str) -> None:
    """Five pages and a reload: each has each message once, over as few sockets as possible."""
    run(browser, proxy, "visit", query=query)


@PAGES
def test_history(browser: Browser, proxy: Proxy, query: str) -> None:
    """Back and forward: a page has each message once, whether the browser has kept it or not."""
    result = run(browser, proxy, "history", query=query)
    # The socket does not keep a page out of the browser's cache.
    assert result["isKept"] == (query == "")


def test_present(browser: Browser, proxy: Proxy) -> None:
    """Who is present is known to a page that comes later, and to one that the browser has kept."""
    assert run(browser, proxy, "present")["isKept"]


def test_tabs(browser: Browser, proxy: Proxy) -> None:
    """Tabs of different age share a socket: each has each message once, until the last closes."""
    result = run(browser, proxy, "tabs")
    assert result["seconds"] < 10


CASES = {
    "duplicate": "A duplicated tab shares the socket, and is a page of its own.",
    "users": "Another user signs in: the first page is told 4401, and gets nothing of the other.",
    "offline": "A page that comes online has what it has missed.",
    "fallback": "Without a worker, each page has a socket of its own.",
    "routes": "A page can be excluded, and only the own server is told which page sends a request.",
    "talk": "A reply reaches the page that has asked; the server is told of the first to follow.",
    "hasty": "A closed room opens no socket when its worker fails; without a user, none is shared.",
    "tokens": "A page that is open is asked for a token.",
}


@pytest.mark.parametrize("case", CASES)
def test_case(browser: Browser, proxy: Proxy, case: str) -> None:
    """A case of ``shared.cases.mjs`` passes; ``CASES`` says what it shows."""
    run(browser, proxy, case)


def test_policy(browser: Browser, strict_proxy: Proxy) -> None:
    """A policy needs only nonces, ``worker-src 'self'`` and ``connect-src 'self'``."""
    run(browser, strict_proxy, "policy")


def test_killed(browser: Browser, proxy: Proxy) -> None:
    """The socket of a page that is killed is closed; one whose worker is killed misses nothing."""
    assert run(browser, proxy, "killed")["seconds"] < 10
