"""Sockets taken over from a server."""

from __future__ import annotations

import socket

import pytest

from django_wsmux.transports.streams import JoiningSocket, detach_plain


def test_detach_plain() -> None:
    """The stream has the descriptor and does not block; the server's object is detached."""
    theirs, peer = socket.socketpair()
    with peer:
        descriptor = theirs.fileno()
        stream = detach_plain(theirs)
        assert stream.fileno() == descriptor
        theirs.close()
        with pytest.raises(BlockingIOError):
            stream.recv_into(bytearray(10))
        assert stream.sendmsg((b"one ", b"two")) == 7
        assert peer.recv(10) == b"one two"
        stream.close()
        assert peer.recv(10) == b""


def test_joining() -> None:
    """Without sendmsg(), two parts are still sent as one."""
    ours, theirs = socket.socketpair()
    stream = JoiningSocket(fileno=ours.detach())
    with theirs:
        assert stream.sendmsg((b"one ", b"two")) == 7
        assert theirs.recv(10) == b"one two"
    stream.close()
