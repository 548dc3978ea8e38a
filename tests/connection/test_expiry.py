"""Sockets that expire."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from django_wsmux.connection import expiry
from django_wsmux.connection.keepalive import Keepalive
from tests.transports.test_gevent import run

CLOSED = b"\x88\x09\x11\x31expired"


class Clock:
    """The time, which a test sets."""

    def __init__(self) -> None:
        self.now = 1e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """A clock of the test, without sockets of other tests."""
    clock = Clock()
    monkeypatch.setattr(time, "time", lambda: clock.now)
    monkeypatch.setattr(expiry, "times", {})
    monkeypatch.setattr(expiry, "_soonest", float("inf"))
    yield clock
    assert not expiry.times


def test_none(connect: Callable[..., Any], clock: Clock) -> None:
    """By default a socket does not expire, and the keepalive does not wake for it."""
    pair = connect()
    pair.open()
    assert pair.websocket.expires_at is None
    assert Keepalive().sweep(0) is None


def test_datetime(connect: Callable[..., Any], clock: Clock) -> None:
    """A datetime needs a time zone, and a number must be finite."""
    pair = connect()
    pair.open()
    when = datetime.fromtimestamp(clock.now + 60, timezone(timedelta(hours=9)))
    pair.websocket.expires_at = when
    assert pair.websocket.expires_at == clock.now + 60
    with pytest.raises(ValueError, match="use a datetime with a time zone"):
        pair.websocket.expires_at = when.replace(tzinfo=None)
    for number in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match="use a finite number, or None"):
            pair.websocket.expires_at = number
    assert pair.websocket.expires_at == clock.now + 60
    pair.websocket.expires_at = None
    assert Keepalive().sweep(0) is None


def test_in_time(connect: Callable[..., Any], clock: Clock) -> None:
    """Each socket is closed at its time, not before; the sweep returns the next time."""
    first, second = connect(), connect()
    for pair, seconds in ((second, 60), (first, 10)):
        pair.open()
        pair.websocket.expires_at = clock.now + seconds
    assert first.websocket.expires_at == clock.now + 10
    keepalive = Keepalive()
    assert keepalive.sweep(500) == 510
    assert first.sent == second.sent == b"101 "
    clock.now += 10
    assert keepalive.sweep(510) == 560
    assert (first.sent, second.sent) == (CLOSED, b"")
    assert first.websocket.close_code == expiry.EXPIRED
    assert first.websocket.expires_at is None
    clock.now += 50
    assert keepalive.sweep(560) is None
    assert second.sent == CLOSED


def test_at_the_same_time(
    connect: Callable[..., Any], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other sockets have their turn while many sockets expire."""
    pairs = [connect() for _ in range(5)]
    for pair in pairs:
        pair.open()
        pair.websocket.expires_at = clock.now + 10
    clock.now += 10
    steps = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(steps) * 0.006)
    keepalive = Keepalive()
    open_after = []
    while keepalive.sweep(7) == 7:
        open_after.append(sum(pair.websocket.close_code is None for pair in pairs))
    assert open_after == [3, 1]
    assert {pair.websocket.close_code for pair in pairs} == {expiry.EXPIRED}


def test_put_off(connect: Callable[..., Any], clock: Clock) -> None:
    """The time can be postponed or removed; a closed socket has none."""
    later, never, closed = connect(), connect(), connect()
    for pair in (later, never, closed):
        pair.open()
        pair.websocket.expires_at = clock.now + 10
    later.websocket.expires_at = clock.now + 20
    never.websocket.expires_at = None
    closed.websocket.close()
    closed.websocket.expires_at = clock.now + 10
    clock.now += 19
    assert Keepalive().sweep(0) == 1
    assert later.sent == never.sent == b"101 "
    clock.now += 1
    assert Keepalive().sweep(1) is None
    assert later.sent == CLOSED


def test_before_the_101(connect: Callable[..., Any], clock: Clock) -> None:
    """The time may be set during the handshake, and may pass before its end."""
    pair, refused = connect(), connect()
    for each in (pair, refused):
        each.websocket.expires_at = clock.now + 1
    refused.websocket.abandon()
    clock.now += 1
    Keepalive().sweep(0)
    pair.open()
    assert pair.sent == b"101 " + CLOSED


@pytest.mark.parametrize("is_late", [False, True])
def test_on_the_hub(is_late: bool) -> None:
    """The sweeper wakes although nothing is to be pinged, even if the time is set later."""
    run(f"""
import time
options = Options(handler_greenlets=1, blocked_warning=0, ping_interval=0)
framework = Framework(**dict.fromkeys(("before_wait", "leave", "retire", "open"), nothing))
websocket = WebSocket({{"PATH_INFO": "/"}}, options, framework)
ours, peer = socket.socketpair()
carrier = transport.transport_for(detach(ours), websocket)
if not {is_late}:
    websocket.expires_at = time.time() + 0.2
websocket.opened(carrier, b"", b"")
if {is_late}:
    websocket.expires_at = time.time() + 0.2
with gevent.Timeout(30):
    assert peer.recv(100) == {CLOSED!r}
carrier.abort()
peer.close()
""")


def test_one_timer() -> None:
    """Hundreds of sockets that expire take no timer and no greenlet each, and all close in time."""
    run("""
import gc
import time
from greenlet import greenlet

hub = gevent.get_hub()
Timer = type(hub.loop.timer(1))

def census():
    gc.collect()
    found = gc.get_objects()
    counts = [sum(isinstance(each, kind) for each in found) for kind in (Timer, greenlet)]
    return [*counts, hub.loop.activecnt]

# The census notices what it is to notice.
before = census()
timers = [hub.loop.timer(3600) for _ in range(10)]
for each in timers:
    each.start(nothing)
greenlets = [gevent.spawn(gevent.sleep, 3600) for _ in range(10)]
gevent.sleep(0)
# Each sleep has a timer, too.
assert [now - then for now, then in zip(census(), before)] == [20, 10, 20]
gevent.killall(greenlets)
for each in timers:
    each.close()
del timers, greenlets, each

options = Options(handler_greenlets=1, blocked_warning=0, close_timeout=30, ping_interval=0)
framework = Framework(**dict.fromkeys(("before_wait", "leave", "retire", "open"), nothing))
sockets = []
for _ in range(300):
    websocket = WebSocket({"PATH_INFO": "/"}, options, framework)
    ours, peer = socket.socketpair()
    websocket.opened(transport.transport_for(detach(ours), websocket), b"", b"")
    sockets.append((websocket, peer))
del websocket, ours, peer
gevent.sleep(0)
before = census()
for index, (websocket, _) in enumerate(sockets):
    websocket.expires_at = time.time() + 60 + index
gevent.sleep(0.1)
growth = [now - then for now, then in zip(census(), before)]
# The timer of the sweeper, which had nothing to sweep before.
assert max(growth) < 5, growth
when = time.time() + 0.2
for websocket, _ in sockets:
    websocket.expires_at = when
gevent.sleep(0)
growth = [now - then for now, then in zip(census(), before)]
assert max(growth) < 5, growth
with gevent.Timeout(60):
    for _, peer in sockets:
        assert peer.recv(100) == b"\\x88\\x09\\x11\\x31expired"
        assert time.time() >= when
for _, peer in sockets:
    peer.close()
""")
