"""gunicorn's HTTP parsers: bytes that one has read past the handshake are not lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version

import pytest

from tests.support import Server, frame, handshake

#: gunicorn 25 and later have one in C too.
PARSERS = ["python", "fast"] if int(version("gunicorn").partition(".")[0]) >= 25 else [None]


@pytest.fixture(params=PARSERS, scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Our worker with one of the parsers."""
    options = ["--http-parser", request.param] if request.param else []
    server = Server.gunicorn("own", *options)
    yield server
    server.stop()


def test_early_frames(server: Server) -> None:
    """Frames that come with the handshake are not lost, even if one is incomplete."""
    early, bird = frame(0x81, b"early"), frame(0x82, b"bird")
    with server.wire() as wire:
        wire.send(handshake("/echo/") + early + bird[:4])
        assert wire.head().startswith("HTTP/1.1 101 ")
        assert wire.frame() == (1, b"early")
        wire.send(bird[4:])
        assert wire.frame() == (2, b"bird")


def test_many_early_frames(server: Server) -> None:
    """The same holds for more frames than the parser reads at once."""
    with server.wire() as wire:
        wire.send(handshake("/echo/") + b"".join(frame(0x81, b"%d" % n) for n in range(5000)))
        assert wire.head().startswith("HTTP/1.1 101 ")
        assert [wire.frame()[1] for _ in range(5000)] == [b"%d" % n for n in range(5000)]


def test_after_a_page(server: Server) -> None:
    """A handshake may follow a page on the same connection, in the same segment."""
    page = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with server.wire() as wire:
        wire.send(page + handshake("/echo/") + frame(0x81, b"x"))
        length = re.search(r"Content-Length: (\d+)", wire.head())
        assert length is not None
        assert wire.read(int(length[1])).startswith(b"plain")
        assert wire.head().startswith("HTTP/1.1 101 ")
        assert wire.frame() == (1, b"x")


def test_refusal(server: Server) -> None:
    """After a refused handshake, the connection serves pages."""
    with server.wire() as wire:
        wire.send(handshake("/nothing-here/"))
        assert wire.response().status == 404
        wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert wire.response().status == 200
