"""The queue of data that waits for a peer."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import Iterator

import pytest

from django_wsmux.transports.send_queue import SendQueue

#: Size of a large message, several times the buffers of a socket.
LARGE = 4 * 2**20


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A non-blocking socket, and its peer."""
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        yield ours, peer


def send_most(queue: SendQueue, ours: socket.socket, peer: socket.socket) -> int:
    """Send more than half of a large message; return the number of bytes."""
    total = 0
    while total <= LARGE // 2:
        sent, is_all = queue.send(ours)
        assert not is_all
        total += sent
        peer.setblocking(False)
        while sent:
            sent -= len(peer.recv(sent))
    return total


def test_rest_of_a_large_message(pair: tuple[socket.socket, socket.socket]) -> None:
    """If no one else holds a large message, only its rest is kept once another one is queued."""
    tracemalloc.start()
    try:
        queue = SendQueue()
        queue.append(bytes(LARGE), 0)
        total = send_most(queue, *pair)
        queue.append(b"x", 0)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < LARGE - total + LARGE // 10


def test_rest_of_a_message_of_a_group(pair: tuple[socket.socket, socket.socket]) -> None:
    """A message that others hold too is not copied."""
    message = bytes(LARGE)
    tracemalloc.start()
    try:
        queue = SendQueue()
        queue.append(message, 0)
        send_most(queue, *pair)
        queue.append(b"x", 0)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < LARGE // 10


def test_order(pair: tuple[socket.socket, socket.socket]) -> None:
    """Data arrives in the order of the queue, copied or not."""
    ours, peer = pair
    parts = [bytes([number]) * (LARGE if number % 2 else 100) for number in range(6)]
    queue, received = SendQueue(), bytearray()
    peer.setblocking(False)
    for part in parts:
        queue.append(part, 1)
        is_all = False
        while not is_all and len(received) < LARGE // 2:
            sent, is_all = queue.send(ours)
            received += peer.recv(sent) if sent else b""
    is_all = False
    while not is_all or len(received) < sum(map(len, parts)) - len(parts):
        _, is_all = queue.send(ours)
        received += peer.recv(2**20)
    assert received == b"".join(part[1:] for part in parts)
