"""When a site's error handling fails itself, the socket closes and others are not affected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support import WORKERS, Server, frame

FAULTS = [
    "got_request_exception",
    "got_request_exception exits",
    "handler500",
    "no response",
    "no text",
    "logging",
    "websocket_opened exits",
    "websocket_closed exits",
    "request_finished",
    "request_finished exits",
    "admins",
    "propagate",
]

SETTINGS: dict[str, dict[str, Any]] = {
    "admins": {
        "ADMINS": [("Ann", "ann@example.com")],
        "EMAIL_BACKEND": "django.core.mail.backends.locmem.EmailBackend",
        "LOGGING": {"version": 1, "disable_existing_loggers": False},
    },
    "propagate": {"DEBUG_PROPAGATE_EXCEPTIONS": True},
}


def start(start_server: StartServer, fault: str, worker: str = "own") -> Server:
    """Start a site whose error handling fails like this, with two greenlets for event views."""
    settings = {
        "ROOT_URLCONF": "tests.project.faulty",
        "WEBSOCKET_URLCONF": "tests.project.faulty",
        "WEBSOCKET_HANDLER_GREENLETS": 2,
        "ADMINS": [],
        **SETTINGS.get(fault, {}),
    }
    env = {"TEST_FAULT": fault, "TEST_SETTINGS": json.dumps(settings)}
    return start_server(worker, env=env)


def close_code(server: Server, path: str) -> int:
    """Let a view raise; return the close code of its socket."""
    with server.upgraded(path) as wire:
        wire.send(frame(0x81, b"x"))
        opcode, payload = wire.frame()
        assert opcode == 8
        return int.from_bytes(payload[:2], "big")


def assert_alive(server: Server) -> None:
    """Assert that event views, function views and pages work, and nothing of the failed is left."""
    for _ in range(3):
        with server.upgraded("/echo/") as wire:
            wire.send(frame(0x81, b"hello"))
            assert wire.frame() == (1, b"hello")
    metrics = json.loads(server.get("/metrics/"))
    assert metrics["handlers_running"] == metrics["handlers_waiting"] == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_many(start_server: StartServer, fault: str) -> None:
    """With more errors of event views than greenlets, each closes with 1011, and others work."""
    server = start(start_server, fault)
    count = 150 if fault == "got_request_exception" else 40  # each raises twice
    for number in range(count):
        assert close_code(server, "/lean/" if number % 2 else "/event/") == 1011
    for _ in range(5):
        assert close_code(server, "/function/") == 1011
        assert close_code(server, "/helper/") == 1011
    assert_alive(server)
    if fault == "admins":
        mails = json.loads(server.get("/mails/"))
        assert len(mails) == 2 * count + 10
        assert any("http://localhost/lean/" in text for text in mails)


@pytest.mark.parametrize("worker", ["stock", "gevent", "runserver"])
@pytest.mark.parametrize("fault", ["got_request_exception", "request_finished"])
def test_servers(start_server: StartServer, worker: str, fault: str) -> None:
    """The same holds under the other servers."""
    server = start(start_server, fault, worker)
    for path in ("/event/", "/lean/", "/function/", "/helper/") * 3:
        assert close_code(server, path) == 1011
    with server.upgraded("/echo/") as wire:
        wire.send(frame(0x81, b"hello"))
        assert wire.frame() == (1, b"hello")


@pytest.mark.parametrize("worker", ["own", "stock"])
@pytest.mark.parametrize("what", ["timeout", "kill"])
def test_left_behind(start_server: StartServer, worker: str, what: str) -> None:
    """A timer that a view has left behind reaches no other socket of its greenlet."""
    settings = {"WEBSOCKET_URLCONF": "tests.project.faulty", "WEBSOCKET_HANDLER_GREENLETS": 1}
    server = start_server(worker, env={"TEST_SETTINGS": json.dumps(settings)})
    with server.upgraded("/forgetful/") as first, server.upgraded("/forgetful/") as second:
        first.send(frame(0x81, what.encode()))
        assert first.frame() == (1, what.encode())
        second.send(frame(0x81, b"wait"))
        server.wait_for_log("Ignoring .*, which came after its event view had returned")
        server.get("/let-go/waiting/")
        assert second.frame() == (1, b"wait")
        # No other socket uses the greenlet when the timer is due.
        first.send(frame(0x81, what.encode()))
        assert first.frame() == (1, what.encode())
        server.wait_for_log("(?s)Ignoring .*Ignoring ")
        for wire in (first, second):
            wire.send(frame(0x81, b"x"))
            assert wire.frame() == (1, b"x")
        # A view's own timeout arrives.
        second.send(frame(0x81, b"own timeout"))
        assert second.frame() == (8, b"\x03\xf3500 Internal Server Error")


@pytest.mark.parametrize("worker", WORKERS)  # runserver does not start without a database
def test_session_cannot_be_read(start_server: StartServer, worker: str, tmp_path: Path) -> None:
    """Django reports it like an error of a view, and the response is the site's 500."""
    server = start_server(worker, env={"TEST_DATABASE": str(tmp_path / "missing" / "database")})
    answer = server.refused("/echo/", {"Cookie": f"sessionid={'x' * 32}"})
    assert (answer.status, "Server Error" in answer.text) == (500, True)
    server.wait_for_log(r"Internal Server Error: /echo/\n")
    server.wait_for_log("OperationalError: unable to open database file")
    assert "Error handling request" not in server.log
    with server.upgraded("/echo/") as wire:
        wire.send(frame(0x81, b"hello"))
        assert wire.frame() == (1, b"hello")
