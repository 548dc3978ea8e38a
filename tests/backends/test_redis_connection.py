"""Connections to Redis: a cluster, Sentinel, and the forms of the URL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from django_wsmux.backends import from_url
from django_wsmux.backends.contract import BackendContract, MakePeer, make_peers
from tests.conftest import need
from tests.services import (
    RedisServer,
    fail_over,
    move_slot,
    redis_cluster,
    redis_sentinel,
    wait_until_said,
)
from tests.support import TIMEOUT


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """Three masters that know each other."""
    need("redis-server", "redis-cli")
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


class TestCluster(BackendContract):
    """The contract, with sharded pub/sub on three masters."""

    @pytest.fixture
    def backend_url(self, cluster: list[RedisServer]) -> str:
        """One master is enough to find the others."""
        return f"redis+cluster://127.0.0.1:{cluster[0].port}"

    @pytest.fixture
    def peer(self, backend_url: str) -> Iterator[MakePeer]:
        """Start processes patched by gevent only: clusters do not depend on patching."""
        with make_peers(backend_url, {}, gevent=True) as make:
            yield make

    def test_spread(self, peer: MakePeer, cluster: list[RedisServer]) -> None:
        """Each channel is on one master; together the channels use all masters."""
        peer(*(f"room.{index}" for index in range(30)))
        found = [server.ask("PUBSUB", "SHARDCHANNELS").split() for server in cluster]
        assert all(found)
        assert sum(name.count(":room.") for names in found for name in names) == 30

    def test_moved_slot(self, peer: MakePeer, cluster: list[RedisServer]) -> None:
        """When a slot moves to another master, its listeners follow and report the gap."""
        listener, sender = peer("room"), peer()
        sender.publish("room", b"before")
        assert listener.received(1) == [("room", b"before")]
        (name,) = {
            name
            for server in cluster
            for name in server.ask("PUBSUB", "SHARDCHANNELS").split()
            if name.endswith(":room") and sender.call("namespace") in name
        }
        slot = cluster[0].ask("CLUSTER", "KEYSLOT", name).strip()
        owner = next(server for server in cluster if name in server.ask("PUBSUB", "SHARDCHANNELS"))
        target, other = (server for server in cluster if server is not owner)
        move_slot(slot, owner, target, other)
        assert len(listener.gaps(1)) == 1
        sender.publish("room", b"after")
        assert listener.received(1) == [("room", b"after")]


class TestSentinel:
    """The master that a Sentinel names."""

    @pytest.fixture
    def servers(self, tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer, RedisServer]]:
        """A master, its replica, and the Sentinel that watches them."""
        need("redis-server")
        with redis_sentinel(tmp_path) as servers:
            yield servers

    def test_failover(self, servers: tuple[RedisServer, RedisServer, RedisServer]) -> None:
        """Listeners and publishers follow to the new master; the gap is reported."""
        master, replica, sentinel = servers
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0?timeout=1"
        with make_peers(url, {}, gevent=True) as peer:
            listener, sender = peer("room"), peer()
            sender.publish("room", b"before")
            assert listener.received(1) == [("room", b"before")]
            fail_over(master, sentinel)
            assert len(listener.gaps(1, 2 * TIMEOUT)) == 1
            wait_until_said(lambda: "role:master" in replica.ask("INFO", "replication"))
            wait_until_said(lambda: sender.call("try_to_publish_this", "room", "AAAA"))
            assert listener.received(1) == [("room", b"\0\0\0")]


class TestWays:
    """Forms of the URL."""

    def test_password(self, tmp_path: Path) -> None:
        """A password in the URL is used, and not shown."""
        need("redis-server")
        server = RedisServer(tmp_path, "--requirepass", "secret")
        try:
            url = f"redis://:secret@127.0.0.1:{server.port}/3"
            with make_peers(url, {}, gevent=False) as peer:
                listener, sender = peer("room"), peer()
                sender.publish("room", b"hello")
                assert listener.received(1) == [("room", b"hello")]
            assert "secret" not in from_url(url).name
            with make_peers(f"redis://127.0.0.1:{server.port}", {}, gevent=False) as peer:
                refused = peer()
                assert refused.call("try_to_publish_this", "room", "") is False
        finally:
            server.stop()

    def test_unix_socket(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        """Redis on a unix socket works."""
        need("redis-server")
        directory = tmp_path_factory.mktemp("u")
        server = RedisServer(directory, "--unixsocket", str(directory / "s"))
        try:
            with make_peers(f"redis+unix://{directory}/s", {}, gevent=True) as peer:
                listener, sender = peer("room"), peer()
                sender.publish("room", b"hello")
                assert listener.received(1) == [("room", b"hello")]
        finally:
            server.stop()

    @pytest.mark.parametrize("kind", ["plain", "gevent"])
    def test_tls(self, tmp_path: Path, kind: str) -> None:
        """rediss:// works, with payloads larger than a TLS record, and many small ones."""
        need("redis-server", "openssl")
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
        options = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key)]
        subprocess.run(
            [*command.split(), *options, "-out", str(certificate)], check=True, capture_output=True
        )
        server = RedisServer.with_tls(tmp_path, key, certificate)
        try:
            url = f"rediss://127.0.0.1:{server.tls_port}?ssl_ca_certs={certificate}"
            with make_peers(url, {}, gevent=kind == "gevent") as peer:
                listener, sender = peer("room"), peer()
                sender.publish("room", b"x" * 200_000)
                assert listener.received(1) == [("room", b"x" * 200_000)]
                sender.call("publish_numbers", "room", "0", 500, 2_000)
                assert len(listener.received(500)) == 500
                assert len(sender.ask("room", b"?")) == 1
        finally:
            server.stop()

    def test_sentinel_without_service(self) -> None:
        """The URL of Sentinels must name the service."""
        with pytest.raises(ValueError, match="name the service"):
            from_url("redis+sentinel://127.0.0.1:26379")

    def test_no_event_loop(self) -> None:
        """redis-py imports asyncio, but no loop runs, so Django's ORM stays usable."""
        code = (
            "import asyncio, sys\n"
            "from django_wsmux.backends import from_url\n"
            "from_url('redis://127.0.0.1:1')\n"
            "assert 'redis' in sys.modules\n"
            "assert asyncio._get_running_loop() is None\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
