"""Many greenlets that send on one socket at the same time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from websockets.sync.client import ClientConnection

from tests.gauges import MIB, growth, reported
from tests.support import TIMEOUT, WORKERS, Server, frame, tls_context

StartServer = Callable[..., Server]


def song(number: int, size: int) -> bytes:
    """Return what the singer of this number of ``/chorus/`` sends."""
    return (b"%03d " % number) * (size // 4)


def hear(websocket: ClientConnection, singers: int, size: int, echoes: int) -> None:
    """Talk while all sing; every message must arrive whole and once, the echoes in order."""
    numbers = set()
    heard = 0
    for number in range(echoes):
        websocket.send(f"echo {number}")
    for _ in range(singers + echoes):
        message = websocket.recv(timeout=TIMEOUT)
        if isinstance(message, str):
            assert message == f"echo {heard}"
            heard += 1
        else:
            assert message == song(int(message[:3]), size)
            numbers.add(int(message[:3]))
    assert heard == echoes
    assert numbers == set(range(singers))


def test_large_messages(gunicorn: Server) -> None:
    """40 greenlets send 4 MiB each while the view echoes; memory is released afterwards."""
    size = 4 * MIB
    expected = {number: song(number, size) for number in range(40)}
    with growth(gunicorn), gunicorn.upgraded(f"/chorus/40/{size}/") as wire:
        echoes = 0
        while expected:
            # A message to receive for each one sent.
            wire.send(frame(0x81, b"echo"))
            opcode, payload = wire.frame()
            if opcode == 1:
                assert payload == b"echo"
                echoes += 1
            else:
                assert payload == expected.pop(int(payload[:3]))
        wire.send(frame(0x81, b"last"))
        while (received := wire.frame()) == (1, b"echo"):
            echoes += 1
        assert received == (1, b"last")
        assert echoes >= 40


@pytest.fixture(scope="module", params=WORKERS)
def secure(
    request: pytest.FixtureRequest, start_lasting_server: StartServer, certificate: Path
) -> Server:
    """A server that terminates TLS."""
    options = ("--certfile", str(certificate), "--keyfile", str(certificate))
    return start_lasting_server(request.param, *options)


@pytest.mark.parametrize(("singers", "size"), [(100, 262_144), (1000, 12_000), (1000, 400)])
def test_tls(secure: Server, certificate: Path, singers: int, size: int) -> None:
    """The same works through TLS, where encrypted data must be sent before anything else."""
    context = tls_context(certificate)
    with secure.connect(f"/chorus/{singers}/{size}/", ssl=context) as websocket:
        hear(websocket, singers, size, echoes=50)
    assert websocket.close_code == 1000


@pytest.mark.parametrize("takeover", ["false", "true"])
def test_compression(start_server: StartServer, takeover: str) -> None:
    """The same works compressed; with a kept context, messages must be compressed in wire order."""
    setting = f'{{"context_takeover": {takeover}, "threshold": 100}}'
    server = start_server("own", env={"TEST_COMPRESSION": setting})
    with server.connect("/chorus/40/400000/") as websocket:
        hear(websocket, 40, 400_000, echoes=50)
    assert websocket.close_code == 1000


def test_queue_is_bounded(gunicorn: Server) -> None:
    """Concurrent senders queue no more than the limit: here, one message."""
    key = uuid4().hex
    with gunicorn.upgraded(f"/crowd/{key}/", receive_buffer=4096):
        # WEBSOCKET_MAX_UNSENT_BYTES is 1 MiB, and so is each of the 50 messages.
        assert int(reported(gunicorn, key)) <= MIB + 10
