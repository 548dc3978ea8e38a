"""The ends of a unix stream: what is queued, and when it is sent."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from django_wsmux.backends.packets import Kind, unpack
from django_wsmux.backends.unix_stream import Incoming, Link, StaleSocket, frame

PEER, SENDER = b"p" * 16, b"s" * 16


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A path that is short enough."""
    return str(tmp_path_factory.mktemp("u") / "s")


@pytest.fixture
def listener(path: str) -> Iterator[socket.socket]:
    """A listening socket with a backlog of one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(path)
        sock.listen(0)
        yield sock


def accept(listener: socket.socket) -> Incoming:
    """Accept the next connection."""
    return Incoming(listener.accept()[0].detach())


def read_all(incoming: Incoming) -> list[bytes]:
    """Return all bytes that have arrived."""
    found: list[bytes] = []
    while packets := incoming.read():
        found += packets
    return found


def test_sends_at_once(listener: socket.socket, path: str) -> None:
    """Nothing is queued while the peer has room."""
    link = Link(path, PEER, SENDER, 1000)
    incoming = accept(listener)
    assert link.send(frame(b"one"))
    assert link.send(frame(b""))
    assert link.backlog == 0
    assert incoming.read() == [b"one", b""]
    assert incoming.read() == []
    link.close()
    assert incoming.read() is None
    incoming.close()


def test_full_backlog(listener: socket.socket, path: str) -> None:
    """A peer that does not accept is connected to later; messages sent meanwhile come in order."""
    others = []
    while True:
        other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        other.setblocking(False)
        others.append(other)
        try:
            other.connect(path)
        except BlockingIOError:
            break
    link = Link(path, PEER, SENDER, 1000)
    assert link.fd < 0
    assert link.send(frame(b"one"))
    assert link.send(frame(b"two"))
    link.flush()
    assert link.backlog == 14
    for _ in others[:-1]:
        accept(listener).close()
    link.flush()
    assert link.backlog == 0
    incoming = accept(listener)
    assert incoming.read() == [b"one", b"two"]
    for other in others:
        other.close()
    link.close()
    incoming.close()


def test_dead_while_unconnected(listener: socket.socket, path: str) -> None:
    """A peer that ends before it could be connected to is dead."""
    link = Link(path, PEER, SENDER, 1000)
    accept(listener).close()
    listener.close()
    assert link.send(frame(b"one")) is False
    assert link.is_dead
    link.close()
    with pytest.raises(StaleSocket):
        Link(path, PEER, SENDER, 1000)


def test_overflow(listener: socket.socket, path: str) -> None:
    """Messages that do not fit into the queue are counted, and reported in their place."""
    link = Link(path, PEER, SENDER, 100_000)
    incoming = accept(listener)
    sent = 0
    while link.send(frame(b"%07d" % sent + bytes(10_000))):
        sent += 1
    assert not link.send(frame(b"x" * 10_007))
    assert link.dropped == 2
    assert 90_000 < link.backlog <= 100_000
    found = read_all(incoming)
    while link.backlog:
        link.flush()
        found += read_all(incoming)
    assert link.send(frame(b"afterwards"))
    found += read_all(incoming)
    assert [packet[:7] for packet in found[:sent]] == [b"%07d" % number for number in range(sent)]
    gap = unpack(found[sent])
    assert (gap.kind, gap.sender, int.from_bytes(gap.payload, "big")) == (Kind.GAP, SENDER, 2)
    assert found[sent + 1 :] == [b"afterwards"]
    link.close()
    incoming.close()


def test_in_pieces(path: str) -> None:
    """Frames may arrive in pieces of any size."""
    ours, theirs = socket.socketpair()
    incoming = Incoming(theirs.detach())
    data = frame(b"one") + frame(b"") + frame(b"x" * 300)
    found: list[bytes] = []
    for index in range(len(data)):
        ours.send(data[index : index + 1])
        found += incoming.read() or []
    assert found == [b"one", b"", b"x" * 300]
    ours.close()
    incoming.close()
