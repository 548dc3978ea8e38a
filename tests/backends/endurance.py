"""Many members, several senders and faults: every message must arrive where it belongs.

Three workers have many members each. There is a sender in each worker and one in another process.
In the first part each member must get each message once, in the order of its sender. The second
part adds members that do not read, a worker that is killed and a broker that is restarted: healthy
members may miss only messages in a reported gap (``backend_gap``), and messages that their sender
was told were not published.

In full: ``python -m tests.backends.endurance local redis postgres``; in short it is the last test
of ``tests/functional/test_groups.py``.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from tests.project.speaking import SIZE, line
from tests.services import PostgresServer, RedisServer
from tests.support import ROOT, Server, Wire, frame, handshake

__all__ = [
    "BACKENDS",
    "Cluster",
    "Crowd",
    "Scale",
    "endure_faults",
    "endure_nothing",
    "judge",
    "numbers_in",
    "serving",
]

BACKENDS = ("local", "redis", "postgres")

WORKERS = 3

#: Seconds to wait for anything.
PATIENCE = 60.0

#: The bytes before a message on the wire.
HEAD = frame(0x81, bytes(SIZE))[:1] + b"\x7e" + SIZE.to_bytes(2, "big")
FRAME = len(HEAD) + SIZE

#: Unsent bytes after which a member is closed.
MAX_UNSENT = 16384

#: Messages of each sender in a round: those of all senders fit into MAX_UNSENT.
ROUND = 25

#: The same while faults happen, and the seconds between two of them.
SLOW_ROUND, PAUSE = 100, 0.005

#: Messages may be lost if they were published within these seconds before a broker's death.
IN_FLIGHT = 0.5


class Broker(Protocol):
    """A broker that can be restarted."""

    def kill(self) -> None:
        """Kill it, as a crash does."""

    def start(self) -> None:
        """Start it, at the same port as before."""


@dataclass(frozen=True)
class Scale:
    """The size of a run.

    Attributes:
        members: number in each worker.
        messages: number in each of the two parts, of all senders together.
        stalled: number of members that do not read, in the second part.
    """

    members: int
    messages: int
    stalled: int


FULL = Scale(members=200, messages=2000, stalled=50)


@dataclass(frozen=True)
class Cluster:
    """Three workers on a backend.

    Attributes:
        server: the server with the workers.
        env: the environment of other programs of the project.
        broker: the broker between them, if there is one.
    """

    server: Server
    env: Mapping[str, str]
    broker: Broker | None


@contextmanager
def serving(backend: str, directory: Path, env: Mapping[str, str]) -> Iterator[Cluster]:
    """Start three workers, and a broker if needed; stop them at the end."""
    broker: RedisServer | PostgresServer | None = None
    with ExitStack() as stack:
        env = {
            **env,
            "TEST_BACKEND": f"local://?namespace={uuid4().hex}",
            "TEST_MAX_UNSENT_BYTES": str(MAX_UNSENT),
            "TEST_PING_INTERVAL": "0",
        }
        if backend == "redis":
            broker = RedisServer(directory)
            env["TEST_BACKEND"] = broker.url
        elif backend == "postgres":
            broker = PostgresServer()
            database = {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres"}
            database |= {"USER": "postgres", "HOST": "127.0.0.1", "PORT": str(broker.port)}
            env["TEST_SETTINGS"] = json.dumps({"DATABASES": {"default": database}})
            env["TEST_BACKEND"] = "postgres://"
        if broker is not None:
            stack.callback(broker.stop)
        if backend == "postgres":
            command = [sys.executable, "-m", "django", "migrate", "-v0"]
            subprocess.run(command, env={**os.environ, **env}, cwd=ROOT, check=True)
        server = Server.gunicorn("own", "-w", str(WORKERS), env=env)
        stack.callback(server.stop)
        yield Cluster(server, env, broker)


# Members and senders


class Member:
    """A member's end of its socket, and the bytes that it received."""

    def __init__(self, sock: socket.socket, worker: int) -> None:
        self.sock = sock
        self.worker = worker
        self.stream = bytearray()
        self.has_ended = False


