"""Sockets on gevent's hub: what happens while nobody waits, or nobody is free."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT

#: A patched process with a framework that does nothing; ``opened()`` returns a socket and its peer.
PREPARED = """
from gevent import monkey
monkey.patch_all()
from types import SimpleNamespace
import gevent
from gevent import event, socket
from django_wsmux.protocol.options import Options
from django_wsmux.server import transport
from django_wsmux.server.streams import detach
from django_wsmux.server.websocket import WebSocket
from tests.support import frame

def nothing(*args):
    pass

def opened(**hooks):
    framework = dict.fromkeys(
        ("before_wait", "receive", "disconnect", "leave", "retire", "open"), nothing
    )
    options = Options(handler_greenlets=1, blocked_warning=0, close_timeout=0.1)
    websocket = WebSocket({"PATH_INFO": "/"}, options, SimpleNamespace(**framework | hooks))
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
    """To give database connections back may take a while: what comes meanwhile is not missed."""
    run("""
def come():
    peer.sendall(frame(0x81, b"hello"))
    gevent.sleep(0.01)

websocket, peer = opened(before_wait=come)
assert websocket.receive(1) == "hello"
""")


def test_close_before_the_wait() -> None:
    """A socket that closes meanwhile is not waited for."""
    run("""
def leave():
    peer.close()
    gevent.sleep(0.01)

websocket, peer = opened(before_wait=leave)
assert websocket.receive(1) is None
""")


#: All handlers are busy, and there is a message of another socket.
WAITING = """
from django_wsmux.server.counters import counters

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


def test_in_line() -> None:
    """A message that waits for a free handler is an unread one, and comes before the next."""
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


def test_in_line_when_it_closes() -> None:
    """What waits for a free handler is dropped when the server closes the socket."""
    run(
        WAITING
        + """
websocket.close()
over.set()
gevent.sleep(0.01)
assert not seen
"""
    )


def test_in_line_when_it_is_lost() -> None:
    """It is counted, and still handled, when the peer is gone before its turn comes."""
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
