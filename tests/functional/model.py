"""A model run: messages to groups with a history, while everything fails that can fail.

gunicorn serves clients that return with their positions, and senders that post messages. Meanwhile
connections are reset, workers killed and stopped, gunicorn reloaded, brokers restarted, groups
forgotten, and messages between processes lost, duplicated and delayed. Every client must get each
message of its group once, in the common order, or be told of a gap that the limits justify. Each
fault waits until the servers answer all clients after the last one, so a slow machine sees fewer.
Exits with 1 otherwise: ``python -m tests.functional.model --store redis --messages 1000000``.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django_wsmux.protocol.positions import parse

from ..services import PostgresServer, RedisServer
from ..support import ROOT, TIMEOUT, Server
from .crowd import Client, Crowd, Rules

__all__ = ["FAULTS", "STORES", "Broker", "main", "parse_options", "run", "serving"]

STORES = ("local", "redis", "postgres", "memory")

#: The faults besides losses, and their relative frequencies.
FAULTS = {
    "cut": 8,
    "stop": 3,
    "kill": 1,
    "reload": 0.3,
    "forget": 2,
    "restart": 0.5,
    "snapshot": 0.5,
}

#: Messages of one request of a sender.
_BATCH = 10

#: Seconds without progress after which a run fails.
_PATIENCE = 2 * TIMEOUT


@dataclass
class Broker:
    """The place of the store.

    Attributes:
        env: the environment of the server under test.
        server: the broker; ``None`` if there is none.
    """

    env: dict[str, str]
    server: RedisServer | PostgresServer | None = None

    def restart(self) -> None:
        """Kill the broker, as a crash does, and start it again."""
        assert self.server is not None
        self.server.kill()
        self.server.start()


@contextmanager
def broker_of(store: str, directory: Path, settings: dict[str, Any]) -> Iterator[Broker]:
    """Run the servers that a store needs.

    Args:
        store: one of ``STORES``.
        directory: for its files.
        settings: the settings of the project.
    """
    env = {"DJANGO_SETTINGS_MODULE": "tests.project.settings"}
    env["TEST_DATABASE"] = str(directory / "db.sqlite3")
    if store == "redis":
        server: RedisServer | PostgresServer | None = RedisServer(directory)
        env["TEST_BACKEND"] = server.url  # type: ignore[union-attr]
    elif store == "postgres":
        server = PostgresServer(max_connections=200)
        env["TEST_BACKEND"] = "postgres://"
        database = {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres"}
        database |= {"USER": "postgres", "HOST": "127.0.0.1", "PORT": str(server.port)}
        settings = {**settings, "DATABASES": {"default": database}}
    else:
        server = None
        env["TEST_BACKEND"] = "memory://" if store == "memory" else f"local://{directory}"
    env["TEST_SETTINGS"] = json.dumps(settings)
    try:
        migrate = [sys.executable, "-m", "django", "migrate", "-v0"]
        subprocess.run(migrate, env={**os.environ, **env}, cwd=ROOT, check=True)
        yield Broker(env, server)
    finally:
        if server is not None:
            server.stop()


@contextmanager
def serving(
    store: str,
    directory: Path,
    *options: str,
    count: int = 4,
    losses: float = 0.0,
    tells_reads: bool = False,
    **settings: Any,
) -> Iterator[tuple[Server, Broker]]:
    """Run gunicorn with the test project, and the servers that the store needs.

    Args:
        store: one of ``STORES``.
        directory: for files.
        options: further options of gunicorn.
        count: the number of workers; one for ``memory``.
        losses: the share of messages between processes that is lost; as many are duplicated, and as
            many are delayed.
        tells_reads: print a line for each reading of the store in SQLite.
        settings: settings of the project.
    """
    workers = "1" if store == "memory" else str(count)
    with broker_of(store, directory, settings) as broker:
        server = Server.gunicorn(
            "own",
            *("-w", workers, "--timeout", "120", "--graceful-timeout", "20", *options),
            application="tests.project.lossy",
            env={
                **broker.env,
                "TEST_LOSSES": str(losses),
                "TEST_READS": "1" if tells_reads else "",
            },
        )
        try:
            server.wait_for_log(rf"(?s)(?:\] WebSockets: groups by.*){{{workers}}}")
            yield server, broker
        finally:
            server.stop()


class Ledger:
    """The results of the senders.

    Attributes:
        sent: the ids of messages that were sent, in no order.
        unknown: ids of messages for which this is unknown.
        tops: the messages of each group that were sent, or may have been.
        is_slow: whether the senders have to wait for the clients.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.groups = [f"model.{number}" for number in range(options.groups)]
        self.sent: set[str] = set()
        self.unknown: set[str] = set()
        self.groups_of: dict[str, str] = {}
        self.tops = dict.fromkeys(self.groups, 0)
        self.lock = threading.Lock()
        self.is_slow = threading.Event()
        self.is_over = threading.Event()
        self._next = 0

    def take(self) -> list[dict[str, str]]:
        """Return the next messages to send; none if all are sent."""
        with self.lock:
            count = min(_BATCH, self.options.messages - self._next)
            first, self._next = self._next, self._next + count
        found = []
        for number in range(first, first + count):
            group, name = random.choice(self.groups), f"m{number}"
            text = name.ljust(self.options.size, ".")
            found.append({"group": group, "name": name, "text": text})
        return found

    def note(self, batch: list[dict[str, str]], sent: set[str]) -> None:
        """Note the answer to a request."""
        with self.lock:
            for each in batch:
                self.groups_of[each["name"]] = each["group"]
                (self.sent if each["text"] in sent else self.unknown).add(each["name"])
                self.tops[each["group"]] += 1


