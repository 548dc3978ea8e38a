"""``redis://``: all machines that reach one Redis or Valkey, a Sentinel's master, or a cluster.

Publications go through pub/sub: nothing is stored. A process subscribes to the channels of its
members, and to one for the answers to its questions. It uses one connection (one for each master of
a cluster), and pings it when nothing arrives, to detect half-open connections.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from hashlib import sha1
from threading import Event
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit
from zlib import crc32

from .broker import BrokerBackend, Call
from .redis_connection import FAILURES, Node, RedisConnection, servers_from_url
from .resp import RespError, command
from .selector import READ, WakeableSelector

__all__ = ["RedisBackend", "Script"]

#: Most channels in one command.
_BATCH: Final = 500

_PING: Final = command(b"PING")

#: Digits of the server's ``run_id`` that are passed to scripts.
_RUN_ID_SIZE: Final = 12

#: Server errors after which a repeated call may succeed: the script is unknown, or the slot of the
#: key has moved.
_REPEATED: Final = ("NOSCRIPT ", "MOVED ")


class Script:
    """A script in Lua. Its first argument is the beginning of the server's ``run_id``.

    Args:
        source: the script.
    """

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.digest = sha1(self.source, usedforsecurity=False).hexdigest().encode()


class _ScriptCall(Call):
    """A script to run, and the result.

    Attributes:
        script: the script.
        key: its key, which determines the server.
        arguments: its arguments after the first.
    """

    __slots__ = ("arguments", "key", "script")

    def __init__(self, script: Script, key: bytes, arguments: tuple[bytes, ...]) -> None:
        super().__init__("", b"")
        self.script = script
        self.key = key
        self.arguments = arguments

    def text(self, wire: RedisConnection, *, is_known: bool) -> bytes:
        """Return the command; ``is_known`` if the server is likely to have the script."""
        what = (b"EVALSHA", self.script.digest) if is_known else (b"EVAL", self.script.source)
        return command(*what, b"1", self.key, wire.run_id()[:_RUN_ID_SIZE], *self.arguments)


class _ScriptCalls(Call):
    """Scripts to run in one round trip to each server, and the list of results."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[_ScriptCall]) -> None:
        super().__init__("", b"")
        self.parts = parts

    def settle(self) -> None:
        """Store the results, or the first error."""
        for part in self.parts:
            if part.error is not None:
                self.fail(part.error)
                return
        self.succeed([part.result for part in self.parts])


class _Subscriber:
    """A subscriber's connection, its watched descriptor, and when data last arrived."""

    def __init__(self, wire: RedisConnection) -> None:
        self.wire = wire
        self.fd = wire.fileno()
        self.heard = time.monotonic()
        self.pinged: float | None = None


