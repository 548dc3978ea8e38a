"""Sockets that move from one connection to another, at any moment."""

from __future__ import annotations

import sys

import pytest

from .test_gevent import run

#: ``move()`` moves an event view's socket from its connection to a new one.
PREPARED = """
import json
from django_wsmux.connection.counters import counters
from django_wsmux.connection import registry
from django_wsmux.protocol.deflate import Compression
from django_wsmux.protocol.events import CannotMove
from django_wsmux.protocol.options import Options
from django_wsmux.protocol.prepared import PreparedMessage

seen = []
left = []

def served(**limits):
    framework = Framework(
        receive=lambda websocket, message: seen.append(message),
        leave=left.append,
        disconnect=lambda websocket: seen.append(websocket.close_code),
        is_disconnecting=lambda websocket: False,
        **dict.fromkeys(("before_wait", "retire", "open"), nothing),
    )
    options = Options(handler_greenlets=1, blocked_warning=0, ping_interval=0, **limits)
    return WebSocket({"PATH_INFO": "/"}, options, framework)

def begin(websocket):
    ours, peer = socket.socketpair()
    websocket.opened(transport.transport_for(detach(ours), websocket), b"", b"")
    websocket.serve()
    return peer

def take(detached, websocket):
    state = json.loads(json.dumps(detached.codec_state))
    carrier = transport.GeventTransport.adopt(detached._replace(codec_state=state), websocket)
    websocket.serve()
    return carrier

def move(websocket, **limits):
    gevent.sleep(0)
    gevent.sleep(0.002)
    detached = websocket._transport.detach()
    assert websocket.closed
    other = served(**limits)
    other.adopted(take(detached, other), detached)
    other.resume(detached.unread)
    assert registry.open_sockets == {other}
    return other

def refused(websocket):
    before = registry.open_sockets.copy()
    try:
        websocket._transport.detach()
    except CannotMove as error:
        assert registry.open_sockets == before
        return str(error)
"""


def test_anywhere_in_the_stream() -> None:
    """A socket moves after any byte: in a frame or character, between fragments, at a ping."""
    run(
        PREPARED
        + """
stream = b"".join((
    frame(0x81, b"whole"),
    frame(0x01, "jos\\u00e9".encode()[:4]), frame(0x89, b"ping"),
    frame(0x80, "\\u00e9".encode()[1:] + b"!"),
    frame(0x02, bytes(range(200, 256))), frame(0x00, b"", b"\\0\\0\\0\\0"), frame(0x80, b"end"),
    frame(0x82, b"x" * 130),
))
expected = ["whole", "jos\\u00e9!", bytes(range(200, 256)) + b"end", b"x" * 130]
for cut in range(len(stream) + 1):
    seen.clear()
    websocket = served()
    peer = begin(websocket)
    peer.sendall(stream[:cut])
    websocket = move(websocket)
    peer.sendall(stream[cut:])
    gevent.sleep(0.002)
    while len(seen) < 4:
        gevent.sleep(0.01)
    assert seen == expected, (cut, seen)
    websocket.send("answer")
    assert peer.recv(100) == b"\\x8a\\x04ping\\x81\\x06answer", cut
    websocket._transport.abort()
    peer.close()
    while len(seen) < 5:
        gevent.sleep(0.001)
assert counters["received_bytes"] == len(stream) * (len(stream) + 1)
assert counters["sockets_opened"] == len(stream) + 1
"""
    )


def test_large_messages() -> None:
    """A socket moves within large frames, read into a buffer or decoded piece by piece."""
    run(
        PREPARED
        + """
binary, text = bytes(range(256)) * 2000, "\\u65e5" * 100_000
stream = frame(0x82, binary) + frame(0x81, text.encode())
websocket = served()
peer = begin(websocket)
step = 41_011
for start in range(0, len(stream), step):
    peer.sendall(stream[start:start + step])
    gevent.sleep(0.005)
    websocket = move(websocket)
while len(seen) < 2:
    gevent.sleep(0.01)
assert seen == [binary, text]
"""
    )


def test_unsent() -> None:
    """Unsent bytes go out first, then messages of groups, then later messages."""
    run(
        PREPARED
        + """
websocket = served()
peer = begin(websocket)
texts = [f"{number:09}" * 1000 for number in range(60)]
for text in texts:
    websocket.send(text)
    unsent = websocket.unsent
assert unsent > 100_000
peer.sendall(frame(0x89, b"due"))
gevent.sleep(0.01)
detached = websocket._transport.detach()
assert len(detached.unsent) == unsent + 5
assert not websocket.unsent
other = served()
carrier = take(detached, other)
other.deliver(PreparedMessage(1, b"group"))
peer.sendall(frame(0x81, b"hello"))
gevent.sleep(0.01)
assert not seen, "it reads before it is told to"
other.adopted(carrier, detached)
other.resume(detached.unread)
other.deliver(PreparedMessage(1, b"later"))
expected = b"".join(b"\\x81\\x7e" + (9000).to_bytes(2, "big") + each.encode() for each in texts)
expected += b"\\x8a\\x03due\\x81\\x05group\\x81\\x05later"
got = b""
with gevent.Timeout(30):
    while len(got) < len(expected):
        got += peer.recv(65536)
assert got == expected
assert seen == ["hello"]
other.close()
assert peer.recv(100) == b"\\x88\\x02\\x03\\xe8"
"""
    )


