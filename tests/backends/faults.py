"""Faults that a backend with a broker must survive; subclasses name the broker."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Protocol

import pytest

from django_wsmux.backends.contract import MakePeer, make_peers, numbers
from django_wsmux.testing.backend_process import Peer, PeerError
from tests.services import Proxy, proxy_to, wait_until_said
from tests.support import TIMEOUT

#: Seconds of silence after which the tests' backends drop a connection.
SILENCE = 2.0


class Broker(Protocol):
    """A broker that can be stopped, started and frozen."""

    port: int

    def start(self) -> None:
        """Start it again, at the same port."""

    def kill(self) -> None:
        """Kill it, as a crash does."""

    def freeze(self) -> None:
        """Stop the process; its connections stay open."""

    def thaw(self) -> None:
        """Let the process continue."""


class BrokerFaults:
    """Restarts, half-open connections, partitions, slowness."""

    @pytest.fixture
    def broker(self) -> Broker:
        """A broker that the test may harm; override it."""
        raise NotImplementedError

    @pytest.fixture
    def backend_env(self) -> Mapping[str, str]:
        """Environment variables of the processes."""
        return {}

    def url(self, port: int) -> str:
        """Return the URL of the broker at a port; override it."""
        raise NotImplementedError

    def env(self, backend_env: Mapping[str, str], port: int) -> Mapping[str, str]:
        """Return the environment for a broker at a port, if the URL does not contain it."""
        return backend_env

    @pytest.fixture
    def proxy(self, broker: Broker) -> Iterator[Proxy]:
        """A proxy to the broker that can fail."""
        with proxy_to(broker.port) as proxy:
            yield proxy

    @pytest.fixture(params=["plain", "gevent"])
    def direct(
        self, request: pytest.FixtureRequest, broker: Broker, backend_env: Mapping[str, str]
    ) -> Iterator[MakePeer]:
        """Start processes that connect to the broker."""
        env = self.env(backend_env, broker.port)
        with make_peers(self.url(broker.port), env, gevent=request.param == "gevent") as make:
            yield make

    @pytest.fixture(params=["plain", "gevent"])
    def through(
        self, request: pytest.FixtureRequest, proxy: Proxy, backend_env: Mapping[str, str]
    ) -> Iterator[MakePeer]:
        """Start processes that connect to the proxy."""
        env = self.env(backend_env, proxy.port)
        with make_peers(self.url(proxy.port), env, gevent=request.param == "gevent") as make:
            yield make

    def test_restart(self, direct: MakePeer, broker: Broker) -> None:
        """Publishing fails clearly and soon; listeners reconnect and report the gap."""
        listener, other, sender = direct("room", "hall"), direct("room"), direct()
        sender.publish("room", b"before")
        assert listener.received(1) == other.received(1) == [("room", b"before")]
        broker.kill()
        listener.wait_for_log("not listening")
        for _ in range(3):
            with pytest.raises(PeerError, match="check that") as away:
                sender.publish("room", b"lost")
            assert away.value.kind == "BackendUnavailable"
            assert away.value.seconds < TIMEOUT
        assert listener.gaps(0) == []
        broker.start()
        for one in (listener, other):
            (gap,) = one.gaps(1)
            assert gap["seconds"] > 0
            assert gap["missed"] is None
            one.wait_for_log("listening again after")
        publish_when_possible(sender, "hall", b"after")
        assert listener.received(1) == [("hall", b"after")]
        assert other.received(0) == []

    def test_idle_publisher(self, direct: MakePeer, broker: Broker) -> None:
        """A publisher that was idle during a restart does not notice it."""
        listener, sender = direct("room"), direct()
        sender.publish("room", b"before")
        assert listener.received(1) == [("room", b"before")]
        broker.kill()
        broker.start()
        assert len(listener.gaps(1)) == 1
        sender.publish("room", b"after")
        assert listener.received(1) == [("room", b"after")]

    def test_starts_without_broker(self, direct: MakePeer, broker: Broker) -> None:
        """A process may start before the broker does."""
        broker.kill()
        listener = direct()
        listener.call("start")
        assert listener.call("subscribe", "room", 0.3) is False
        broker.start()
        assert listener.call("subscribe", "room") is True
        assert len(listener.gaps(1)) == 1
        publish_when_possible(listener, "elsewhere", b"")
        direct().publish("room", b"hello")
        assert listener.received(1) == [("room", b"hello")]

    def test_half_open(self, through: MakePeer, proxy: Proxy) -> None:
        """A silent connection is detected, dropped, and replaced."""
        listener, sender = through("room"), through()
        sender.publish("room", b"before")
        assert listener.received(1) == [("room", b"before")]
        listener.call("watch_turns")
        listener.call("turns")
        proxy.black_hole()
        listener.wait_for_log("not listening")
        assert listener.call("turns") > 20, "waiting blocked other greenlets"
        for name in ("room", "late"):
            assert listener.call("subscribe", name, 0.1) is False
        proxy.heal()
        assert len(listener.gaps(1)) == 1
        for name in ("room", "late"):
            assert listener.call("subscribe", name) is True
        publish_when_possible(sender, "late", b"after")
        assert [text for _, text in listener.received(1)][-1:] == [b"after"]

    def test_publishing_into_nothing(self, through: MakePeer, proxy: Proxy) -> None:
        """Publishing fails after the timeout, then at once; other greenlets run; it recovers."""
        sender = through()
        sender.publish("room", b"before")
        sender.call("watch_turns")
        sender.call("turns")
        proxy.black_hole()
        seconds = []
        for _ in range(10):
            with pytest.raises(PeerError) as away:
                sender.publish("room", b"lost")
            assert away.value.kind == "BackendUnavailable"
            seconds.append(away.value.seconds)
        assert 0.5 < seconds[0] < TIMEOUT
        assert min(seconds[1:]) < 0.5, "none of them failed at once"
        assert sender.call("turns") > 20, "waiting blocked other greenlets"
        proxy.heal()
        publish_when_possible(sender, "room", b"after")

    def test_cut(self, through: MakePeer, proxy: Proxy) -> None:
        """Broken connections are replaced, with every channel, and the gap is reported."""
        names = [f"room.{index}" for index in range(1_000)]
        listener, sender = through(*names), through()
        proxy.cut()
        assert len(listener.gaps(1)) == 1
        publish_when_possible(sender, names[0], b"after")
        assert listener.received(1) == [(names[0], b"after")]
        for name in names[1::100]:
            sender.publish(name, b"after")
            assert listener.received(1) == [(name, b"after")]

    def test_slow_broker(self, direct: MakePeer, broker: Broker) -> None:
        """A broker that stops for a second loses nothing and blocks no other greenlet."""
        listener, sender = direct("room"), direct()
        sender.publish("room", b"first")
        listener.received(1)
        sender.call("watch_turns")
        sender.call("turns")
        broker.freeze()
        sender.begin("publish_numbers", "room", "0", 200)
        assert listener.received(1, 1.0) == []
        broker.thaw()
        sender.end()
        assert numbers(listener.received(200), "0") == list(range(200))
        assert listener.gaps(0) == []
        assert sender.call("turns") > 20

    @pytest.mark.alone  # each must be interrupted before the broker counts as lost
    def test_interrupted(self, broker: Broker, backend_env: Mapping[str, str]) -> None:
        """Greenlets that gevent.Timeout interrupts while they publish do not disturb others."""
        env = self.env(backend_env, broker.port)
        with make_peers(self.url(broker.port), env, gevent=True) as peer:
            listener, sender = peer("room"), peer()
            sender.publish("room", b"before")
            assert listener.received(1) == [("room", b"before")]
            broker.freeze()
            try:
                assert (
                    sender.call("publish_within", "room", b64encode(b"?").decode(), 0.3, 10) == 10
                )
            finally:
                broker.thaw()
            publish_when_possible(sender, "room", b"after")
            sender.publish("room", *[b"%d" % number for number in range(100)])
            found: list[bytes] = []
            while found[-1:] != [b"99"]:
                found += [text for _, text in listener.received(1)]
            assert found[-101:] == [b"after", *(b"%d" % number for number in range(100))]
            assert set(found[:-101]) <= {b"?"}

    def test_bounded(self, direct: MakePeer, broker: Broker) -> None:
        """Publishing and subscribing during an outage of the broker takes no memory."""
        listener = direct("room")
        listener.call("toggle", "other", 5_000)
        listener.call("try_to_publish", "room", 100_000, 20)
        before = listener.call("memory")
        broker.kill()
        listener.wait_for_log("not listening")
        listener.call("toggle", "other", 50_000)
        failed = listener.call("try_to_publish", "room", 100_000, 300)
        assert failed == 300
        assert listener.call("memory") - before < 6_000
        broker.start()
        assert len(listener.gaps(1)) == 1


def publish_when_possible(sender: Peer, channel: str, payload: bytes) -> None:
    """Publish; retry while the backend reconnects."""
    wait_until_said(
        lambda: sender.call("try_to_publish_this", channel, b64encode(payload).decode())
    )
