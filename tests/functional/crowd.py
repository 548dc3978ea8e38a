"""Clients of groups with a history, which return with their positions and check their messages.

Each message has an id. For each group, the crowd records the id and position of each message when
the first client gets it, so all clients must agree. A client with ``wsmux.v1`` is told the
positions. A plain client counts messages, which works as long as there are no gaps.
"""

from __future__ import annotations

import base64
import json
import random
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from django_wsmux.protocol.positions import Position, moment_of, parse

from ..support import frame, handshake

__all__ = ["Client", "Crowd", "Rules"]

#: The longest random pause in seconds before a client returns, and after it was refused.
_PAUSE, _LONG_PAUSE = 0.05, 0.5

#: Close codes of the server that are not errors.
_HARMLESS = {1001, 1012, 1013, 4900}


@dataclass
class Rules:
    """The gaps that are allowed.

    Attributes:
        limit: only a client that missed more messages than this may be told of a gap.
        changes: how often the epoch of each group may have changed.
    """

    limit: int
    changes: Counter[str] = field(default_factory=Counter)


class GroupRecord:
    """The messages of a group that all clients together have seen.

    Attributes:
        ids: the ids of the messages, by epoch and offset.
        epochs: the epochs that clients were told.
    """

    def __init__(self) -> None:
        self.ids: dict[str, dict[int, str]] = {}
        self.epochs: set[str] = set()