@dataclass
class Sender:
    """A sender and its reports.

    Attributes:
        letter: its name.
        worker: the worker that it is in; 0 for a process of its own.
        tell: sends an order to it.
        report: returns its report on an order, empty when it has died.
        told: the number of messages that it was told to send.
        sent: for each message, when it was sent and whether it was published.
        is_lost: whether it has died.
    """

    letter: str
    worker: int
    tell: Callable[[bytes], object]
    report: Callable[[], bytes]
    told: int = 0
    sent: list[tuple[float, bool]] = field(default_factory=list)
    is_lost: bool = False

    @property
    def is_busy(self) -> bool:
        """Whether it has not reported yet."""
        return not self.is_lost and len(self.sent) < self.told

    def speak(self, count: int, pause: float) -> None:
        """Tell it to send this many messages."""
        order = {"speaker": self.letter, "first": self.told, "count": count, "pause": pause}
        self.tell(json.dumps(order).encode())
        self.told += count

    def take_report(self) -> None:
        """Read its report, which has arrived."""
        report = self.report()
        self.is_lost = not report
        self.sent += json.loads(report or "[]")


class Crowd:
    """The members and senders of one group, all read by one selector.

    Args:
        cluster: the workers.
        scale: the size of the run.
    """

    def __init__(self, cluster: Cluster, scale: Scale) -> None:
        self.server, self.broker, self._env = cluster.server, cluster.broker, cluster.env
        self.scale = scale
        self.name = uuid4().hex
        self.members: list[Member] = []
        self.senders: list[Sender] = []
        self._selector = selectors.DefaultSelector()
        self._buffer = bytearray(2**18)
        self._stack = ExitStack()
        # Bytes that all members together have received, and will have received.
        self._arrived = self._expected = 0

    def __enter__(self) -> Crowd:
        self._stack.callback(self._selector.close)
        self.gather()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    # Setup

    def gather(self) -> None:
        """Open sockets until each worker has its members and a sender; start one sender outside."""
        members = self.scale.members
        seats: dict[int, list[Wire]] = {}
        while len(seats) < WORKERS or min(map(len, seats.values())) < members:
            # Many at a time, so that an idle worker does not get all of them.
            for wire in [self._ask_for("seat") for _ in range(16)]:
                taken = seats.setdefault(self._greeting(wire), [])
                if len(taken) < members:
                    taken.append(wire)
                else:
                    wire.__exit__()
        for worker, wires in seats.items():
            self.members += [self._seat(wire, worker) for wire in wires]
        found: dict[int, Wire] = {}
        while len(found) < WORKERS:
            for wire in [self._ask_for("speaker") for _ in range(16)]:
                if found.setdefault(self._greeting(wire), wire) is not wire:
                    wire.__exit__()
        for letter, (worker, wire) in zip("ABC", found.items(), strict=True):
            self._add_sender_in(worker, wire, letter)
        self._add_sender_outside("D")

    def _ask_for(self, what: str, receive_buffer: int | None = None) -> Wire:
        wire = self._stack.enter_context(self.server.wire(receive_buffer))
        wire.send(handshake(f"/{what}/{self.name}/"))
        return wire

    def _greeting(self, wire: Wire) -> int:
        """Return the process that serves a socket."""
        head = wire.head()
        assert head.startswith("HTTP/1.1 101 "), head
        return int(wire.frame()[1])

    def _seat(self, wire: Wire, worker: int) -> Member:
        member = Member(wire.sock, worker)
        wire.sock.setblocking(False)
        self._selector.register(
            wire.sock, selectors.EVENT_READ, functools.partial(self._read, member)
        )
        return member

    def _add_sender_in(self, worker: int, wire: Wire, letter: str) -> None:
        def tell(order: bytes) -> None:
            wire.send(frame(0x81, order))

        def report() -> bytes:
            try:
                return wire.frame()[1]
            except (ValueError, ConnectionResetError):
                return b""  # killed

        sender = Sender(letter, worker, tell, report)
        self.senders.append(sender)
        self._selector.register(wire.sock, selectors.EVENT_READ, sender.take_report)

    def _add_sender_outside(self, letter: str) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.project.speaking", self.name],
            cwd=ROOT,
            env={**os.environ, **self._env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def tell(order: bytes) -> None:
            stdin.write(order + b"\n")
            stdin.flush()

        def end() -> None:
            stdin.close()
            process.wait(PATIENCE)
            stdout.close()

        self._stack.callback(end)
        sender = Sender(letter, 0, tell, stdout.readline)
        self.senders.append(sender)
        self._selector.register(stdout, selectors.EVENT_READ, sender.take_report)

    def stall(self) -> None:
        """Add members that do not read, and fill their buffers."""
        for _ in range(self.scale.stalled):
            wire = self._ask_for("seat", 4096)
            self._greeting(wire)
            wire.send(frame(0x81, b""))

    # Sending

    @property
    def workers(self) -> list[int]:
        """The workers that have members."""
        return list(dict.fromkeys(member.worker for member in self.healthy))

    @property
    def healthy(self) -> list[Member]:
        """The members whose worker lives."""
        return [member for member in self.members if not member.has_ended]

    @property
    def present(self) -> list[Sender]:
        """The senders that live."""
        return [sender for sender in self.senders if not sender.is_lost]

    def speak(self, count: int = ROUND, pause: float = 0) -> None:
        """Tell every sender to send this many messages, without waiting."""
        for sender in self.present:
            sender.speak(count, pause)

    def reported(self) -> bool:
        """Return whether all senders have reported."""
        return not any(sender.is_busy for sender in self.senders)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Read all sockets until the condition is true."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"timed out waiting for {what}"
            for key, _ in self._selector.select(0.05):
                key.data()

    def pass_time(self, seconds: float) -> None:
        """Read all sockets for a while."""
        until = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= until, "time to pass")

    def _read(self, member: Member) -> None:
        try:
            size = member.sock.recv_into(self._buffer)
        except BlockingIOError:
            return
        except ConnectionResetError:
            size = 0
        if not size:
            member.has_ended = True
            self._selector.unregister(member.sock)
        member.stream += memoryview(self._buffer)[:size]
        self._arrived += size

    def all_have_the_last(self) -> bool:
        """Return whether every healthy member has the last message of every sender."""
        last = [line(each.letter, each.told - 1).encode() for each in self.present]
        tail = 2 * len(self.senders) * SLOW_ROUND * FRAME
        return all(text in member.stream[-tail:] for member in self.healthy for text in last)

    def forget(self) -> None:
        """Reset all counts and received bytes."""
        for sender in self.senders:
            sender.told, sender.sent = 0, []
        for member in self.members:
            member.stream.clear()

    # Faults

    def speak_whole(self, messages: int) -> None:
        """Send this many messages; after each round, wait until every member has all of them."""
        self._expected = self._arrived
        while messages > 0:
            self._expected += ROUND * len(self.present) * len(self.healthy) * FRAME
            self.speak()
            self.wait(lambda: self.reported() and self._arrived >= self._expected, "a round")
            messages -= ROUND * len(self.present)

    def kill_worker(self) -> None:
        """Kill a worker with SIGKILL while all senders send."""
        victim = self.workers[0]
        self.speak(SLOW_ROUND, PAUSE)
        self.pass_time(SLOW_ROUND * PAUSE / 3)
        os.kill(victim, signal.SIGKILL)
        gone = [member for member in self.members if member.worker == victim]
        self.wait(lambda: all(member.has_ended for member in gone), "the sockets of the killed")
        self.wait(self.reported, "the reports of the others")
        self.server.wait_for_replacement(victim)

    def restart_broker(self, broker: Broker) -> float:
        """Restart the broker while all send, until they recover; return when it was killed."""
        self.speak(SLOW_ROUND, PAUSE)
        self.pass_time(SLOW_ROUND * PAUSE / 3)
        killed = time.monotonic()
        broker.kill()
        self.wait(self.reported, "reports")
        self.speak(SLOW_ROUND, PAUSE)
        broker.start()
        self.wait(self.reported, "reports")
        while not {gap.worker for gap in self.gaps()} >= set(self.workers) or not all(
            is_published for sender in self.present for _, is_published in sender.sent[-ROUND:]
        ):
            assert time.monotonic() < killed + PATIENCE, "the broker does not come back"
            self.speak(ROUND, PAUSE)
            self.wait(self.reported, "reports")
        return killed

    def gaps(self) -> list[Reported]:
        """Return the gaps that workers have reported."""
        return [Reported(**json.loads(text)) for text in re.findall("gap ({.*})", self.server.log)]


