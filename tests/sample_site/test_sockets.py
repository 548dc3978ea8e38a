"""Chat, echo and ping on the wire."""

from __future__ import annotations

import json

import pytest

from tests.support import TIMEOUT, Server

LINE = {"user": "Ada", "colour": "#7b3fa0", "text": "hello"}
SAY = {"type": "say", **LINE}


@pytest.mark.parametrize("path", ["/", "/chat/", "/notify/", "/echo/", "/ping/", "/redis-chat/"])
def test_pages(site: Server, path: str) -> None:
    """Each page exists, with script and style; notifications require a login."""
    page = site.get(path)
    assert f"ws://127.0.0.1:{site.port}{path}" in page or path in ("/", "/notify/")
    assert "function showState" in site.get("/static/sample_site/page.js")
    assert ":root" in site.get("/static/sample_site/style.css")


def test_echo(site: Server) -> None:
    """Text and binary come back."""
    with site.connect("/echo/") as websocket:
        for message in ("text", b"binary", ""):
            websocket.send(message)
            assert websocket.recv(timeout=TIMEOUT) == message


def test_ping(site: Server) -> None:
    """ping and pong answer each other; other messages get no answer."""
    with site.connect("/ping/") as websocket:
        for message in ("ping", "Ping", "", b"ping", "pong"):
            websocket.send(message)
        assert [websocket.recv(timeout=TIMEOUT) for _ in range(2)] == ["pong", "ping"]


def test_chat(site: Server) -> None:
    """Every window receives a line from any window."""
    with site.connect("/chat/") as one, site.connect("/chat/") as two:
        one.send(json.dumps(SAY))
        for websocket in (one, two):
            assert LINE.items() <= json.loads(websocket.recv(timeout=TIMEOUT)).items()


def test_plain_text_is_a_line(site: Server) -> None:
    """Plain text, for example from a terminal client, is a line."""
    with site.connect("/chat/") as websocket:
        websocket.send("just text")
        line = json.loads(websocket.recv(timeout=TIMEOUT))
        assert (line["user"], line["text"]) == ("guest", "just text")


@pytest.mark.parametrize(
    ("change", "field"), [({"text": ""}, "text"), ({"colour": "red"}, "colour")]
)
def test_form_errors(site: Server, change: dict[str, str], field: str) -> None:
    """Only the sender of an invalid message is told."""
    with site.connect("/chat/") as websocket:
        websocket.send(json.dumps({**SAY, **change}))
        assert list(json.loads(websocket.recv(timeout=TIMEOUT))["errors"]) == [field]


def test_redis_chat(redis_site: Server) -> None:
    """Lines go through Redis; none is lost when several come at once."""
    with redis_site.connect("/redis-chat/") as one, redis_site.connect("/redis-chat/") as two:
        for number in range(50):
            one.send(json.dumps({**LINE, "text": str(number)}))
        for websocket in (one, two):
            lines = [json.loads(websocket.recv(timeout=TIMEOUT)) for _ in range(50)]
            assert [line["text"] for line in lines] == [str(number) for number in range(50)]


def test_redis_chat_without_redis(site: Server) -> None:
    """Without Redis, the handshake is refused with 503, and the page says why."""
    assert site.refused("/redis-chat/").status == 503
    page = site.get("/redis-chat/")
    assert "no server answers at <code>redis://127.0.0.1:" in page
    assert "docker run -p 6379:6379 redis" in page
