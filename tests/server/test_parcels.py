"""Messages between two workers, and what is not accepted as one."""

from __future__ import annotations

import fcntl
import json
import os
import socket as plain_socket
from collections.abc import Iterator
from typing import Any

import pytest
from gevent import socket

from django_wsmux.server import parcels
from django_wsmux.server.parcels import MOST_FDS, Damaged, Parcel, receive, send


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    """Both ends of a connection."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ends
    for end in ends:
        end.close()


def open_files() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    "parcel",
    [
        Parcel("hello", {"version": 1}),
        Parcel("ask", {"text": "\ud800 é", "none": None, "list": [1, 2.5, True]}),
        Parcel("ask", {"quotes": '"' * 2040}),
        Parcel("ask", {"long": "x" * 1_000_000}),
        Parcel("batch", {}, bytes(range(256)) * 10_000),
        Parcel("batch", {"more": 1}, b""),
    ],
    ids=["short", "values", "quotes", "long", "bytes", "nothing"],
)
def test_round(pair: tuple[Any, Any], parcel: Parcel) -> None:
    """A message arrives as it was sent."""
    send(pair[0], parcel)
    received = receive(pair[1])
    assert received == parcel


def test_descriptors(pair: tuple[Any, Any]) -> None:
    """Descriptors arrive as copies; no other stays open."""
    ours, theirs = plain_socket.socketpair()
    before = open_files()
    send(pair[0], Parcel("batch", {}, b"x", [theirs.fileno()] * 2))
    parcel = receive(pair[1])
    assert parcel is not None
    assert open_files() == before + 2
    theirs.close()
    for fd in parcel.fds:
        copy = plain_socket.socket(fileno=fd)
        copy.sendall(b"x")
        assert ours.recv(1) == b"x"
        assert not copy.get_inheritable()
        copy.close()
    assert ours.recv(1) == b""
    ours.close()


def test_end(pair: tuple[Any, Any]) -> None:
    """What was sent before the end is received, even if the other has left something unread."""
    send(pair[0], Parcel("ok", {}))
    send(pair[1], Parcel("unread", {}))
    pair[0].close()
    assert receive(pair[1]) == Parcel("ok", {})
    assert receive(pair[1]) is None


def test_nobody_reads(pair: tuple[Any, Any]) -> None:
    """To send to a process that has ended is an error, and leaves nothing open."""
    pair[1].close()
    before = open_files()
    with pytest.raises(BrokenPipeError):
        send(pair[0], Parcel("batch", {}, b"x"))
    assert open_files() == before


def test_too_many(pair: tuple[Any, Any]) -> None:
    """A message with too many descriptors is not sent."""
    with pytest.raises(ValueError, match="253 descriptors"):
        send(pair[0], Parcel("batch", {}, b"", [0] * (MOST_FDS + 1)))


def sealed(content: bytes, seals: int = parcels._SEALS) -> int:
    """Return a memfd."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def head(**values: Any) -> bytes:
    """Return the visible part of a message with the content ``{}``."""
    return json.dumps({"kind": "batch", "text_size": 2, "size": 2, "fds": 0, **values}).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff", "not JSON"),
        (b"[" * 10_000, "not JSON"),
        (b"[]", "not an object"),
        (b"{}", "kind"),
        (head(text="[]"), "no content"),
        (head(size=None), "sizes"),
        (head(size=True), "sizes"),
        (head(fds=1), "1 descriptors"),
        (head(size=3), "may change"),
        (head(text_size=3), "2 bytes"),
        (head(text_size=-1), "2 bytes"),
        (head(size=2**31, text_size=2), "2147483648 bytes"),
        (b" " * 40_000, "cut off"),
    ],
)
def test_damaged(pair: tuple[Any, Any], data: bytes, reason: str) -> None:
    """A message of another form is refused, and its descriptors are closed."""
    before = open_files()
    fd = sealed(b"{}")
    plain_socket.send_fds(pair[0]._sock, [data], [fd])
    os.close(fd)
    with pytest.raises(Damaged, match=reason):
        receive(pair[1])
    assert open_files() == before


def test_unsealed(pair: tuple[Any, Any]) -> None:
    """Content that the sender could still change is refused."""
    fd = sealed(b"{}", parcels._SEALS & ~fcntl.F_SEAL_WRITE)
    plain_socket.send_fds(pair[0]._sock, [head()], [fd])
    os.close(fd)
    with pytest.raises(Damaged, match="may change"):
        receive(pair[1])


def test_other_files(pair: tuple[Any, Any]) -> None:
    """Descriptors must be sockets, and the content a memfd."""
    before = open_files()
    fd, other = sealed(b"{}"), os.open("/dev/null", os.O_RDONLY)
    plain_socket.send_fds(pair[0]._sock, [head(fds=1)], [fd, other])
    with pytest.raises(Damaged, match="no socket"):
        receive(pair[1])
    plain_socket.send_fds(pair[0]._sock, [head()], [other])
    with pytest.raises(Damaged, match="may change"):
        receive(pair[1])
    os.close(fd)
    os.close(other)
    assert open_files() == before
