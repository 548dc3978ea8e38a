"""What clients miss while a machine is cut off: three machines, each in a network of its own.

::

    python bench/machines.py --backend redis
    python bench/machines.py --backend postgres --cut broker

Each machine is a network namespace with gunicorn and a process that sends numbers to some rooms,
like a task queue. They reach clients by one network and the broker by another. Clients connect to
any machine and move on after some seconds. After a while one machine loses both networks, or that
of the broker only, for a minute. Exits with 1 unless each client has received every number of each
sender once and in order. It needs Linux, root and iproute2. See README.rst.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from harness import GUNICORN, SERVERS, BenchError, leave_on_sigterm, server_environment
from peers import WORKER
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

MACHINES = 3

#: Addresses in the networks of clients and of the broker; 1 is this side.
FRONT, BACK = "10.77.0.{}", "10.78.0.{}"
PORT = 8000

#: Seconds that a client waits for a handshake, and that it stays at a machine.
PATIENCE = 3.0
STAY = (3.0, 15.0)

#: Pings that a server may leave out before a client goes elsewhere, as in the project's client.
SILENCE = 2.5

#: Seconds to wait until everything has arrived.
LATE = 120.0


def ip(*command: str) -> None:
    """Run a command of iproute2."""
    made = subprocess.run(["ip", *command], capture_output=True, text=True, check=False)
    if made.returncode:
        raise BenchError(f"ip {' '.join(command)}: {made.stderr.strip()}")


class Machine:
    """A network namespace, and what runs in it.

    Args:
        number: from 0 on.
        scratch: for logs.
    """

    def __init__(self, number: int, scratch: Path) -> None:
        self.name = f"m{number}"
        self.address = f"{FRONT.format(10 + number)}:{PORT}"
        self._number = number
        self._scratch = scratch
        self._space = f"bench{os.getpid()}-{number}"
        self._links = [f"bf{number}", f"bb{number}"]

    @contextmanager
    def existing(self) -> Iterator[None]:
        """Make the namespace and its links for the duration of the block."""
        ip("netns", "add", self._space)
        try:
            pairs = zip(self._links, (FRONT, BACK), ("bench-front", "bench-back"), strict=True)
            for link, network, bridge in pairs:
                inside = f"{link}n"
                peer = ("peer", "name", inside, "netns", self._space)
                ip("link", "add", link, "type", "veth", *peer)
                address = f"{network.format(10 + self._number)}/24"
                ip("-n", self._space, "address", "add", address, "dev", inside)
                ip("-n", self._space, "link", "set", inside, "up")
                ip("link", "set", link, "master", bridge, "up")
            ip("-n", self._space, "link", "set", "lo", "up")
            yield
        finally:
            ip("netns", "delete", self._space)

    def start(self, environment: dict[str, str], *command: str) -> subprocess.Popen[str]:
        """Start a program on the machine."""
        with (self._scratch / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(
                ["ip", "netns", "exec", self._space, sys.executable, *command],
                cwd=SERVERS,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def cut(self, *, broker_only: bool) -> None:
        """Cut the machine off, without notice to anyone."""
        for link in self._links[1:] if broker_only else self._links:
            ip("link", "set", link, "down")

    def connect(self) -> None:
        """Connect the machine again."""
        for link in self._links:
            ip("link", "set", link, "up")


class Client:
    """A client that returns with its position, to another machine each time.

    Args:
        room: the number of its room.
        machines: where it connects.
        counts: what happened to all clients.

    Attributes:
        heard: the last number from each sender.
    """

    def __init__(self, room: int, machines: list[Machine], counts: Counter[str]) -> None:
        self.heard: Counter[str] = Counter()
        self._room = room
        self._machines = machines
        self._counts = counts
        self._positions: dict[str, str] = {}

    async def live(self) -> None:
        """Connect again and again."""
        while True:
            machine = random.choice(self._machines)
            try:
                await self._visit(machine.address)
            except (OSError, TimeoutError, WebSocketException):
                self._counts["failed"] += 1
                await asyncio.sleep(random.uniform(0, 0.5))

    async def _visit(self, address: str) -> None:
        brought = json.dumps({"g": self._positions}).encode()
        entry = urlsafe_b64encode(brought).decode().rstrip("=")
        # Without a close: the old line may be dead.
        socket = await connect(
            f"ws://{address}/room/{self._room}/",
            subprotocols=["wsmux.v1", f"wsmux.at.{entry}"],
            open_timeout=PATIENCE,
            close_timeout=0.1,
            ping_interval=None,
            compression=None,
        )
        self._counts["visits"] += 1
        try:
            silence, until = PATIENCE, time.monotonic() + random.uniform(*STAY)
            while time.monotonic() < until:
                async with asyncio.timeout(silence):
                    frame = json.loads(await socket.recv())
                if "welcome" in frame:
                    silence = SILENCE * frame["welcome"]["ping"]
                self._take(frame)
        finally:
            with suppress(ConnectionClosed, OSError):
                await socket.close()

    def _take(self, frame: dict) -> None:
        for name, group in frame.get("welcome", {}).get("groups", {}).items():
            if not self._positions:
                self._positions[name] = group["at"]
            if group.get("recovered") is False:
                self._counts["gaps"] += 1
        self._counts["gaps"] += len(frame.get("gap", ()))
        if "text" not in frame:
            return
        self._positions[frame["in"]] = frame["at"]
        sender, number = frame["text"].split()
        self._counts["messages"] += 1
        expected = self.heard[sender] + 1
        if int(number) < expected:
            self._counts["doubled"] += 1
            return
        self._counts["lost"] += int(number) - expected
        self.heard[sender] = int(number)


@contextmanager
def networks() -> Iterator[None]:
    """Make the two networks for the duration of the block."""
    names = {"bench-front": FRONT, "bench-back": BACK}
    try:
        for name, network in names.items():
            ip("link", "add", name, "type", "bridge")
            ip("address", "add", f"{network.format(1)}/24", "dev", name)
            ip("link", "set", name, "up")
        yield
    finally:
        for name in names:
            with suppress(BenchError):
                ip("link", "delete", name)


@contextmanager
def broker(name: str, scratch: Path) -> Iterator[dict[str, str]]:
    """Run a broker that machines reach; yield the environment of their programs."""
    from tests.services import PostgresServer, RedisServer

    host = BACK.format(1)
    if name == "redis":
        redis = RedisServer(scratch, "--bind", "127.0.0.1", host, "--protected-mode", "no")
        backend, port, stop = f"redis://{host}:{redis.port}", 0, redis.stop
    else:
        postgres = PostgresServer(200, network=f"{BACK.format(0)}/24")
        backend, port, stop = "postgres://", postgres.port, postgres.stop
    try:
        yield {
            **server_environment(scratch),
            "BENCH_BACKEND": backend,
            "BENCH_HOST": host,
            "BENCH_PORT": str(port),
        }
    finally:
        stop()


async def live(options: argparse.Namespace, machines: list[Machine], start_speakers) -> list[str]:
    """Let clients come and go while a machine is cut off; return a list of problems."""
    counts: Counter[str] = Counter()
    clients = [
        Client(number % options.rooms, machines, counts) for number in range(options.clients)
    ]
    tasks = [asyncio.create_task(each.live()) for each in clients]
    while counts["visits"] < len(clients):
        await asyncio.sleep(0.1)
    # All are there, or were: from now on none may miss a message.
    speakers = start_speakers()
    await asyncio.sleep(options.before)
    began = time.monotonic()
    machines[0].cut(broker_only=options.cut == "broker")
    print(f"{machines[0].name} is cut off", flush=True)
    await asyncio.sleep(options.seconds)
    machines[0].connect()
    print(f"{machines[0].name} is back after {time.monotonic() - began:.0f} s", flush=True)
    await asyncio.sleep(options.before)
    ends = [await asyncio.to_thread(each.communicate, "\n") for each in speakers]
    last = {machine.name: int(end[0]) for machine, end in zip(machines, ends, strict=True)}
    print(f"numbers sent to each of {options.rooms} rooms: {last}", flush=True)
    deadline = time.monotonic() + LATE
    while any(each.heard != last for each in clients) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    late = sum(each.heard != last for each in clients)
    for task in tasks:
        task.cancel()
    print(
        f"{len(clients)} clients, {counts['visits']:,} visits, {counts['failed']:,} failed; "
        f"{counts['messages']:,} messages, {counts['lost']} lost, {counts['doubled']} doubled, "
        f"{counts['gaps']} gaps, {late} clients without the last message"
    )
    wrong = {name: counts[name] for name in ("lost", "doubled", "gaps") if counts[name]}
    return [f"{wrong}, {late} behind"] if wrong or late else []


def call(expression: str) -> tuple[str, str]:
    """Return the arguments of Python for a call of a function of the site."""
    return "-c", f"import machines_site; machines_site.{expression}"


def run(options: argparse.Namespace) -> list[str]:
    """Start everything; return a list of problems."""
    with ExitStack() as stack:
        scratch = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="django-wsmux-bench-"))
        )
        stack.enter_context(networks())
        environment = stack.enter_context(broker(options.backend, scratch))
        machines = [Machine(number, scratch) for number in range(MACHINES)]
        for machine in machines:
            stack.enter_context(machine.existing())

        def start(machine: Machine, *command: str) -> subprocess.Popen[str]:
            process = machine.start(environment, *command)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        if options.backend == "postgres":
            assert start(machines[0], *call("migrate()")).wait() == 0
        settings = scratch / "gunicorn.conf.py"
        settings.write_text(GUNICORN)
        listen = ("-c", str(settings), "-b", f"0.0.0.0:{PORT}", "-k", WORKER)
        for machine in machines:
            start(machine, "-m", "gunicorn", *listen, "-w", f"{options.workers}", "machines_site")
        try:
            return asyncio.run(
                live(
                    options,
                    machines,
                    lambda: [
                        start(each, *call(f"speak({each.name!r}, {options.rooms}, {options.rate})"))
                        for each in machines
                    ],
                )
            )
        finally:
            if options.log:
                logs = [f"{path.name}:\n{path.read_text()}" for path in scratch.glob("*.log")]
                Path(options.log).write_text("\n".join(logs))


def main() -> None:
    """Cut off a machine and check."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", choices=["redis", "postgres"], default="redis")
    parser.add_argument("--cut", choices=["all", "broker"], default="all", help="networks to cut")
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--rooms", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2, help="of each machine")
    parser.add_argument("--rate", type=float, default=5.0, help="numbers a second, of each sender")
    parser.add_argument("--seconds", type=float, default=60.0, help="for which it is cut off")
    parser.add_argument("--before", type=float, default=20.0, help="seconds before, and after it")
    parser.add_argument("--log", help="file for the logs")
    options = parser.parse_args()
    leave_on_sigterm()
    try:
        wrong = run(options)
    except BenchError as error:
        sys.exit(f"bench/machines.py: {error}")
    if wrong:
        sys.exit("\n".join(f"bench/machines.py: {each}" for each in wrong))
    print("nothing was lost")


if __name__ == "__main__":
    main()
