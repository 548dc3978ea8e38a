"""Counters and gauges, added up over all workers."""

from __future__ import annotations

from contextlib import ExitStack

from tests.gauges import wait_until
from tests.support import TIMEOUT, frame

from .conftest import Site


def test_counters(both: Site) -> None:
    """Sums include open and closed sockets of all workers, and do not fall when a socket closes."""
    before = both.counters()
    with ExitStack() as stack:
        for path in ("/echo/", "/events/echo/", "/burst/1000/100/"):
            websocket = stack.enter_context(both.server.connect(path))
            for number in range(10 * (path != "/burst/1000/100/")):
                websocket.send(str(number))
                websocket.recv(timeout=TIMEOUT)
        for _ in range(1000):
            websocket.recv(timeout=TIMEOUT)
        during = both.counters()
    wait_until(lambda: both.counters()["open"] == before["open"], "sockets closed")
    after = both.counters()
    assert during["open"] >= before["open"] + 2
    assert during["sockets_opened"] == after["sockets_opened"] == before["sockets_opened"] + 3
    for counters in (during, after):
        assert counters["messages_received"] == before["messages_received"] + 20
        assert counters["messages_sent"] == before["messages_sent"] + 1020
        assert counters["sent_bytes"] == before["sent_bytes"] + 20 * 3 + 1000 * 102
        assert counters["received_bytes"] >= before["received_bytes"] + 20 * 7
    # One more for disconnect().
    assert after["handler_calls"] == before["handler_calls"] + 11
    assert after["handler_seconds"] > before["handler_seconds"]
    assert after["handler_calls_within_10"] == after["handler_calls"]


def test_refusals_and_groups(both: Site) -> None:
    """Refusals by Django and malformed handshakes count, and so do deliveries of groups."""
    before = both.counters()
    assert both.server.refused("/nowhere/").status == 404
    assert both.server.refused("/echo/", {"Sec-WebSocket-Version": "12"}).status == 426
    with both.server.connect("/group/") as one, both.server.connect("/group/") as two:
        assert [*both.sockets("--group", "test")] == ["/group/"]
        one.send("hello")
        assert one.recv(timeout=TIMEOUT) == two.recv(timeout=TIMEOUT) == "hello"
    after = both.counters()
    assert after["handshakes_refused"] == before["handshakes_refused"] + 2
    assert after["group_publishes"] == before["group_publishes"] + 1
    assert after["group_deliveries"] == before["group_deliveries"] + 2


def test_queues(both: Site) -> None:
    """Counters show what waits for a slow peer and for a slow view."""
    with both.server.upgraded("/late-echo/slow/") as wire:
        wire.send(frame(0x81, b"x") * 5)
        wait_until(lambda: both.counters()["unread_messages"] == 5, "messages that wait")
        assert both.counters()["unread_messages_max"] == 5
        assert both.sockets()["/late-echo/slow/"]["unread"] == 5
    with both.server.upgraded("/overflowing/", receive_buffer=4096) as wire:
        wait_until(lambda: both.counters()["unsent_bytes"] > 2**20, "bytes that wait")
        assert both.counters()["unsent_bytes_max"] > 2**20
        wire.reset()


def test_handlers(both: Site) -> None:
    """A counter shows the messages that are being handled."""
    with both.server.connect("/events/slow/") as websocket:
        for _ in range(20):
            websocket.send("take your time")
        wait_until(lambda: both.counters()["handlers_running"] == 1, "a handler at work")
    wait_until(lambda: both.counters()["handlers_running"] == 0, "none at work")
