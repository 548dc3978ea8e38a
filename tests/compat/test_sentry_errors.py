"""Each exception of a view is one Sentry event, with URL and user of its socket."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.compat.collector import Collector
from tests.compat.conftest import StartServer, start_site
from tests.gauges import settled, wait_until
from tests.support import SERVERS, Server, frame

#: Paths of views that raise, and how often each of them does.
RAISING = {"/function/": 1, "/helper/": 1, "/event/": 2, "/lean/": 2}


@pytest.fixture(scope="module", params=SERVERS)
def site(
    request: pytest.FixtureRequest, start_lasting_server: StartServer, collector: Collector
) -> Server:
    """Every server with the SDK, and with views that raise."""
    settings = {
        "ROOT_URLCONF": "tests.project.faulty",
        "WEBSOCKET_URLCONF": "tests.project.faulty",
        "WSGI_APPLICATION": "tests.compat.site.application",
    }
    env = {"TEST_SETTINGS": json.dumps(settings)}
    return start_site(
        start_lasting_server, request.param, COMPAT="sentry", SENTRY_DSN=collector.dsn, **env
    )


def events(collector: Collector) -> list[dict[str, Any]]:
    """Return the errors reported so far."""
    return [item for kind, item in collector.items if kind == "event"]


def test_raising(site: Server, collector: Collector) -> None:
    """Each exception is one event, whether the view keeps its request or not."""
    cookie = f"Cookie: {site.sign_in('ann')}\r\n"
    collector.items.clear()
    for path in RAISING:
        with site.upgraded(f"{path}?token=secret", cookie) as wire:
            wire.send(frame(0x81, b"x"))
            assert wire.frame() == (8, b"\x03\xf3500 Internal Server Error")
    assert site.refused("/connect/").status == 500
    for path in ("/echo/", "/forgetful/"):
        with site.upgraded(path) as wire:
            wire.send(frame(0x81, b"x") + frame(0x88, b"\x03\xe8"))
            assert wire.frame() == (1, b"x")
    settled(site)
    expected = sorted(
        path for path, times in {**RAISING, "/connect/": 1}.items() for _ in range(times)
    )
    wait_until(lambda: len(events(collector)) >= len(expected), "the events")
    found = events(collector)
    assert sorted(urlsplit(event["request"]["url"]).path for event in found) == expected
    users = set()
    for event in found:
        assert event["exception"]["values"][-1]["type"] == "Broken"
        path = urlsplit(event["request"]["url"]).path
        if path != "/connect/":
            assert event["request"]["url"] == f"http://localhost{path}"
            users.add(event["user"]["id"])
    assert len(users) == 1
    assert users.pop().isdigit()
