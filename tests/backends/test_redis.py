"""``redis://``: the contract, faults, and the ways to reach a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from django_wsmux.backends import from_url
from django_wsmux.backends.contract import BackendContract, MakePeer
from django_wsmux.backends.redis import RedisBackend, Script
from django_wsmux.exceptions import BackendUnavailable
from tests.conftest import need
from tests.services import RedisServer, wait_until_said

from .faults import SILENCE, BrokerFaults


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that no test harms."""
    need("redis-server")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


class TestRedisBackend(BackendContract):
    """The contract."""

    @pytest.fixture
    def backend_url(self, redis_server: RedisServer) -> str:
        """The URL of the server."""
        return redis_server.url

    def test_subscribes_to_needed_channels(self, peer: MakePeer, redis_server: RedisServer) -> None:
        """The server sends a process only channels for which it has members."""
        listener = peer("room", "hall")
        names = redis_server.ask("PUBSUB", "CHANNELS")
        mine = [name for name in names.split() if listener.call("id") in name or ":room" in name]
        assert len(mine) == 2
        listener.call("unsubscribe", "room")
        wait_until_said(lambda: "room" not in redis_server.ask("PUBSUB", "CHANNELS"))
        assert ":hall" in redis_server.ask("PUBSUB", "CHANNELS")

    def test_foreign_publications(self, peer: MakePeer, redis_server: RedisServer) -> None:
        """The listener survives any publication of another client of the server."""
        listener, sender = peer("room"), peer()
        channels = [
            name
            for name in redis_server.ask("PUBSUB", "CHANNELS").split()
            if sender.call("namespace") in name
        ]
        assert len(channels) == 2
        for channel in channels:
            for rubbish in ("", "\x01", "hello", '{"a": 1}', "\udcff" * 50, "x" * 100_000):
                redis_server.ask("PUBLISH", channel, rubbish)
        sender.publish("room", b"hello")
        assert listener.received(1) == [("room", b"hello")]
        assert listener.call("counts")["unreadable"] == 12
        assert listener.gaps(0) == []
        listener.stop()
        assert listener.log.count("dropped a packet") == 1
        assert "not listening" not in listener.log

    def test_two_connections(self, peer: MakePeer, redis_server: RedisServer) -> None:
        """A process has one connection to listen and one to publish, with any number of threads."""
        before = redis_server.ask("CLIENT", "LIST").count("\n")
        listener = peer("room")
        listener.call("publish_at_once", "room", 16, 20)
        assert redis_server.ask("CLIENT", "LIST").count("\n") == before + 2


def test_scripts_together(redis_server: RedisServer) -> None:
    """Of scripts that are sent together, all run, also if one of them fails."""
    script = Script(
        "if ARGV[2] == '' then return redis.error_reply('ERR empty') end"
        " return redis.call('RPUSH', KEYS[1], ARGV[2])"
    )
    backend = RedisBackend(redis_server.url, namespace="together")
    backend.advice = "look"
    assert backend.run_all(script, []) == []
    assert backend.run_all(script, [(b"a", (b"1",)), (b"b", (b"2",)), (b"a", (b"3",))]) == [1, 1, 2]
    with pytest.raises(BackendUnavailable, match="empty"):
        backend.run_all(script, [(b"a", (b"4",)), (b"a", (b"",)), (b"a", (b"5",))])
    assert redis_server.ask("LRANGE", "a", "0", "-1").split() == ["1", "3", "4", "5"]
    backend.close()


class TestRedisFaults(BrokerFaults):
    """Restarts, half-open connections, partitions, slowness."""

    @pytest.fixture
    def broker(self, tmp_path: Path) -> Iterator[RedisServer]:
        """A server for the test."""
        need("redis-server")
        server = RedisServer(tmp_path)
        yield server
        server.stop()

    def url(self, port: int) -> str:
        """The URL of the server, with a short timeout."""
        return f"redis://127.0.0.1:{port}?silence={SILENCE}&timeout=1.5"

    def test_kicked_out(self, direct: MakePeer, broker: RedisServer) -> None:
        """A subscriber that the server drops, for example as too slow, reports the gap."""
        listener, sender = direct("room"), direct()
        broker.ask("CLIENT", "KILL", "TYPE", "pubsub")
        (gap,) = listener.gaps(1)
        assert "closed the connection" in gap["reason"]
        sender.publish("room", b"after")
        assert listener.received(1) == [("room", b"after")]


def test_order() -> None:
    """One server has one order; the shards of a cluster have one each."""
    assert from_url("redis://127.0.0.1").has_total_order
    assert not from_url("redis+cluster://127.0.0.1").has_total_order
