"""Sockets used from threads other than the hub's."""

from __future__ import annotations

from tests.transports.test_gevent import run

#: ``elsewhere()`` calls a function in a native thread and returns the text of its exception.
NATIVE = """
def elsewhere(function, *args):
    def call():
        try:
            function(*args)
        except RuntimeError as error:
            return str(error)
    return gevent.get_hub().threadpool.apply(call)

websocket, peer = opened()
"""


def test_native_thread() -> None:
    """A call from a thread other than the hub's is refused, with advice."""
    run(
        NATIVE
        + """
for call in (lambda: websocket.send("x"), lambda: websocket.send(b"x" * 9000), websocket.ping,
             websocket.close):
    assert "run_callback_threadsafe(gevent.spawn, websocket.send" in elsewhere(call)
assert not websocket.closed
loop = gevent.get_hub().loop
elsewhere(loop.run_callback_threadsafe, gevent.spawn, websocket.send, "as advised")
assert peer.recv(100) == b"\\x81\\x0aas advised"
"""
    )


def test_native_thread_and_groups() -> None:
    """Messages to groups from another thread are passed on by the hub."""
    run(
        NATIVE
        + """
from django_wsmux.protocol.prepared import PreparedMessage
from django_wsmux.groups.members import Members

members = Members()
members.add("room", websocket)
assert elsewhere(members.deliver, "room", PreparedMessage(1, b"hello")) is None
assert peer.recv(100) == b"\\x81\\x05hello"
assert elsewhere(members.close, "room", 4000, "bye") is None
assert peer.recv(100) == b"\\x88\\x05\\x0f\\xa0bye"
"""
    )