@dataclass(frozen=True)
class Reported:
    """A gap, as the signal reported it to a worker."""

    worker: int
    began: float
    ended: float
    missed: int | None


# Evaluation


def numbers_in(stream: bytes) -> dict[str, list[int]]:
    """Return the numbers of the messages in a member's stream by sender, in their order."""
    found: dict[str, list[int]] = {}
    assert len(stream) % FRAME == 0, f"{len(stream)} bytes are not a whole number of messages"
    for start in range(0, len(stream), FRAME):
        text = stream[start + len(HEAD) : start + FRAME].decode()
        letter, number = text[0], int(text[1:8])
        assert stream[start : start + len(HEAD)] == HEAD
        assert text == line(letter, number)
        found.setdefault(letter, []).append(number)
    return found


def judge(crowd: Crowd, killed: float | None) -> int:
    """Assert that healthy members have all messages that they must have; return how many they lack.

    Args:
        crowd: members and senders after a run.
        killed: when the broker was killed, if it was.
    """
    gaps = crowd.gaps()
    lacking = 0
    for worker in crowd.workers:
        excused = [gap.ended for gap in gaps if gap.worker == worker and killed is not None]
        streams = [bytes(each.stream) for each in crowd.healthy if each.worker == worker]
        # Members of one worker usually have the same stream.
        for stream in dict.fromkeys(streams):
            found = numbers_in(stream)
            for sender in crowd.senders:
                numbers = found.pop(sender.letter, [])
                assert numbers == sorted(set(numbers)), f"{sender.letter}: duplicate or unordered"
                if sender.is_lost:
                    # No member has what a killed worker had not sent.
                    assert numbers == list(range(len(numbers))), f"{sender.letter}: holes"
                    continue
                missing = set(range(sender.told)).difference(numbers)
                lacking += len(missing) * streams.count(stream)
                for number in missing:
                    when, is_published = sender.sent[number]
                    is_excused = killed is not None and any(
                        killed - IN_FLIGHT < when < ended for ended in excused
                    )
                    assert is_excused or not is_published, (
                        f"{sender.letter}{number} is missing in worker {worker}"
                    )
            assert not found, f"unknown senders: {found}"
    return lacking