def test_the_old_one_is_left() -> None:
    """A moved socket has left its groups, its view is not told, and ``send()`` raises."""
    run(
        PREPARED
        + """
from django_wsmux.exceptions import ConnectionClosed

gone = []
websocket = served()
peer = begin(websocket)
websocket.on_close("group", lambda: gone.append("group"))
other = move(websocket)
assert left == [websocket]
assert gone == ["group"]
assert not registry.running_views
websocket.deliver(PreparedMessage(1, b"lost"))
websocket.close()
try:
    websocket.send("lost")
except ConnectionClosed:
    pass
else:
    raise AssertionError
gevent.sleep(0.01)
assert not seen
other.send("x")
assert peer.recv(100) == b"\\x81\\x01x"
peer.close()
with gevent.Timeout(30):
    while registry.open_sockets:
        gevent.sleep(0.01)
gevent.sleep(0.01)
assert seen == [1006]
"""
    )


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_watcher_stays() -> None:
    """The kernel reports no events of a detached descriptor with an open copy."""
    run(
        PREPARED
        + """
import os
from contextlib import suppress

def watched(fd):
    # The reactor's epoll, and that of gevent's loop.
    found = []
    for number in os.listdir("/proc/self/fdinfo"):
        lines = []
        with suppress(FileNotFoundError), open(f"/proc/self/fdinfo/{number}") as info:
            lines = [line.split() for line in info if line.startswith("tfd:")]
        found += [line for line in lines if int(line[1]) == fd]
    return found

websocket = served()
peer = begin(websocket)
gevent.sleep(0.01)
fd = websocket._transport._stream.fileno()
assert watched(fd)
detached = websocket._transport.detach()
copy = os.dup(detached.fd)
os.close(detached.fd)
gevent.sleep(0.01)
assert not watched(fd)
peer.sendall(frame(0x81, b"hello"))
other = served()
other.adopted(take(detached._replace(fd=copy), other), detached._replace(fd=copy))
other.resume(detached.unread)
with gevent.Timeout(30):
    while not seen:
        gevent.sleep(0.01)
assert seen == ["hello"]
"""
    )


def test_compressed() -> None:
    """Compression without context takeover continues, even if the new process does not offer it."""
    run(
        PREPARED
        + """
websocket = served(compression=Compression(threshold=10))
assert websocket.negotiate("permessage-deflate")
peer = begin(websocket)
for limits in ({"compression": Compression(threshold=10)}, {"compression": None}):
    websocket = move(websocket, **limits)
    websocket.send("x" * 1000)
    got = peer.recv(2000)
    assert got[0] == 0xc1 and len(got) < 100, got
    peer.sendall(frame(0xc1, got[2:]))
    gevent.sleep(0.01)
    assert seen.pop() == "x" * 1000
"""
    )


def test_refusals() -> None:
    """A socket that cannot be moved, or not now, gives the reason and continues."""
    run(
        PREPARED
        + """
import ssl
from django_wsmux.transports.streams import TLSStream

websocket = served(compression=Compression(context_takeover=True))
assert websocket.negotiate("permessage-deflate")
unused = begin(websocket)
assert "context" in refused(websocket)

websocket = served()
closed = begin(websocket)
websocket.hold()
assert "joins a group" in refused(websocket)
websocket.release()
websocket._is_busy = True
assert "messages to handle" in refused(websocket)
websocket._is_busy = False
websocket.fileno()
assert "fileno" in refused(websocket)
websocket.close()
assert "not open" in refused(websocket)
websocket._transport.abort()
assert refused(websocket) == "it is closed"

websocket = served()
ours, peer = socket.socketpair()
websocket.opened(transport.transport_for(detach(ours), websocket), b"", b"")
websocket.run(websocket.receive)
assert "running" in refused(websocket)
gevent.sleep(0.01)
assert "waits" in refused(websocket)
peer.sendall(frame(0x81, b"end"))
gevent.sleep(0.01)
assert refused(websocket) is None

websocket = served()
ours, encrypted = socket.socketpair()
class Session:
    def pending(self):
        return 0
stream = TLSStream(Session(), None, detach(ours))
websocket.opened(transport.transport_for(stream, websocket), b"", b"")
assert "encrypted" in refused(websocket)
websocket._transport.abort()
for each in (unused, closed, peer, encrypted):
    each.close()
"""
    )