def post(port: int, path: str, body: object) -> Any:
    """Return the answer to a request; ``None`` if it failed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        data = response.read()
        return json.loads(data) if response.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def send(ledger: Ledger, port: int, *, with_keys: bool) -> None:
    """Send messages until all are sent; with keys, repeat each until it is known to be sent."""
    options = ledger.options
    started, count = time.monotonic(), 0
    while (batch := ledger.take()) and not ledger.is_over.is_set():
        wanted = [{"group": each["group"], "text": each["text"]} for each in batch]
        if with_keys:
            wanted = [{**each, "key": each["text"].rstrip(".")} for each in wanted]
        sent: set[str] = set()
        while not ledger.is_over.is_set():
            answer = post(
                port, "/kept/send/", [each for each in wanted if each["text"] not in sent]
            )
            sent.update(answer["sent"] if answer else ())
            if len(sent) == len(batch) or not with_keys:
                break
            time.sleep(0.05)
        ledger.note(batch, sent)
        count += len(batch)
        while ledger.is_slow.is_set() and not ledger.is_over.is_set():
            time.sleep(0.01)
        if options.rate:
            due = started + count * options.senders / options.rate
            time.sleep(max(due - time.monotonic(), 0.0))


class Faults:
    """Causes faults at random moments, each after the effects of the last one have ended.

    The resets of connections have a pace of their own: they happen during other faults, too.

    Attributes:
        counts: the number of each fault.
        problem: why the servers have not recovered from one; ``""`` if they have.
    """

    def __init__(
        self, options: argparse.Namespace, server: Server, broker: Broker, crowd: Crowd
    ) -> None:
        self.options, self.server, self.broker, self.crowd = options, server, broker, crowd
        self.counts: Counter[str] = Counter()
        self.problem = ""
        self.is_over = threading.Event()
        self.next_look = self.next_report = 0.0
        #: Calls for the thread of the clients.
        self.calls: deque[Callable[[], None]] = deque()
        names = self.options.faults
        self.threads = [
            threading.Thread(target=self._run, args=(chosen,), daemon=True)
            for chosen in (
                [name for name in names if name != "cut"],
                ["cut"] if "cut" in names else [],
            )
            if chosen
        ]

    def _run(self, names: list[str]) -> None:
        weights = [FAULTS[name] for name in names]
        share = sum(weights) / sum(FAULTS[name] for name in self.options.faults)
        try:
            while not self.is_over.wait(random.expovariate(share / self.options.pause)):
                (name,) = random.choices(names, weights)
                getattr(self, name)()
                self.counts[name] += 1
                self._settle()
        except (AssertionError, OSError) as error:
            self.problem = f"the servers did not recover: {error}"

    def _settle(self) -> None:
        """Wait until the servers have answered every client."""
        number = self.crowd.ask()
        self._wait_until(
            lambda: all(client.answered >= number for client in self.crowd.clients),
            "a client got no answer",
        )

    def _wait_until(self, condition: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition() and not self.is_over.wait(0.05):
            if time.monotonic() > deadline:
                raise TimeoutError(problem)

    def cut(self) -> None:
        """Reset a tenth of the connections."""
        is_done = threading.Event()
        self.calls.append(lambda: self._cut(is_done))
        self._wait_until(is_done.is_set, "the clients do nothing")

    def _cut(self, is_done: threading.Event) -> None:
        for client in self.crowd.clients:
            if random.random() < 0.1:
                client.drop("cut")
        is_done.set()

    def kill(self) -> None:
        """Kill a worker, and wait until its successor serves."""
        pid = random.choice(self.server.workers)
        os.kill(pid, signal.SIGKILL)
        self.server.wait_for_replacement(pid)

    def stop(self) -> None:
        """Stop a worker for a while."""
        pid = random.choice(self.server.workers)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(random.random())
        os.kill(pid, signal.SIGCONT)

    def reload(self) -> None:
        """Make gunicorn replace its workers, and wait until it has done so."""
        before, log = {*self.server.workers}, len(self.server.log)
        self.server.signal(signal.SIGHUP)
        self._wait_until(
            lambda: (
                self.server.log.count("] WebSockets: groups by", log) >= len(before)
                and not before & {*self.server.workers}
            ),
            "the workers were not replaced",
        )

    def forget(self) -> None:
        """Forget a group."""
        group = random.choice(list(self.crowd.records))
        self.crowd.rules.changes[group] += 1
        post(self.server.port, f"/kept/forget/{group}/", None)

    def restart(self) -> None:
        """Restart the broker."""
        for group in self.crowd.records:
            self.crowd.rules.changes[group] += 1
        self.broker.restart()

    def snapshot(self) -> None:
        """Restart Redis from a snapshot that is older than its last messages."""
        assert isinstance(self.broker.server, RedisServer)
        self.broker.server.ask("SAVE")
        self.is_over.wait(random.random())
        self.restart()


def run(options: argparse.Namespace, server: Server, broker: Broker) -> list[str]:
    """Run the model; print figures, and return the problems."""
    ledger = Ledger(options)
    crowd = Crowd(server.port, Rules(options.limit))
    faults = Faults(options, server, broker, crowd)
    come(options, ledger, crowd, server)
    senders = []
    for number in range(options.senders):
        kwargs = {"with_keys": number % 2 == 0}
        senders.append(threading.Thread(target=send, args=(ledger, server.port), kwargs=kwargs))
    threads = [*senders, *faults.threads]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in senders):
            step(crowd, ledger, faults)
        faults.is_over.set()
        while any(thread.is_alive() for thread in faults.threads):
            step(crowd, ledger, faults)
        finish(ledger, crowd, server)
    except TimeoutError as error:
        crowd.wrong(str(error))
    finally:
        ledger.is_over.set()
        faults.is_over.set()
        crowd.close()
        for thread in threads:
            thread.join(TIMEOUT)
    compare(ledger, crowd)
    report(ledger, crowd, faults, time.monotonic() - started)
    return crowd.problems


def come(options: argparse.Namespace, ledger: Ledger, crowd: Crowd, server: Server) -> None:
    """Add the clients. Plain clients get their first position from a page."""
    for group in ledger.groups:
        say(server, group, f"first-{group}")
        ledger.tops[group] = 1
    # If gaps are expected, plain clients cannot count.
    has_plain = has_no_gaps(options)
    for number in range(options.clients):
        group = ledger.groups[number % options.groups]
        position = None
        if has_plain and number % 4 == 0:
            position = parse(server.get(f"/kept/position/{group}/"))
        crowd.add(Client(crowd, group, position))
    deadline = time.monotonic() + _PATIENCE
    while not all(client.is_open and client.position for client in crowd.clients):
        crowd.step()
        assert time.monotonic() < deadline, f"not all clients came: {crowd.counts}"


def has_no_gaps(options: argparse.Namespace) -> bool:
    """Return whether no client may be told of a gap."""
    return not (options.no_throttle or {"forget", "restart", "snapshot"} & {*options.faults})


def say(server: Server, group: str, text: str) -> None:
    """Send one message; retry until it is sent."""
    deadline = time.monotonic() + _PATIENCE
    wanted = [{"group": group, "text": text, "key": text}]
    while not (answer := post(server.port, "/kept/send/", wanted)) or not answer["sent"]:
        assert time.monotonic() < deadline, f"cannot send to {group}"
        time.sleep(0.1)


def step(crowd: Crowd, ledger: Ledger, faults: Faults) -> None:
    """Do a step of the clients; make the senders wait if one is too slow.

    Raises:
        TimeoutError: the servers did not recover from a fault.
    """
    crowd.step()
    if faults.problem:
        raise TimeoutError(faults.problem)
    while faults.calls:
        faults.calls.popleft()()
    options, now = ledger.options, time.monotonic()
    if now < faults.next_look:
        return
    faults.next_look = now + 0.05
    if has_no_gaps(options):
        # Otherwise they would miss more than the limit.
        if crowd.lag(ledger.tops) > options.limit // 3:
            ledger.is_slow.set()
        else:
            ledger.is_slow.clear()
    if now >= faults.next_report:
        faults.next_report = now + 10
        happened = ", ".join(f"{name} {count}" for name, count in sorted(faults.counts.items()))
        print(
            f"{len(ledger.sent):,} sent, {crowd.counts['messages']:,} received; {happened}; "
            f"{crowd.counts['problems']} problems",
            flush=True,
        )


def finish(ledger: Ledger, crowd: Crowd, server: Server) -> None:
    """Wait until all clients have all messages.

    Raises:
        TimeoutError: some clients do not catch up.
    """
    positions = {}
    for group in ledger.groups:
        say(server, group, f"last-{group}")
        positions[group] = parse(server.get(f"/kept/position/{group}/"))
    seen, deadline = -1, time.monotonic() + _PATIENCE
    while behind := [each for each in crowd.clients if each.position != positions[each.group]]:
        crowd.step()
        if crowd.counts["messages"] != seen:
            seen, deadline = crowd.counts["messages"], time.monotonic() + _PATIENCE
        if time.monotonic() > deadline:
            each = behind[0]
            raise TimeoutError(
                f"{len(behind)} clients stay behind: {each}, which is {positions[each.group]}"
            )


def compare(ledger: Ledger, crowd: Crowd) -> None:
    """Compare the clients' messages with the senders' results."""
    lost = ledger.sent - crowd.where.keys()
    for name in lost:
        group = ledger.groups_of[name]
        if not crowd.rules.changes[group]:
            crowd.wrong(f"{name} of {group} was lost")
    crowd.counts["gone with an epoch"] = len(lost)
    for name in crowd.where.keys() - ledger.sent - ledger.unknown:
        if not name.startswith(("first-", "last-")):
            crowd.wrong(f"{name} was never sent")
    for group, record in crowd.records.items():
        if len(record.ids) > 1 + crowd.rules.changes[group]:
            crowd.wrong(f"{group} had {len(record.ids)} epochs")


def report(ledger: Ledger, crowd: Crowd, faults: Faults, seconds: float) -> None:
    """Print the figures."""
    rate = len(ledger.sent) / seconds
    print(
        f"{len(ledger.sent):,} messages sent in {seconds:.0f} s ({rate:,.0f}/s); of "
        f"{len(ledger.unknown):,} more that is unknown"
    )
    for title, counts in (("clients", crowd.counts), ("faults", faults.counts)):
        print(f"{title}: " + ", ".join(f"{key} {counts[key]:,}" for key in sorted(counts)))
    for problem in crowd.problems:
        print(f"WRONG: {problem}")


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """Parse the options of the program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", choices=STORES, default="local")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=40, help="bytes of a message")
    parser.add_argument("--rate", type=float, default=0, help="messages a second; 0: all that go")
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--groups", type=int, default=20)
    parser.add_argument("--kept", type=int, default=1000, help="messages kept of a group")
    parser.add_argument("--limit", type=int, default=1000, help="WEBSOCKET_HISTORY_LIMIT")
    parser.add_argument("--losses", type=float, default=0.03, help="share of packets")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--no-throttle", action="store_true", help="let clients fall behind")
    parser.add_argument("--log", help="file for the output of the server")
    parser.add_argument(
        "--faults", nargs="*", choices=FAULTS, default=["cut", "kill", "stop", "reload"]
    )
    options = parser.parse_args(arguments)
    options.limit = min(options.limit, options.kept)
    return options


def main(arguments: list[str]) -> int:
    """Run the program; return its exit code."""
    options = parse_options(arguments)
    random.seed(options.seed)
    # Stop all started processes.
    signal.signal(signal.SIGTERM, lambda *args: sys.exit("terminated"))
    keep = {"messages": options.kept, "seconds": 3600, "bytes": 2**24}
    settings = {"WEBSOCKET_HISTORY": {"model.*": keep}, "WEBSOCKET_HISTORY_LIMIT": options.limit}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="model-")))
        directory.chmod(0o755)
        server, broker = stack.enter_context(
            serving(options.store, directory, losses=options.losses, **settings)
        )
        try:
            problems = run(options, server, broker)
        finally:
            if options.log:
                Path(options.log).write_text(server.log)
        for line in server.log.splitlines():
            if "Traceback" in line:
                print("WRONG: the server's log has a traceback")
                problems.append(line)
                break
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