class RedisBackend(BrokerBackend):
    """A backend with pub/sub of Redis or Valkey; see the module.

    Args:
        url: a URL of redis-py, or ``redis+unix:///path``,
            ``redis+sentinel://host:26379,host:26379/service/db`` or ``redis+cluster://host:6379``.
            ``?timeout=2`` sets the seconds to wait for the server, ``?silence=10`` the seconds
            without any data, even pongs, after which a connection is given up.
        namespace: see ``Backend``.
    """

    advice = "check that the server runs and that WEBSOCKET_BACKEND names it"

    def __init__(self, url: str, *, namespace: str = "") -> None:
        super().__init__(url, namespace=namespace)
        query = urlsplit(url).query
        options = dict(parse_qsl(query))
        self.timeout = float(options.pop("timeout", 2.0))
        self.silence = float(options.pop("silence", 10.0))
        if query:
            url = url.replace(f"?{query}", f"?{urlencode(options)}" if options else "")
        self._servers = servers_from_url(url, self.timeout)
        # All of the same length, so that a channel is found from its key.
        self.prefixes = self._servers.prefixes(namespace)
        # A cluster has one order for each shard.
        self.has_total_order = not self._servers.is_sharded
        sharding = b"S" if self._servers.is_sharded else b""
        self._publish = sharding + b"PUBLISH"
        self._subscribe = sharding + b"SUBSCRIBE"
        self._unsubscribe = sharding + b"UNSUBSCRIBE"

    # Publishing

    def prepare(self) -> None:
        """Make the state of one process."""
        super().prepare()
        self._publishers: dict[Node, RedisConnection] = {}
        self._ears: dict[Node, _Subscriber] = {}
        # Commands for the server; None without a connection, which first subscribes to everything.
        self._pending_commands: deque[tuple[bytes, bytes]] | None = None
        self._unconfirmed: dict[bytes, int] = {}
        self._awaited: set[bytes] = set()

    def reply(self, asker: bytes, packet: bytes) -> None:
        """Publish on the channel of the asker."""
        self.reply_to(f"@{asker.hex()}", packet)

    @property
    def is_sharded(self) -> bool:
        """Whether the servers are a cluster, in which each key has a slot."""
        return self._servers.is_sharded

    def prefix_of(self, name: str) -> bytes:
        """Return the prefix of the keys that belong to a name, such as the name of a channel."""
        if len(self.prefixes) == 1:
            return self.prefixes[0]
        return self.prefixes[crc32(name.encode("utf-8", "surrogatepass")) % len(self.prefixes)]

    def key_of(self, channel: str) -> bytes:
        """Return the name of a channel on the server."""
        # Names of groups never begin with "@", which marks the channels for answers.
        return self.prefix_of(channel) + channel.encode()

    def _channel_of(self, key: bytes) -> str:
        return key[len(self.prefixes[0]) :].decode()

    def run(self, script: Script, key: bytes, *arguments: bytes) -> Any:
        """Run a script on the server of a key, and return the reply.

        Calls from several threads are sent together; publications and scripts keep their order.

        Args:
            script: may use any keys that have the prefix of ``key``.
            key: ``KEYS[1]``.
            arguments: from ``ARGV[2]`` on; ``ARGV[1]`` is the beginning of the server's ``run_id``.

        Raises:
            BackendUnavailable: the script has failed, or it is unknown whether it has run.
        """
        self._prepare()
        return self.send(_ScriptCall(script, key, arguments))

    def run_all(self, script: Script, runs: Sequence[tuple[bytes, tuple[bytes, ...]]]) -> list[Any]:
        """Run a script several times, in one round trip to each server; return the replies.

        Args:
            script: as for ``run()``.
            runs: the key and the arguments of each run.

        Raises:
            BackendUnavailable: a run has failed, or it is unknown whether it was done. Others may
                have been done.
        """
        self._prepare()
        calls = [_ScriptCall(script, key, arguments) for key, arguments in runs]
        replies: list[Any] = self.send(_ScriptCalls(calls))
        return replies

    def exchange(self, calls: Sequence[Call]) -> None:
        """Publish, or run scripts; the replies to publications are the numbers of receivers."""
        left: list[Call] = []
        for call in calls:
            left += call.parts if isinstance(call, _ScriptCalls) else (call,)
        try:
            for attempt in (1, 2):
                left = self._exchange_once(left, is_last=attempt == 2)
                if not left:
                    break
                self._servers.refresh()
        except FAILURES as error:
            raise self.unavailable(error) from error
        for call in calls:
            if isinstance(call, _ScriptCalls):
                call.settle()

    def _exchange_once(self, calls: Sequence[Call], *, is_last: bool) -> list[Call]:
        """Send calls once; return those to repeat, see ``_REPEATED``."""
        groups: dict[Node, list[tuple[Call, bytes]]] = {}
        for call in calls:
            key = call.key if isinstance(call, _ScriptCall) else self.key_of(call.channel)
            groups.setdefault(self._servers.node(key), []).append((call, key))
        left: list[Call] = []
        problem: Exception | None = None
        for node, group in groups.items():
            try:
                wire = self._publisher(node)
                texts = [self._text(call, key, wire, is_last=is_last) for call, key in group]
                wire.send(b"".join(texts))
                waiting = deque(call for call, _ in group)
                is_primary = True
                while waiting:
                    for reply in wire.receive()[1]:
                        is_primary &= self._settle(waiting.popleft(), reply, is_last, left)
                if not is_primary:
                    self._shut(node)
            except FAILURES as error:
                problem = error
                self._shut(node)
            except BaseException:  # gevent.Timeout: replies that no one reads would follow
                self._shut(node)
                raise
        if problem is not None:
            raise problem
        return left

    def _text(self, call: Call, key: bytes, wire: RedisConnection, *, is_last: bool) -> bytes:
        if isinstance(call, _ScriptCall):
            return call.text(wire, is_known=not is_last)
        return command(self._publish, key, call.packet)

    def _settle(self, call: Call, reply: object, is_last: bool, left: list[Call]) -> bool:
        """Note the reply to a call; return whether the server is still a primary."""
        if not isinstance(reply, RespError):
            call.succeed(reply)
            return True
        problem = str(reply)
        if not is_last and problem.startswith(_REPEATED):
            left.append(call)
        else:
            call.fail(problem)
        return "READONLY " not in problem

    def _publisher(self, node: Node) -> RedisConnection:
        wire = self._publishers.get(node)
        if wire is not None and wire.is_stale():
            self._shut(node)
            wire = None
        if wire is None:
            wire = self._publishers[node] = self._servers.connect(node)
        return wire

    def _shut(self, node: Node) -> None:
        wire = self._publishers.pop(node, None)
        if wire is not None:
            wire.close()

    def release(self) -> None:
        """Close the publishing connections; the owner has closed the others."""
        for node in list(self._publishers):
            self._shut(node)

    def forget(self) -> None:
        """Close all descriptors."""
        for wire in (*self._publishers.values(), *(ear.wire for ear in self._ears.values())):
            wire.forget()
        self._publishers.clear()

    # Listening

    def follow(self, channel: str) -> Event:
        """Subscribe at the server, in the order of the calls."""
        self._order(self._subscribe, channel)
        return Event()

    def unfollow(self, channel: str) -> None:
        """Unsubscribe at the server."""
        self._order(self._unsubscribe, channel)

    def _order(self, what: bytes, channel: str) -> None:
        if self._pending_commands is not None:
            key = self.key_of(channel)
            if what == self._subscribe:
                self._unconfirmed[key] = self._unconfirmed.get(key, 0) + 1
            self._pending_commands.append((what, key))
            self.waiter.wake()

    def listen(self) -> None:
        """Subscribe to everything, and deliver what arrives."""
        waiter = self.waiter
        self._ears = {}
        try:
            self._servers.refresh()
            self._begin()
            while not self.stopping:
                self._send_orders()
                self._serve(waiter)
        except FAILURES as error:
            raise self.unavailable(error) from error
        finally:
            # In a fork all of this belongs to the parent.
            waiter.require_same_process()
            self._end()

    def _begin(self) -> None:
        with self.lock:
            keys = [self.key_of(name) for name in (f"@{self.id.hex()}", *self.channels)]
            self._pending_commands = deque((self._subscribe, key) for key in keys)
            self._unconfirmed = dict.fromkeys(keys, 1)
            self._awaited = set(keys)

    def _end(self) -> None:
        with self.lock:
            self._pending_commands = None
            for event in self.channels.values():
                event.clear()
        ears, self._ears = self._ears, {}
        for ear in ears.values():
            self.waiter.unregister(ear.fd)
        for ear in ears.values():
            ear.wire.close()

    def _send_orders(self) -> None:
        """Send the subscriptions and unsubscriptions to the server, in few commands."""
        while self._pending_commands:
            what = self._pending_commands[0][0]
            batches: dict[Node, list[bytes]] = {}
            for _ in range(_BATCH):
                if not self._pending_commands or self._pending_commands[0][0] != what:
                    break
                key = self._pending_commands.popleft()[1]
                batches.setdefault(self._servers.node(key), []).append(key)
            for node, keys in batches.items():
                wire = self._ear(node).wire
                # In sharded pub/sub all channels of a command must be in one slot.
                commands = [[key] for key in keys] if self._servers.is_sharded else [keys]
                wire.send(b"".join([command(what, *group) for group in commands]))

    def _ear(self, node: Node) -> _Subscriber:
        ear = self._ears.get(node)
        if ear is None:
            ear = _Subscriber(self._servers.connect(node))
            try:
                self.waiter.register(ear.fd, READ, ear)
            except BaseException:
                ear.wire.close()
                raise
            self._ears[node] = ear
        return ear

    def _serve(self, waiter: WakeableSelector) -> None:
        ready = {ear for ear, _ in waiter.wait(self.silence / 4)}
        for ear in ready:
            messages, replies = ear.wire.receive()
            self._note(replies)
            self.deliver(messages)
            ear.heard, ear.pinged = time.monotonic(), None
        now = time.monotonic()
        for ear in self._ears.values():
            if ear in ready:
                continue
            if ear.pinged is None:
                if now - ear.heard >= self.silence / 2:
                    ear.wire.send(_PING)
                    ear.pinged = now
            elif now - ear.pinged >= self.silence / 2:
                raise TimeoutError(f"nothing heard for {now - ear.heard:.1f} s, not even a pong")

    def _note(self, replies: Iterable[Any]) -> None:
        for reply in replies:
            if isinstance(reply, RespError):
                raise reply
            if not isinstance(reply, list):
                continue  # a pong on a connection without subscriptions
            if reply[0] in (b"subscribe", b"ssubscribe"):
                self._confirm(reply[1])
            elif reply[0] == b"sunsubscribe" and self._is_followed(reply[1]):
                raise ConnectionError("the cluster has moved a channel to another server")

    def _confirm(self, key: bytes) -> None:
        with self.lock:
            left = self._unconfirmed.get(key, 1) - 1
            if left:
                self._unconfirmed[key] = left  # unsubscribed and subscribed again meanwhile
                return
            self._unconfirmed.pop(key, None)
            event = self.channels.get(self._channel_of(key))
            if event is not None:
                event.set()
        if self._awaited:
            self._awaited.discard(key)
            if not self._awaited:
                self.listening()

    def _is_followed(self, key: bytes) -> bool:
        """Return whether a channel is still subscribed, so the server has ended that by itself."""
        channel = self._channel_of(key)
        return channel in self.channels and not self._unconfirmed.get(key)
