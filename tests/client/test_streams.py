"""Pages whose elements follow groups, with Turbo and without, in Chromium and Firefox."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support import TIMES, Server

from .browsers import BROWSERS, Browser, browser_of
from .proxy import Proxy
from .test_shared import POLICIES

Start = Callable[..., tuple[Server, Proxy]]

#: Groups whose boards are short lose messages; those whose boards are loose keep none.
HISTORY = {
    "*.short*": {"messages": 3, "seconds": 600},
    "*.board*": {"messages": 5000, "seconds": 600, "bytes": 2**24},
    "@user:*": {"messages": 50, "seconds": 600},
}

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=BROWSERS)
def browser(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """The browsers."""
    yield from browser_of(request.param, "streams.cases.mjs", tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def start(start_lasting_server: StartServer, tmp_path_factory: Any) -> Iterator[Start]:
    """Start a server with boards, and a proxy in front of it."""
    settings = {
        "WEBSOCKET_HISTORY": HISTORY,
        "WEBSOCKET_HISTORY_STORE": f"local://{tmp_path_factory.mktemp('history')}",
        "WEBSOCKET_HISTORY_LIMIT": 5000,
    }
    proxies: list[Proxy] = []

    def start(**env: str) -> tuple[Server, Proxy]:
        env["TEST_SETTINGS"] = json.dumps(settings)
        env["TEST_BOARDS"] = str(tmp_path_factory.mktemp("boards"))
        server = start_lasting_server("own", env=env)
        proxies.append(Proxy(server.port))
        return server, proxies[-1]

    yield start
    for proxy in proxies:
        proxy.stop()


@pytest.fixture(scope="module")
def site(start: Start) -> tuple[Server, Proxy]:
    """A server and a proxy that most tests share."""
    return start()


def run(
    browser: Browser, site: tuple[Server, Proxy], case: str, name: str = "board", **options: Any
) -> Any:
    """Run a case with a new board."""
    server, proxy = site
    return browser.run(
        case,
        origin=f"http://127.0.0.1:{proxy.port}",
        direct=f"http://127.0.0.1:{proxy.target}",
        control=proxy.control,
        board=f"{name}{next(_numbers)}",
        pid=server.process.pid,
        **options,
    )


KINDS = pytest.mark.parametrize("kind", ["turbo", "plain"])

#: Each case in both browsers, and with each script.
pytestmark = pytest.mark.combinations(2)

#: The scripts that show the HTML.
SCRIPTS = ["turbo", "plain", "htmx2", "htmx4"]

CASES = {
    "missed": "What is sent between rendering and following is replayed.",
    "twice": "Two elements may follow one group.",
    "leave": "An element that leaves the page unfollows; one that comes back misses nothing.",
    "expired": "A page whose names have expired is rendered again.",
}


@KINDS
@pytest.mark.parametrize("case", CASES)
def test_case(browser: Browser, site: tuple[Server, Proxy], case: str, kind: str) -> None:
    """A case of ``streams.cases.mjs`` passes; ``CASES`` says what it shows."""
    run(browser, site, case, kind=kind)


@pytest.mark.parametrize("kind", SCRIPTS)
@pytest.mark.parametrize("case", ["live", "cut"])
def test_script(browser: Browser, site: tuple[Server, Proxy], case: str, kind: str) -> None:
    """Lines come, change and go; after a cut, each message is there once and in order."""
    run(browser, site, case, kind=kind)


@KINDS
@pytest.mark.parametrize("name", ["short", "loose"])
def test_gap(browser: Browser, site: tuple[Server, Proxy], kind: str, name: str) -> None:
    """A page that has missed more than is kept is rendered again; so is one if nothing is kept."""
    run(browser, site, "gap", name, kind=kind)


@KINDS
def test_reload(browser: Browser, site: tuple[Server, Proxy], kind: str) -> None:
    """What a socket follows moves with it to a new worker."""
    run(browser, site, "reload", kind=kind)


def test_tabs(browser: Browser, site: tuple[Server, Proxy]) -> None:
    """A page with five streams and three tabs has one socket at the server."""
    run(browser, site, "tabs")


@pytest.mark.parametrize("query", ["", "?morph"])
def test_visit(browser: Browser, site: tuple[Server, Proxy], query: str) -> None:
    """Visits of Turbo, also to pages that it has kept, lose and double nothing."""
    run(browser, site, "visit", query=query)


def test_alone(browser: Browser, site: tuple[Server, Proxy]) -> None:
    """The same without a shared worker."""
    run(browser, site, "visit", query="", isAlone=True)


def test_own(browser: Browser, site: tuple[Server, Proxy]) -> None:
    """Pages of a signed-in user may follow the user's own group."""
    run(browser, site, "own")


def test_arrive(browser: Browser, site: tuple[Server, Proxy]) -> None:
    """An element may come with a visit of Turbo, to a page that had none."""
    run(browser, site, "arrive")


def test_bfcache(browser: Browser, site: tuple[Server, Proxy]) -> None:
    """A page that the browser has kept gets what it has missed."""
    run(browser, site, "bfcache", kind="plain")


def test_rejected(browser: Browser, site: tuple[Server, Proxy]) -> None:
    """A name that is not accepted is reported on the console."""
    run(browser, site, "rejected")


@pytest.mark.parametrize("policy", POLICIES)
def test_policy(browser: Browser, start: Start, policy: str) -> None:
    """A policy needs only nonces, ``worker-src 'self'`` and ``connect-src 'self'``."""
    site = start(DJANGO_SETTINGS_MODULE="tests.project.csp_settings", TEST_CSP=policy)
    for kind in KINDS.args[1]:
        run(browser, site, "policy", kind=kind)


@pytest.mark.combinations(1)
@pytest.mark.parametrize("query", ["turbo", "turbo?morph", "plain"])
def test_storm(browser: Browser, site: tuple[Server, Proxy], query: str) -> None:
    """After a storm, each page shows what a fresh one does."""
    kind, _, options = query.partition("?")
    run(browser, site, "storm", kind=kind, query=f"?{options}", cycles=10 * TIMES)
