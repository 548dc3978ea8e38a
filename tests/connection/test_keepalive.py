"""When connections are pinged and dropped, with a simulated clock."""

from __future__ import annotations

from typing import Any, cast

from django_wsmux.connection.connection import Connection
from django_wsmux.connection.counters import counters
from django_wsmux.connection.keepalive import Keepalive
from django_wsmux.protocol.options import Options


class Peer:
    """A connection that records what the keepalive does to it."""

    def __init__(self, alive: bool = True, **options: float) -> None:
        self.options = Options(**{"ping_interval": 20, "ping_timeout": 10, **options})  # type: ignore[arg-type]
        self.alive = alive
        self.pings = 0
        self.given_up = False
        self.closed = False

    def is_alive(self) -> bool:
        return self.alive

    def send_keepalive_ping(self) -> None:
        self.pings += 1

    def give_up(self) -> None:
        self.given_up = True
        self.on_given_up()

    def on_given_up(self) -> None:
        """React to the drop, as a view may."""


def watched(*peers: Any) -> Keepalive:
    """Return a keepalive that watches these connections since time 0."""
    keepalive = Keepalive()
    for peer in peers:
        keepalive.add(cast(Connection, peer), 0)
    return keepalive


def test_pinged_at_the_interval() -> None:
    """A connection is pinged after the interval, and the sweep returns that time."""
    peer = Peer()
    keepalive = watched(peer)
    assert keepalive.sweep(19.9) == 20
    assert peer.pings == 0
    assert keepalive.sweep(20) == 30
    assert peer.pings == 1


def test_alive() -> None:
    """The next ping follows an interval after the last."""
    peer = Peer()
    keepalive = watched(peer)
    keepalive.sweep(20)
    assert keepalive.sweep(30) == 40
    keepalive.sweep(40)
    assert (peer.pings, peer.given_up) == (2, False)


def test_silent() -> None:
    """A silent connection is dropped after interval and timeout, and forgotten."""
    peer = Peer(alive=False)
    keepalive = watched(peer)
    keepalive.sweep(20)
    assert keepalive.sweep(29.9) == 30
    assert not peer.given_up
    assert keepalive.sweep(30) is None
    assert peer.given_up


def test_timeout_longer_than_the_interval() -> None:
    """The next ping waits for the answer to the last."""
    peer = Peer(ping_interval=5, ping_timeout=10)
    keepalive = watched(peer)
    keepalive.sweep(5)
    assert keepalive.sweep(15) == 25
    assert peer.pings == 2


def test_discarded() -> None:
    """A closed connection is left alone."""
    peer = Peer(alive=False)
    keepalive = watched(peer)
    keepalive.sweep(20)
    keepalive.discard(cast(Connection, peer))
    assert keepalive.sweep(99) is None
    assert not peer.given_up


def test_closed_by_another_view() -> None:
    """A connection that is closed during a sweep is not watched again."""
    one, two = Peer(alive=False), Peer()
    keepalive = watched(one, two)
    keepalive.sweep(20)
    one.on_given_up = lambda: setattr(two, "closed", True)  # type: ignore[method-assign]
    assert keepalive.sweep(30) is None


def test_off() -> None:
    """Without an interval, a connection is not watched."""
    assert watched(Peer(ping_interval=0)).sweep(99) is None


def test_error_does_not_affect_others() -> None:
    """If a connection raises, the others are still pinged and dropped in time."""

    class Broken(Peer):
        def send_keepalive_ping(self) -> None:
            raise ZeroDivisionError

        def give_up(self) -> None:
            raise ZeroDivisionError

    before = counters["internal_errors"]
    peers = [Broken(alive=False), Peer(alive=False), Broken(alive=False), Peer(alive=False)]
    keepalive = watched(*peers)
    assert keepalive.sweep(20) == 30
    assert [peer.pings for peer in peers] == [0, 1, 0, 1]
    keepalive.sweep(30)
    assert [peer.given_up for peer in peers] == [False, True, False, True]
    assert counters["internal_errors"] == before + 4


def test_spread() -> None:
    """Connections that came together are pinged at different times, within one interval."""
    peers = [Peer() for _ in range(200)]
    other = Peer()
    keepalive = watched(other, *peers)
    keepalive.discard(cast(Connection, peers.pop()))
    due = keepalive.spread(cast(Any, peers), 0)
    assert due is not None
    assert 0 <= due < 20
    keepalive.sweep(10)
    early = sum(peer.pings for peer in peers)
    assert 50 < early < 150
    assert not other.pings
    keepalive.sweep(20)
    assert all(peer.pings == 1 for peer in (*peers, other))
