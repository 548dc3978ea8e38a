"""Connections to Redis or Valkey: a single server, the master of a Sentinel, a cluster.

redis-py parses the URL, connects, authenticates and sets up TLS. After that, this module reads and
writes the socket. (``import redis`` imports asyncio; no event loop is made or run.)
"""

from __future__ import annotations

import re
import ssl
from abc import ABC, abstractmethod
from itertools import count
from typing import Any, Final
from urllib.parse import quote, urlsplit

from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.crc import key_slot
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from .resp import Replies, RespError, command
from .selector import close

__all__ = [
    "FAILURES",
    "Cluster",
    "Node",
    "RedisConnection",
    "Servers",
    "Single",
    "servers_from_url",
]

#: The exceptions that a connection may raise.
FAILURES: Final = (OSError, RedisError, RespError, ValueError)

#: Host and port of a server; the same for all channels unless it is a cluster.
Node = tuple[str, int]

_READ_SIZE: Final = 262_144

#: The number of slots of a cluster, and of the ranges of slots that contain a project's keys.
_SLOTS: Final = 16_384
_RANGES: Final = 32

_RUN_ID: Final = re.compile(rb"^run_id:([0-9a-f]{40})", re.MULTILINE)


class RedisConnection:
    """A connection to one server.

    Args:
        connection: a connection of redis-py that is not connected yet.
        timeout: seconds for each read and write.
    """

    def __init__(self, connection: Any, timeout: float) -> None:
        connection.connect()
        self._connection = connection
        # Private, but unchanged from redis-py 2 to 8.1; a test fails if it disappears.
        self._sock = connection._sock
        self._timeout = timeout
        self._sock.settimeout(timeout)
        self._replies = Replies()
        self._run_id = b""

    def fileno(self) -> int:
        """Return the descriptor."""
        return int(self._sock.fileno())

    def send(self, data: bytes) -> None:
        """Send bytes, with the timeout."""
        self._sock.sendall(data)

    def receive(self) -> tuple[list[bytes], list[object]]:
        """Wait for bytes, with the timeout; return publications and other replies.

        Raises:
            ConnectionError: the server has closed the connection.
        """
        data = self._sock.recv(_READ_SIZE)
        if not data:
            raise ConnectionError("the server closed the connection")
        # Bytes that TLS has decrypted already do not make the descriptor readable.
        while isinstance(self._sock, ssl.SSLSocket) and (size := self._sock.pending()):
            data += self._sock.recv(size)
        return self._replies.feed(data)

    def ask(self, *parts: bytes) -> object:
        """Send a command and return its reply.

        Raises:
            RespError: the server refuses the command.
        """
        self.send(command(*parts))
        while True:
            _, replies = self.receive()
            if replies:
                if isinstance(replies[0], RespError):
                    raise replies[0]
                return replies[0]

    def run_id(self) -> bytes:
        """Return the random id of the server's process. Only the first call asks the server."""
        if not self._run_id:
            reply: Any = self.ask(b"INFO", b"server")
            found = _RUN_ID.search(reply)
            if found is None:
                raise ValueError("the server has no run_id")
            self._run_id = found[1]
        return self._run_id

    def is_stale(self) -> bool:
        """Return whether the server has closed the connection, or sends unexpected data."""
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
        """Close the connection."""
        self._connection.disconnect()

    def forget(self) -> None:
        """Close the descriptor that a fork copied, without telling the server."""
        fd = self._sock.detach()
        if fd >= 0:
            close(fd)


class Servers(ABC):
    """Finds the servers."""

    is_sharded = False

    def __init__(self, kwargs: dict[str, Any], timeout: float) -> None:
        self._class = kwargs.pop("connection_class", Connection)
        # RESP 2, because this package does not read the push messages of RESP 3.
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
    def connect(self, node: Node) -> RedisConnection:
        """Connect to a server."""

    @abstractmethod
    def node(self, channel: bytes) -> Node:
        """Return the server of a channel."""

    def refresh(self) -> None:
        """Find the servers again."""

    def prefixes(self, namespace: str) -> tuple[bytes, ...]:
        """Return the prefixes for keys and channels. Keys with the same prefix share a slot."""
        return (f"wsmux:{namespace}:".encode(),)

    def _wire(self, **where: Any) -> RedisConnection:
        return RedisConnection(self._class(**{**self._kwargs, **where}), self._timeout)


class Single(Servers):
    """One server."""

    def connect(self, node: Node) -> RedisConnection:
        """Connect to the server."""
        return self._wire()

    def node(self, channel: bytes) -> Node:
        """Return a placeholder: there is only one server."""
        return "", 0


class Master(Servers):
    """The master that Sentinels name; they are asked for each connection."""

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

    def connect(self, node: Node) -> RedisConnection:
        """Ask the Sentinels for the master, and connect to it."""
        sentinel = Sentinel(self._sentinels, sentinel_kwargs=self._sentinel_kwargs)
        try:
            host, port = sentinel.discover_master(self._service)
        finally:
            for client in sentinel.sentinels:
                client.close()
        return self._wire(host=host, port=port)

    def node(self, channel: bytes) -> Node:
        """Return a placeholder: there is only one server."""
        return "", 0


class Cluster(Servers):
    """A cluster: sharded pub/sub, each channel on the master of its slot (Redis 7, Valkey)."""

    is_sharded = True

    def __init__(self, kwargs: dict[str, Any], timeout: float) -> None:
        super().__init__(kwargs, timeout)
        self._entries: list[Node] = [(kwargs.get("host", "localhost"), kwargs.get("port", 6379))]
        # The last slot of each range with its master, in order.
        self._ranges: list[tuple[int, Node]] = []

    def connect(self, node: Node) -> RedisConnection:
        """Connect to a master of the cluster."""
        return self._wire(host=node[0], port=node[1])

    def node(self, channel: bytes) -> Node:
        """Return the master of the slot of a channel."""
        if not self._ranges:
            self.refresh()
        slot = key_slot(channel)
        for last, node in self._ranges:
            if slot <= last:
                return node
        raise ConnectionError(f"no server of the cluster serves slot {slot}")

    def prefixes(self, namespace: str) -> tuple[bytes, ...]:
        """Return prefixes of equal length whose slots are spread over all servers."""
        # Braces mark the part of a key that determines its slot, so the namespace has none.
        name = quote(namespace, safe="")
        found: dict[int, bytes] = {}
        for number in count():
            tag = f"wsmux:{name}:{number:04}".encode()
            found.setdefault(key_slot(tag) * _RANGES // _SLOTS, b"{%b}:" % tag)
            if len(found) == _RANGES:
                break
        return tuple(found[each] for each in range(_RANGES))

    def refresh(self) -> None:
        """Get the map of slots from any server that answers."""
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
    """Parse a URL: ``redis://``, ``redis+unix://``, ``redis+sentinel://``, ``redis+cluster://``.

    ``rediss`` instead of ``redis`` selects TLS. The query and everything else are as in redis-py's
    URLs; ``redis+sentinel://host:26379,host/service/db`` lists the Sentinels.

    Raises:
        ValueError: the URL is invalid.
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
