"""Connections to Redis or Valkey: a single server, the master of a Sentinel, a cluster.

redis-py reads the URL, connects, authenticates and speaks TLS; from then on the socket is read and
written here. (``import redis`` imports asyncio; no event loop is made or run.)
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from typing import Any, Final
from urllib.parse import urlsplit

from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.crc import key_slot
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from .resp import Replies, RespError, command
from .waiting import close

__all__ = ["FAILURES", "Cluster", "Node", "Servers", "Single", "Wire", "servers_from_url"]

#: What a connection may raise.
FAILURES: Final = (OSError, RedisError, RespError, ValueError)

#: Where a server is; the same for all channels unless it is a cluster.
Node = tuple[str, int]

_READ_SIZE: Final = 262_144


class Wire:
    """A connection to one server.

    Args:
        connection: of redis-py; not connected yet.
        timeout: seconds for each reading and writing.
    """

    def __init__(self, connection: Any, timeout: float) -> None:
        connection.connect()
        self._connection = connection
        # Private, but the same from redis-py 2 to 8.1; a test fails when it goes.
        self._sock = connection._sock
        self._timeout = timeout
        self._sock.settimeout(timeout)
        self._replies = Replies()

    def fileno(self) -> int:
        """Return the descriptor."""
        return int(self._sock.fileno())

    def send(self, data: bytes) -> None:
        """Send bytes, for a bounded time."""
        self._sock.sendall(data)

    def receive(self) -> tuple[list[bytes], list[object]]:
        """Wait for bytes, for a bounded time; return publications and other replies.

        Raises:
            ConnectionError: the server has closed the connection.
        """
        data = self._sock.recv(_READ_SIZE)
        if not data:
            raise ConnectionError("the server closed the connection")
        # What TLS has decrypted already does not make the descriptor readable.
        while isinstance(self._sock, ssl.SSLSocket) and (size := self._sock.pending()):
            data += self._sock.recv(size)
        return self._replies.feed(data)

    def ask(self, *parts: bytes) -> object:
        """Send a command and return its reply.

        Raises:
            RespError: the server refuses.
        """
        self.send(command(*parts))
        while True:
            _, replies = self.receive()
            if replies:
                if isinstance(replies[0], RespError):
                    raise replies[0]
                return replies[0]

    def is_stale(self) -> bool:
        """Whether the server has closed it, or says something that nobody asked for."""
        self._sock.settimeout(0.0)
        try:
            self._sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            self._sock.settimeout(self._timeout)
        return True

    def close(self) -> None:
        """Close it."""
        self._connection.disconnect()

    def forget(self) -> None:
        """Close the descriptor that a fork copied, without a word to the server."""
        fd = self._sock.detach()
        if fd >= 0:
            close(fd)


class Servers(ABC):
    """Knows where the servers are."""

    is_sharded = False

    def __init__(self, kwargs: dict[str, Any], timeout: float) -> None:
        self._class = kwargs.pop("connection_class", Connection)
        # RESP 2, because what is pushed in RESP 3 is more than this package reads.
        self._kwargs = {
            **kwargs,
            "protocol": 2,
            "decode_responses": False,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "health_check_interval": 0,
        }
        self._timeout = timeout

    @abstractmethod
    def connect(self, node: Node) -> Wire:
        """Connect to one of them."""

    @abstractmethod
    def node(self, channel: bytes) -> Node:
        """Return which of them is in charge of a channel."""

    def refresh(self) -> None:
        """Find out anew where they are."""

    def _wire(self, **where: Any) -> Wire:
        return Wire(self._class(**{**self._kwargs, **where}), self._timeout)


class Single(Servers):
    """One server."""

    def connect(self, node: Node) -> Wire:
        """Connect to it."""
        return self._wire()

    def node(self, channel: bytes) -> Node:
        """There is but one."""
        return "", 0


class Master(Servers):
    """The master that Sentinels name; asked for at each connection."""

    def __init__(
        self, kwargs: dict[str, Any], timeout: float, sentinels: list[Node], service: str
    ) -> None:
        password = kwargs.pop("sentinel_password", None)
        super().__init__(kwargs, timeout)
        self._service = service
        self._sentinels = sentinels
        self._sentinel_kwargs = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "password": password,
            "retry": Retry(NoBackoff(), 0),
        }

    def connect(self, node: Node) -> Wire:
        """Ask the Sentinels for the master, and connect to it."""
        sentinel = Sentinel(self._sentinels, sentinel_kwargs=self._sentinel_kwargs)
        try:
            host, port = sentinel.discover_master(self._service)
        finally:
            for client in sentinel.sentinels:
                client.close()
        return self._wire(host=host, port=port)

    def node(self, channel: bytes) -> Node:
        """There is but one."""
        return "", 0


class Cluster(Servers):
    """A cluster: sharded pub/sub, each channel on the master of its slot (Redis 7, Valkey)."""

    is_sharded = True

    def __init__(self, kwargs: dict[str, Any], timeout: float) -> None:
        super().__init__(kwargs, timeout)
        self._entries: list[Node] = [(kwargs.get("host", "localhost"), kwargs.get("port", 6379))]
        # Last slot of each range to its master, in order.
        self._ranges: list[tuple[int, Node]] = []

    def connect(self, node: Node) -> Wire:
        """Connect to one of its masters."""
        return self._wire(host=node[0], port=node[1])

    def node(self, channel: bytes) -> Node:
        """Return the master of a channel's slot."""
        if not self._ranges:
            self.refresh()
        slot = key_slot(channel)
        for last, node in self._ranges:
            if slot <= last:
                return node
        raise ConnectionError(f"no server of the cluster serves slot {slot}")

    def refresh(self) -> None:
        """Ask any server that answers for the map of the slots."""
        problem: Exception | None = None
        for node in self._entries + [node for _, node in self._ranges]:
            try:
                wire = self.connect(node)
                try:
                    reply: Any = wire.ask(b"CLUSTER", b"SLOTS")
                finally:
                    wire.close()
            except FAILURES as error:
                problem = error
            else:
                # [first, last, [host, port, id, ...] of the master, of a replica, ...]
                self._ranges = sorted(
                    (entry[1], ((entry[2][0] or b"").decode() or node[0], entry[2][1]))
                    for entry in reply
                )
                return
        raise problem or ConnectionError("no server of the cluster is known")


def servers_from_url(url: str, timeout: float) -> Servers:
    """Read a URL: ``redis://``, ``redis+unix://``, ``redis+sentinel://``, ``redis+cluster://``.

    ``rediss`` in their place for TLS. The query and the rest are as in redis-py's own URLs;
    ``redis+sentinel://host:26379,host/service/db`` names the Sentinels.

    Raises:
        ValueError: it is not like that.
    """
    scheme, _, rest = url.partition("://")
    scheme, _, kind = scheme.partition("+")
    if kind == "unix":
        return Single(parse_url(f"unix://{rest}"), timeout)
    if kind == "cluster":
        return Cluster(parse_url(f"{scheme}://{rest}"), timeout)
    if kind != "sentinel":
        return Single(parse_url(f"{scheme}://{rest}"), timeout)
    parts = urlsplit(f"{scheme}://{rest}")
    credentials, at, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not hosts:
        raise ValueError("name the service: redis+sentinel://host:26379,host:26379/mymaster/0")
    sentinels = []
    for host in hosts.split(","):
        name, _, port = host.partition(":")
        sentinels.append((name, int(port or 26379)))
    query = f"?{parts.query}" if parts.query else ""
    kwargs = parse_url(f"{scheme}://{credentials}{at}localhost/{database}{query}")
    return Master(kwargs, timeout, sentinels, service)
