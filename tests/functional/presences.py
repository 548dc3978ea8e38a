"""Many clients in one room, who keep a list of who is present as they are told.

They return at once, their workers are replaced, killed and stopped, and the store is away. Prints
what each client was told, the CPU time of the workers and the time until all had the whole list:
``python -m tests.functional.presences --store local --clients 800``.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Self

from ..support import TIMEOUT, Server, frame, handshake
from .model import STORES, serving
from .storm import cpu

__all__ = ["PATIENCE", "Client", "Hall", "deploy", "kill", "main", "reload", "room_of", "stop"]

ROOM = "room.1"

#: Old workers close their sockets if new ones are not ready in time, which a busy machine delays.
PATIENCE = "--graceful-timeout=120"

#: Seconds until someone has left: 15 s, the interval of the sweep, and a tick.
LEAVING = (14.5, 21.0)


class Client:
    """A client of ``wsmux.v1``, or a plain one.

    Args:
        hall: all clients.
        key: the key that it is present under; "-" for none.

    Attributes:
        here: the keys that are present, as far as it was told.
        events: the joins and leaves that it was told since the last ``Hall.forget_events()``.
        when: the time of each of them.
        lists: the whole lists that it was told.
    """

    def __init__(self, hall: Hall, key: str, *, url: str = "", is_plain: bool = False) -> None:
        self.hall, self.key, self.is_plain = hall, key, is_plain
        self.url = url or f"/present/{ROOM}/{key}/"
        self.here: set[str] = set()
        self.events: Counter[tuple[str, str]] = Counter()
        self.when: dict[tuple[str, str], float] = {}
        self.lists = 0
        self.pid = 0
        self.sock: socket.socket | None = None
        self.is_open = self.is_welcome = False
        self.code: int | None = None
        self._buffer = b""

    def connect(self) -> None:
        """Begin a handshake."""
        self.is_open = self.is_welcome = False
        self.here, self.lists, self._buffer, self.code, self.pid = set(), 0, b"", None, 0
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.connect_ex(("127.0.0.1", self.hall.server.port))
        self.hall.selector.register(self.sock, selectors.EVENT_WRITE, self)

    def writable(self) -> None:
        """Send the request."""
        assert self.sock is not None
        more = "" if self.is_plain else "Sec-WebSocket-Protocol: wsmux.v1\r\n"
        try:
            self.sock.send(handshake(self.url, more))
        except OSError:
            self._again()
            return
        self.hall.selector.modify(self.sock, selectors.EVENT_READ, self)

    def _again(self) -> None:
        self.drop()
        self.hall.refused += 1
        self.connect()

    def drop(self) -> None:
        """Reset the connection."""
        if self.sock is not None:
            self.hall.selector.unregister(self.sock)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()
            self.sock = None

    def send(self, text: str) -> None:
        """Send a message."""
        self._send(frame(0x81, text.encode()))

    def _send(self, data: bytes) -> None:
        assert self.sock is not None
        self.sock.send(data)

    def readable(self) -> None:
        """Process what has arrived."""
        assert self.sock is not None
        try:
            data = self.sock.recv(2**18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if not self.is_open:
                self._again()
            else:
                self.drop()
            return
        self._buffer += data
        if not self.is_open:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            assert head.startswith(b"HTTP/1.1 101 "), head
            self.is_open, self._buffer = True, rest
        self._read_frames()

    def _read_frames(self) -> None:
        while len(self._buffer) >= 2:
            opcode, size, start = self._buffer[0] & 15, self._buffer[1], 2
            if size == 126:
                size, start = int.from_bytes(self._buffer[2:4], "big"), 4
            elif size == 127:
                size, start = int.from_bytes(self._buffer[2:10], "big"), 10
            if len(self._buffer) < start + size:
                return
            payload = self._buffer[start : start + size]
            self._buffer = self._buffer[start + size :]
            if opcode == 1:
                self._take(json.loads(payload))
            elif opcode == 9:
                self._send(frame(0x8A, payload))
            elif opcode == 8:
                self.code = int.from_bytes(payload[:2], "big")

    def _take(self, told: dict[str, Any]) -> None:
        if "welcome" in told:
            self.is_welcome = True
        elif told.get("data", {}).get("pid"):
            self.pid = told["data"]["pid"]
        elif "presence" in told:
            assert self.is_welcome
            assert told["in"] == ROOM
            assert not self.is_plain
            self._take_presence(**told["presence"])
        elif "pid" in told:
            self.pid = told["pid"]

    def _take_presence(
        self,
        all: dict[str, Any] | None = None,
        joined: Iterable[str] = (),
        left: Iterable[str] = (),
    ) -> None:
        if all is not None:
            assert all == {key: {"name": f"the user {key}"} for key in all}
            self.here, self.lists = {*all}, self.lists + 1
        now = time.monotonic()
        for what, keys in (("joined", joined), ("left", left)):
            for key in keys:
                self.events[what, key] += 1
                self.when[what, key] = now
        self.here = (self.here | {*joined}) - {*left}


class Hall:
    """All clients.

    Args:
        server: the server.

    Attributes:
        gone: clients that do not count any more.
        refused: how many connections were refused, or lost before they were open.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.selector = selectors.DefaultSelector()
        self.clients: list[Client] = []
        self.gone: list[Client] = []
        self.refused = 0

    def add(self, *keys: str, **options: Any) -> list[Client]:
        """Open sockets for new clients; wait until they are open."""
        new = [Client(self, key, **options) for key in keys]
        self.clients += new
        for client in new:
            client.connect()
        self.wait(lambda: all(each.is_open for each in new), "sockets do not open")
        return new

    def step(self, timeout: float = 0.05) -> None:
        """Process what has arrived for all clients."""
        for key, events in self.selector.select(timeout):
            client: Client = key.data
            if client.sock is key.fileobj:
                if events & selectors.EVENT_WRITE:
                    client.writable()
                else:
                    client.readable()

    def wait(self, condition: Callable[[], object], problem: str) -> float:
        """Wait until something is the case; return the seconds that this took."""
        began = time.monotonic()
        while not condition():
            self.step()
            if time.monotonic() > began + 2 * TIMEOUT:
                state = {each.key: (len(each.here), each.sock is None) for each in self.clients}
                raise AssertionError(f"{problem}: {state}; the log:\n{self.server.log[-5000:]}")
        return time.monotonic() - began

    def let_pass(self, seconds: float) -> None:
        """Process what arrives in this time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step()

    def forget_events(self) -> None:
        """Count events from now on."""
        for client in self.clients:
            client.events.clear()
            client.when.clear()

    def find_pids(self) -> dict[int, list[Client]]:
        """Return the clients by the process that serves them."""
        found = [each for each in self.clients if each.sock is not None and not each.is_plain]
        for client in found:
            client.pid = 0
            client.send("who")
        self.wait(lambda: all(each.pid for each in found), "views do not answer")
        pids: dict[int, list[Client]] = {}
        for client in found:
            pids.setdefault(client.pid, []).append(client)
        return pids

    def wait_for_list(self, keys: Collection[str], clients: Iterable[Client] = ()) -> float:
        """Wait until clients have this list; return the seconds that this took."""
        expected, watching = {*keys}, [*clients] or self.clients
        watching = [each for each in watching if each.sock is not None and not each.is_plain]

        def is_told() -> bool:
            return all(each.here == expected for each in watching)

        return self.wait(is_told, "not all clients have the list")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for client in (*self.clients, *self.gone):
            client.drop()
        self.selector.close()
        assert "Traceback" not in self.server.log, self.server.log


def room_of(server: Server) -> list[str]:
    """Return who is present, as a page shows it."""
    keys: list[str] = json.loads(server.get(f"/present/list/{ROOM}/"))["keys"]
    return keys


def quiet(hall: Hall) -> bool:
    """Return whether no client was told of anyone."""
    return not any(each.events for each in hall.clients)


def come_again(hall: Hall) -> float:
    """Reset all connections, and open them again; return the seconds until all have lists."""
    for client in hall.clients:
        client.drop()
    hall.forget_events()
    for client in hall.clients:
        client.connect()
    return hall.wait_for_list([each.key for each in hall.clients])


def reload(hall: Hall, count: int) -> None:
    """Let all clients return at once, twice, the second time during a deploy; no one leaves."""
    server, keys = hall.server, [f"k{number}" for number in range(count)]
    before = cpu(server)
    began = time.monotonic()
    hall.add(*keys)
    hall.wait_for_list(keys)
    print(f"{count} came: {time.monotonic() - began:.1f} s, {cpu(server) - before:.2f} s of CPU")
    assert sorted(room_of(server)) == sorted(keys)
    before = cpu(server)
    seconds = come_again(hall)
    print(
        f"{count} returned: whole lists after {seconds:.1f} s, {cpu(server) - before:.2f} s of CPU"
    )
    before = cpu(server)
    hall.let_pass(LEAVING[1])
    print(f"{LEAVING[1]:.0f} s later: {cpu(server) - before:.2f} s of CPU")
    most = max((max(each.events.values()) for each in hall.clients if each.events), default=0)
    told = sum(sum(each.events.values()) for each in hall.clients)
    print(f"events about those who returned: {told}, at most {most} about one")
    assert told == 0
    assert sorted(room_of(server)) == sorted(keys)
    assert "asked other processes" not in server.log


def deploy(hall: Hall) -> None:
    """Replace the workers: no client is told anything, and the rows belong to the new ones."""
    server, keys = hall.server, sorted(each.key for each in hall.clients)
    old = {*hall.find_pids()}
    for client in hall.clients:
        client.lists = 0
    hall.forget_events()
    began = time.monotonic()
    server.signal(signal.SIGHUP)
    hall.wait(lambda: not old & {*server.workers}, "workers are not replaced")
    pids = hall.find_pids()
    assert not old & {*pids}
    print(f"moved to {len(pids)} workers: {time.monotonic() - began:.1f} s")
    hall.let_pass(LEAVING[1])
    assert quiet(hall), [each.events for each in hall.clients if each.events][:3]
    assert all(each.sock is not None for each in hall.clients)
    assert not sum(each.lists for each in hall.clients)
    assert sorted(room_of(server)) == keys


def kill(hall: Hall) -> None:
    """Kill a worker: each of its members leaves once, for each watcher of the others."""
    pids = hall.find_pids()
    assert len(pids) > 1, "all sockets are in one worker"
    victim, lost = min(pids.items(), key=lambda item: len(item[1]))
    hall.forget_events()
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    gone = {each.key for each in lost}
    hall.wait(lambda: all(each.sock is None for each in lost), "sockets are still open")
    staying = [each for each in hall.clients if each.sock is not None]
    hall.wait_for_list({each.key for each in staying}, staying)
    hall.let_pass(2.0)
    times = [when - began for each in staying for when in each.when.values()]
    for client in staying:
        assert client.events == Counter({("left", key): 1 for key in gone})
    print(f"{len(gone)} of a killed worker left after {min(times):.1f} to {max(times):.1f} s")
    assert min(times) > LEAVING[0] - 5  # its last sign of life was up to 5 s earlier
    hall.clients = staying


def stop(hall: Hall) -> None:
    """Stop a worker for 30 s: its members leave and join, once each at most."""
    pids = hall.find_pids()
    assert len(pids) > 1, "all sockets are in one worker"
    victim, stopped = min(pids.items(), key=lambda item: len(item[1]))
    others = [each for each in hall.clients if each not in stopped]
    hall.forget_events()
    os.kill(victim, signal.SIGSTOP)
    hall.let_pass(30.0)
    os.kill(victim, signal.SIGCONT)
    hall.wait_for_list({each.key for each in hall.clients})
    hall.let_pass(7.0)
    keys = {each.key for each in stopped}
    once = {(what, key): 1 for what in ("left", "joined") for key in keys}
    for client in others:
        assert client.events == once, client.events
    assert all(each.sock is not None for each in hall.clients)
    print(f"{len(keys)} of a stopped worker left and joined once")


def main(arguments: list[str]) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", choices=STORES, default="local")
    parser.add_argument("--clients", type=int, default=800)
    parser.add_argument("--log", help="file for the output of the server")
    parser.add_argument("--parts", nargs="*", default=["reload", "deploy", "stop", "kill"])
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="presences-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with (
            serving(options.store, directory, PATIENCE, count=2) as (server, _),
            Hall(server) as hall,
        ):
            try:
                for part in options.parts:
                    if part == "reload":
                        reload(hall, options.clients)
                    else:
                        {"deploy": deploy, "stop": stop, "kill": kill}[part](hall)
            finally:
                if options.log:
                    Path(options.log).write_text(server.log)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
