"""Sockets on gevent's hub while no view waits, or no handler is free."""

from __future__ import annotations

from tests.implementations import run_in_each

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
    """Run a program with each implementation of the reactor."""
    run_in_each(PREPARED + program)


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


def test_message_after_the_wait() -> None:
    """A message that arrives while the view computes is queued, however the view has waited."""
    run("""
seen = []

def view():
    for timeout in (0.001, None, 60, None):
        try:
            seen.append(websocket.receive(timeout))
        except TimeoutError:
            seen.append(timeout)
        computing.set()
        go_on.wait()
        go_on.clear()

websocket, peer = opened()
computing, go_on = event.Event(), event.Event()
gevent.spawn(view)
for text in b"first", b"second", b"third":
    computing.wait()
    computing.clear()
    peer.sendall(frame(0x81, text))
    while not websocket.unread:
        gevent.sleep(0.001)
    assert websocket._waiter is None
    go_on.set()
computing.wait()
assert seen == [0.001, "first", "second", "third"], seen
""")


def test_replay_to_a_slow_peer() -> None:
    """What a replay sends while the queue becomes empty is sent as a whole."""
    run("""
import dataclasses
import random
from django_wsmux.protocol.frames import encode
from django_wsmux.protocol.prepared import PreparedMessage

for seed in range(20):
    chance = random.Random(seed)
    websocket, peer = opened()
    limit = chance.choice((20_000, 60_000, 200_000))
    websocket.options = dataclasses.replace(websocket.options, max_unsent_bytes=limit)
    buffer = chance.choice((4_608, 9_000, 20_000))
    websocket._transport._stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    websocket.hold()
    own = bytes(chance.randrange(1_000, 15_000))
    websocket.send(own)
    payloads = [b"%04d" % i * chance.randrange(1, 2_500) for i in range(60)]
    websocket.replay([PreparedMessage(2, each) for each in payloads], lambda message: False)
    websocket.release()
    expected = b"".join(encode(2, each) for each in (own, *payloads))
    arrived = bytearray()
    peer.settimeout(30)
    while len(arrived) < len(expected):
        arrived += peer.recv(chance.randrange(1, 9_000))
    assert arrived == expected
    peer.close()
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


def test_implementations() -> None:
    """The programs of these tests run with the implementation that they ask for."""
    for name, kind in {
        "C": "django_wsmux.connection._reactor.Reactor",
        "Python": "django_wsmux.transports.reactor._EpollReactor",
        "watchers": "django_wsmux.transports.reactor._Watchers",
    }.items():
        program = PREPARED + (
            "websocket, peer = opened()\n"
            "used = transport.reactor.reactor()\n"
            "kind = type(getattr(used, '_reactor', used))\n"
            f"assert f'{{kind.__module__}}.{{kind.__qualname__}}' == {kind!r}, kind\n"
        )
        run_in_each(program, (name,))
