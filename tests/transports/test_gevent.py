"""Sockets on gevent's hub while no view waits, or no handler is free."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT

#: A patched process with hooks that do nothing; ``opened()`` returns a socket and its peer.
PREPARED = """
from gevent import monkey
monkey.patch_all()
import gevent
from gevent import event, socket
from django_wsmux.connection.interfaces import DefaultHooks
from django_wsmux.protocol.options import Options
from django_wsmux.transports import gevent as transport
from django_wsmux.transports.streams import detach
from django_wsmux.websocket import WebSocket
from tests.support import frame

def nothing(*args):
    pass

class Framework(DefaultHooks):
    def __init__(self, **hooks):
        vars(self).update(hooks)

def opened(**hooks):
    framework = dict.fromkeys(
        ("before_wait", "receive", "disconnect", "leave", "retire", "open"), nothing
    )
    options = Options(handler_greenlets=1, blocked_warning=0, close_timeout=0.1)
    websocket = WebSocket({"PATH_INFO": "/"}, options, Framework(**framework | hooks))
    ours, peer = socket.socketpair()
    websocket.opened(transport.transport_for(detach(ours), websocket), b"", b"")
    return websocket, peer
"""


def run(program: str) -> None:
    """Run a program in a process of its own."""
    command = [sys.executable, "-W", "error", "-c", PREPARED + program]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr


def test_message_before_the_wait() -> None:
    """A message that arrives while database connections are released is not missed."""
    run("""
from greenlet import getcurrent
from django_wsmux.connection.interfaces import MARK

setattr(getcurrent(), MARK, True)

def come():
    peer.sendall(frame(0x81, b"hello"))
    gevent.sleep(0.01)

websocket, peer = opened(before_wait=come)
assert websocket.receive(1) == "hello"
""")


def test_close_before_the_wait() -> None:
    """A view does not wait for a socket that closes meanwhile."""
    run("""
from greenlet import getcurrent
from django_wsmux.connection.interfaces import MARK

setattr(getcurrent(), MARK, True)

def leave():
    peer.close()
    gevent.sleep(0.01)

websocket, peer = opened(before_wait=leave)
assert websocket.receive(1) is None
""")


#: All handlers are busy, and a message of another socket waits.
WAITING = """
from django_wsmux.connection.counters import counters

seen, over = [], event.Event()
busy, other = opened(receive=lambda websocket, message: over.wait())
busy.serve()
websocket, peer = opened(receive=lambda websocket, message: seen.append(message))
websocket.serve()
other.sendall(frame(0x81, b"long"))
gevent.sleep(0.01)
peer.sendall(frame(0x81, b"waits"))
gevent.sleep(0.01)
assert websocket.unread == 1
"""


def test_waiting_message() -> None:
    """A message that waits for a free handler counts as unread, and comes before the next one."""
    run(
        WAITING
        + """
peer.sendall(frame(0x81, b"next"))
gevent.sleep(0.01)
assert websocket.unread == 2
over.set()
gevent.sleep(0.01)
assert seen == ["waits", "next"]
"""
    )


def test_waiting_message_when_closed() -> None:
    """A message that waits for a handler is dropped when the server closes the socket."""
    run(
        WAITING
        + """
websocket.close()
over.set()
gevent.sleep(0.01)
assert not seen
"""
    )


def test_waiting_message_when_lost() -> None:
    """A waiting message is counted, and still handled, if the peer closes before its turn."""
    run(
        WAITING
        + """
peer.close()
gevent.sleep(0.01)
assert counters["messages_received"] == 1
over.set()
gevent.sleep(0.01)
assert seen == ["waits"]
"""
    )


def test_held() -> None:
    """Group messages are held until the last release, in order, after those of the view."""
    run("""
from django_wsmux.protocol.prepared import PreparedMessage

websocket, peer = opened()
websocket.hold()
websocket.hold()
for text in (b"1", b"2"):
    websocket.deliver(PreparedMessage(1, text))
websocket.send("own")
websocket.release()
assert peer.recv(100) == b"\\x81\\x03own"
websocket.release()
websocket.deliver(PreparedMessage(1, b"3"))
assert peer.recv(100) == b"\\x81\\x011\\x81\\x012\\x81\\x013"
websocket.hold()
websocket.deliver(PreparedMessage(1, b"lost"))
websocket.close()
websocket.release()
assert peer.recv(100) == b"\\x88\\x02\\x03\\xe8"
""")


def test_lost_while_closing() -> None:
    """If its close frame cannot be sent, a socket is lost, and its view is told once."""
    run("""
import struct
from django_wsmux.connection import registry

told = []
websocket, peer = opened(disconnect=lambda websocket: told.append(websocket.close_code))
websocket.serve()
peer.close()
websocket._transport.pause()  # the loss has not been noticed yet
websocket.close_from_group(4000, "")
gevent.sleep(0.01)
assert told == [1006], told
assert not registry.running_views
assert not registry.open_sockets
""")


def test_tls_that_waits_for_the_peer() -> None:
    """If TLS must read before it can write, as in a new handshake, it does not retry in a loop."""
    run("""
import ssl
from django_wsmux.transports.streams import TLSStream

class Renegotiating:
    # What a session of _ssl does when the client has asked for a new handshake: OpenSSL 3 refuses.
    tries = 0
    def __init__(self, raw):
        self.raw = raw
    def pending(self):
        return 0
    def read(self, size, buffer):
        return self.raw.recv_into(buffer, size)
    def write(self, data):
        self.tries += 1
        try:
            self.raw.recv(1)
        except BlockingIOError:
            raise ssl.SSLWantReadError from None
        return self.raw.send(data)

ours, peer = socket.socketpair()
raw = detach(ours)
session = Renegotiating(raw)
framework = dict.fromkeys(("leave", "retire"), nothing)
websocket = WebSocket({"PATH_INFO": "/"}, Options(blocked_warning=0), Framework(**framework))
websocket.opened(transport.transport_for(TLSStream(session, None, raw), websocket), b"", b"")
websocket._transport.pause()
websocket.send("hello")
gevent.sleep(0.1)
assert session.tries < 5, session.tries
peer.send(b"!")
with gevent.Timeout(30):
    assert peer.recv(100) == b"\\x81\\x05hello"
peer.close()
websocket._transport.abort()
""")