@dataclass(frozen=True)
class Outcome:
    """The result of a part.

    Attributes:
        received: messages that healthy members got.
        lacking: messages that they did not get, and were told so.
        failed: messages whose sender was told that others did not get them.
        gaps: duration of each reported gap, in seconds.
        seconds: duration of the part.
    """

    received: int
    lacking: int
    failed: int
    gaps: list[float]
    seconds: float


def outcome(crowd: Crowd, began: float, killed: float | None = None) -> Outcome:
    """Check the streams, and return the result."""
    seconds = time.monotonic() - began
    lacking = judge(crowd, killed)
    return Outcome(
        received=sum(len(member.stream) for member in crowd.healthy) // FRAME,
        lacking=lacking,
        failed=sum(not ok for sender in crowd.senders for _, ok in sender.sent),
        gaps=[round(gap.ended - gap.began, 2) for gap in crowd.gaps()],
        seconds=round(seconds, 1),
    )


def endure_nothing(crowd: Crowd) -> Outcome:
    """Run the part without faults."""
    scale = crowd.scale
    began = time.monotonic()
    crowd.speak_whole(scale.messages)
    result = outcome(crowd, began)
    assert (result.lacking, result.failed, result.gaps) == (0, 0, [])
    assert result.received == scale.messages * scale.members * WORKERS
    return result


def endure_faults(crowd: Crowd) -> Outcome:
    """Run the part in which members stall, a worker is killed and the broker is restarted."""
    scale = crowd.scale
    crowd.forget()
    began = time.monotonic()
    killed = None
    crowd.stall()
    crowd.speak_whole(scale.messages // 2)
    crowd.kill_worker()
    if crowd.broker is not None:
        killed = crowd.restart_broker(crowd.broker)
    crowd.speak_whole(scale.messages // 2)
    crowd.wait(crowd.all_have_the_last, "the last messages")
    result = outcome(crowd, began, killed)
    assert len(re.findall("closed with 1013", crowd.server.log)) == scale.stalled
    assert len(crowd.healthy) == scale.members * (WORKERS - 1)
    return result


def main() -> None:
    """Run both parts for each backend, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backends", nargs="*", metavar="BACKEND", help=" ".join(BACKENDS))
    parser.add_argument("--members", type=int, default=FULL.members, help="in each worker")
    parser.add_argument("--messages", type=int, default=FULL.messages)
    parser.add_argument("--stalled", type=int, default=FULL.stalled)
    options = parser.parse_args()
    scale = Scale(options.members, options.messages, options.stalled)
    with tempfile.TemporaryDirectory(prefix="endurance-") as directory:
        env = {
            "DJANGO_SETTINGS_MODULE": "tests.project.settings",
            "TEST_DATABASE": f"{directory}/db.sqlite3",
        }
        for backend in options.backends or BACKENDS:
            with serving(backend, Path(directory), env) as cluster, Crowd(cluster, scale) as crowd:
                print(f"{backend}: all well: {endure_nothing(crowd)}", flush=True)
                print(f"{backend}: faults: {endure_faults(crowd)}", flush=True)


if __name__ == "__main__":
    main()