class Client:
    """One client.

    Args:
        crowd: the crowd.
        group: the group that it joins.
        position: for a plain client: its first position.

    Attributes:
        answered: the number of the last question of the crowd that the server has answered.
    """

    def __init__(self, crowd: Crowd, group: str, position: Position | None = None) -> None:
        self.crowd = crowd
        self.group = group
        self.is_plain = position is not None
        self.position = position
        self.signed = ""
        self.brings_id = random.random() < 0.5
        self.due = 0.0
        self.buffer = b""
        self.is_open = False
        self.answered = 0
        self.sock: socket.socket | None = None

    def __repr__(self) -> str:
        kind = "plain" if self.is_plain else "v1"
        return f"{kind} client of {self.group} at {self.position}"

    # The connection

    def connect(self) -> None:
        """Begin a handshake, with the position."""
        self.buffer, self.is_open = b"", False
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.connect_ex(("127.0.0.1", self.crowd.port))
        self.crowd.selector.register(self.sock, selectors.EVENT_WRITE, self)

    def _request(self) -> bytes:
        path, more = f"/kept/{'member' if self.is_plain else 'quiet'}/{self.group}/", ""
        if self.is_plain:
            path += f"?at={self.position}"
        else:
            more = "Sec-WebSocket-Protocol: wsmux.v1"
            brought: dict[str, Any] = {}
            if self.signed and self.brings_id:
                brought["c"] = self.signed
            if self.position is not None:
                brought["g"] = {self.group: str(self.position)}
                self.crowd.counts["resumes"] += 1
            if brought:
                text = base64.urlsafe_b64encode(json.dumps(brought).encode()).decode()
                more += f", wsmux.at.{text.rstrip('=')}"
            more += "\r\n"
        return handshake(path, more)

    def writable(self) -> None:
        """Send the request on the new connection."""
        assert self.sock is not None
        try:
            self.sock.send(self._request())
        except OSError:
            self.drop("refused")
        else:
            self.crowd.selector.modify(self.sock, selectors.EVENT_READ, self)

    def readable(self) -> None:
        """Process the bytes that have arrived."""
        assert self.sock is not None
        try:
            data = self.sock.recv(2**18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop("dropped" if self.is_open else "refused")
            return
        self.buffer += data
        if not self.is_open:
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            status = head[9:12].decode()
            if status != "101":
                self.drop(f"answered {status}")
                return
            self.is_open, self.buffer = True, rest
            self.ask()
        self._read_frames()

    def ask(self) -> None:
        """Ask the server for a pong if the crowd has a question that it has not answered."""
        number = self.crowd.questions
        if self.is_open and self.sock is not None and self.answered < number:
            with suppress(OSError):
                self.sock.send(frame(0x89, str(number).encode()))

    def _read_frames(self) -> None:
        buffer, at = self.buffer, 0
        while len(buffer) >= at + 2:
            length, begin = buffer[at + 1], at + 2
            if length == 126:
                begin += 2
                length = int.from_bytes(buffer[at + 2 : begin], "big")
            if len(buffer) < begin + length:
                break
            opcode, payload = buffer[at] & 15, buffer[begin : begin + length]
            at = begin + length
            if opcode == 1:
                self._take(payload)
            elif opcode == 9 and self.sock is not None:
                self.sock.send(frame(0x8A, payload))
            elif opcode == 10:
                self.answered = int(payload)
            elif opcode == 8:
                self._closed(payload)
            if self.sock is None:
                return
        self.buffer = buffer[at:]

    def _closed(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big")
        if code == 4900:
            self.signed = ""
        if code not in _HARMLESS:
            self.crowd.wrong(f"{self} was closed with {code} {payload[2:]!r}")
        self.drop(f"closed {code}")

    def drop(self, why: str) -> None:
        """Drop the connection without a close frame, and return soon."""
        if self.sock is None:
            return
        self.crowd.counts[why] += 1
        self.crowd.selector.unregister(self.sock)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        self.sock = None
        pause = _LONG_PAUSE if "closed 1013" in why or "answered" in why else _PAUSE
        self.due = time.monotonic() + random.random() * pause
        self.crowd.away.append(self)

    # Messages

    def _take(self, payload: bytes) -> None:
        if self.is_plain:
            self._take_plain(payload.decode())
            return
        value = json.loads(payload)
        if "text" in value and "at" in value:
            self._take_message(value["at"], value["text"])
        elif "gap" in value:
            self._take_gap(value["gap"][self.group])
        elif "welcome" in value:
            self.signed = value["welcome"]["client"]
            self._take_joined(value["welcome"]["groups"])
        elif "joined" in value:
            self._take_joined(value["joined"])
        elif value and "bye" not in value:
            self.crowd.wrong(f"{self} got {payload!r}")

    def _take_plain(self, text: str) -> None:
        assert self.position is not None
        if text == "missed":
            self.crowd.wrong(f"{self} was told of a gap")
            self.drop("missed")
            return
        self.position = Position(self.position.epoch, self.position.offset + 1)
        self.crowd.note(self, self.position, text)

    def _take_message(self, at: str, text: str) -> None:
        found = parse(at)
        assert found is not None
        expected = self.position
        if expected is None or not self._is_next(expected, found):
            self.crowd.wrong(f"{self} got the message of {at}")
        self.position = found
        self.crowd.note(self, found, text)

    def _is_next(self, last: Position, found: Position) -> bool:
        if found.offset != last.offset + 1:
            return False
        if found.epoch == last.epoch:
            return True
        # The last position may be the one before the first message of a group.
        store, moment = moment_of(last.epoch)
        other_store, later = moment_of(found.epoch)
        return not last.offset and store == other_store and moment <= later

    def _take_joined(self, groups: dict[str, dict[str, Any]]) -> None:
        told = groups.get(self.group)
        if told is None:
            self.crowd.counts["joined late"] += 1
            return
        at = None if told.get("at") is None else parse(told["at"])
        recovered = told.get("recovered")
        if at is None:
            self.crowd.counts["store away"] += 1
        elif recovered is False:
            self.crowd.counts["not recovered"] += 1
            self._take_gap(told["at"])
        elif self.position is None:
            self.position = at
            self.crowd.note_epoch(self, at.epoch)
        elif recovered is not True:
            self.crowd.wrong(f"{self} asked, and was not told whether it recovered: {told}")
        else:
            self.crowd.counts["recovered"] += 1
            if self.position.offset > at.offset:
                self.crowd.wrong(f"{self} recovered to {told['at']}")
            if self.position.epoch != at.epoch:
                if self.position.offset:
                    self.crowd.wrong(f"{self} recovered to another epoch: {told['at']}")
                self.position = Position(at.epoch, 0)
                self.crowd.note_epoch(self, at.epoch)

    def _take_gap(self, position: str) -> None:
        at, last = parse(position), self.position
        assert at is not None
        self.crowd.counts["gaps"] += 1
        if last is None:
            pass
        elif at.epoch == last.epoch:
            if at.offset - last.offset <= self.crowd.rules.limit:
                self.crowd.wrong(f"{self} was told of a gap to {position}")
        else:
            self.crowd.counts["gaps of a new epoch"] += 1
            is_later = moment_of(at.epoch)[1] > moment_of(last.epoch)[1]
            if not is_later or not self.crowd.rules.changes[self.group]:
                self.crowd.wrong(f"{self} was told another epoch: {position}")
        self.position = at
        self.crowd.note_epoch(self, at.epoch)


class Crowd:
    """All clients.

    Attributes:
        counts: the number of events, by name.
        problems: violations of the guarantees.
        away: the clients without a connection.
        records: by group.
        where: by id: group and position.
        questions: how often the servers were asked to answer every client.
    """

    def __init__(self, port: int, rules: Rules) -> None:
        self.port = port
        self.rules = rules
        self.selector = selectors.DefaultSelector()
        self.clients: list[Client] = []
        self.away: list[Client] = []
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.records: dict[str, GroupRecord] = {}
        self.where: dict[str, tuple[str, Position]] = {}
        self.questions = self._asked = 0
        self._lock = threading.Lock()

    def add(self, client: Client) -> None:
        """Add a client."""
        self.records.setdefault(client.group, GroupRecord())
        self.clients.append(client)
        self.away.append(client)

    def ask(self) -> int:
        """Ask the servers to answer every client; return the number of the question."""
        with self._lock:
            self.questions += 1
            return self.questions

    def step(self, timeout: float = 0.02) -> None:
        """Do one step of all clients."""
        now = time.monotonic()
        if (number := self.questions) != self._asked:
            self._asked = number
            for client in self.clients:
                client.ask()
        due = [client for client in self.away if client.due <= now]
        if due:
            self.away = [client for client in self.away if client.due > now]
            for client in due:
                client.connect()
        for key, events in self.selector.select(timeout):
            client = key.data
            if client.sock is key.fileobj:
                if events & selectors.EVENT_WRITE:
                    client.writable()
                else:
                    client.readable()

    def lag(self, tops: dict[str, int]) -> int:
        """Return how far the slowest client is behind numbers of messages."""
        return max(
            tops[each.group] - (each.position.offset if each.position else 0)
            for each in self.clients
        )

    def wrong(self, problem: str) -> None:
        """Note a problem."""
        self.counts["problems"] += 1
        if len(self.problems) < 50:
            self.problems.append(problem)

    def note_epoch(self, client: Client, epoch: str) -> None:
        """Note an epoch that a client was told."""
        self.records[client.group].epochs.add(epoch)

    def note(self, client: Client, position: Position, text: str) -> None:
        """Note a message that a client got."""
        self.counts["messages"] += 1
        name = text.rstrip(".")
        ids = self.records[client.group].ids.setdefault(position.epoch, {})
        known = ids.setdefault(position.offset, name)
        if known != name:
            self.wrong(f"{client} got {name}, others got {known} there")
        place = self.where.setdefault(name, (client.group, position))
        if place != (client.group, position):
            self.twice(client, name, place[1], position)

    def twice(self, client: Client, name: str, one: Position, other: Position) -> None:
        """Note a message with two positions; a store that has lost its keys may repeat it."""
        self.counts["two positions"] += 1
        if one.epoch == other.epoch or not self.rules.changes[client.group]:
            self.wrong(f"{client} got {name} again, before at {one}")

    def close(self) -> None:
        """Drop all connections."""
        for client in self.clients:
            client.drop("left")
        self.away.clear()
        self.selector.close()
