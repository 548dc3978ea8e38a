"""A process that uses a backend and executes commands: for the contract's tests.

``Peer`` starts and controls it, as a fork of ``python -m django_wsmux.testing.backend_process``.
They exchange lines of JSON over pipes: a command with its arguments, then a result or an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Final

from .forking import become_fork, fork_of

__all__ = ["Peer", "PeerError"]

#: Seconds after which an expected event counts as missing.
TIMEOUT: Final = 60.0


class PeerError(Exception):
    """An exception that the process raised.

    Attributes:
        kind: the name of the exception's class.
        text: the message of the exception.
        seconds: how long the call took.
    """

    def __init__(self, kind: str, text: str, seconds: float) -> None:
        self.kind = kind
        self.text = text
        self.seconds = seconds
        super().__init__(f"{kind}: {text}")


class Peer:
    """A process with its own backend.

    Args:
        url: the URL of the backend.
        namespace: see ``Backend``.
        gevent: whether to patch the process with gevent first, as a worker does.
        env: environment variables in addition to those of this process. If
            ``DJANGO_SETTINGS_MODULE`` is among them, Django is set up.
    """

    def __init__(
        self,
        url: str,
        namespace: str = "tests",
        *,
        gevent: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        scheme = url.partition(":")[0]
        kind = ["gevent" if gevent else "plain", scheme]
        self.process = fork_of(__name__, kind, {**os.environ, **(env or {})}, [url, namespace])
        self._log: list[str] = []
        self._logged = threading.Condition()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read_log(self) -> None:
        for line in self.process.stderr:
            with self._logged:
                self._log.append(line)
                self._logged.notify_all()

    @property
    def log(self) -> str:
        """Everything that the process has logged so far."""
        return "".join(self._log)

    def wait_for_log(self, text: str, timeout: float = TIMEOUT) -> None:
        """Wait until the process has logged a text."""
        with self._logged:
            if not self._logged.wait_for(lambda: text in self.log, timeout):
                raise AssertionError(f"{text!r} is not in the log:\n{self.log}")

    def begin(self, command: str, *arguments: Any) -> None:
        """Give a command; ``end()`` waits for its result."""
        self.process.stdin.write(json.dumps([command, *arguments]) + "\n")
        self.process.stdin.flush()

    def end(self) -> Any:
        """Wait for the command of ``begin()``, and return its result.

        Raises:
            PeerError: the command raised an exception.
        """
        line = self.process.stdout.readline()
        if not line:
            self._reader.join(TIMEOUT)
            raise AssertionError(f"the process ended:\n{self.log}")
        result = json.loads(line)
        if "error" in result:
            raise PeerError(result["error"], result["text"], result["seconds"])
        return result["value"]

    def call(self, command: str, *arguments: Any) -> Any:
        """Give a command and return its result; the commands are the methods of ``Commands``."""
        self.begin(command, *arguments)
        return self.end()

    def start(self, *channels: str) -> None:
        """Start the backend, and wait until it is subscribed to these channels."""
        self.call("start", *channels)

    def publish(self, channel: str, *payloads: bytes) -> None:
        """Publish payloads in order."""
        self.call("publish", channel, *(b64encode(payload).decode() for payload in payloads))

    def received(self, count: int = 0, timeout: float = TIMEOUT) -> list[tuple[str, bytes]]:
        """Wait for ``count`` publications since the last call; return all that have arrived."""
        found = self.call("received", count, timeout)
        return [(channel, b64decode(payload)) for channel, payload in found]

    def gaps(self, count: int = 1, timeout: float = TIMEOUT) -> list[dict[str, Any]]:
        """Wait for ``count`` gaps since the last call; return all that have been reported."""
        gaps: list[dict[str, Any]] = self.call("gaps", count, timeout)
        return gaps

    def ask(self, channel: str, question: bytes, timeout: float = TIMEOUT) -> list[bytes]:
        """Ask the other processes; return their sorted answers."""
        answers = self.call("ask", channel, b64encode(question).decode(), timeout)
        return sorted(b64decode(answer) for answer in answers)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process; after SIGSTOP, wait until it has stopped."""
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            # Until its main thread has run, other threads may still run.
            self.process.wait_until_stopped()

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self.process.kill()
        self.process.wait(TIMEOUT)

    def stop(self) -> None:
        """End the process; it sends queued packets first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it was killed
            self.process.stdin.close()
        try:
            self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(TIMEOUT)
        self.process.stdout.close()
        self.process.stderr.close()


class Commands:
    """The commands of the process."""

    def __init__(self, url: str, namespace: str) -> None:
        from ..backends import Gap, from_url  # not before gevent has patched

        self._backend = from_url(url, namespace=namespace)
        self._arrived = threading.Condition()
        self._received: list[tuple[str, bytes]] = []
        self._gaps: list[Gap] = []
        self._turns = 0

    def _receive(self, channel: str, payload: bytes) -> None:
        if payload == b"raise":
            raise ValueError("told to")
        with self._arrived:
            self._received.append((channel, payload))
            self._arrived.notify_all()

    def _note_gap(self, gap: Any) -> None:
        with self._arrived:
            self._gaps.append(gap)
            self._arrived.notify_all()

    def _answer(self, channel: str, question: bytes) -> bytes:
        if question == b"raise":
            raise ValueError("told to")
        return b"%d:%b" % (os.getpid(), question)

    def start(self, *channels: str) -> None:
        """Start the backend, and subscribe to channels."""
        self._backend.start(self._receive, self._note_gap, self._answer)
        for event in [self._backend.subscribe(channel) for channel in channels]:
            if not event.wait(TIMEOUT):
                raise TimeoutError("not subscribed")

    def subscribe(self, channel: str, timeout: float = TIMEOUT) -> bool:
        """Subscribe, and wait until that is effective."""
        return self._backend.subscribe(channel).wait(timeout)

    def toggle(self, channel: str, times: int) -> None:
        """Subscribe and unsubscribe repeatedly, without waiting."""
        for _ in range(times):
            self._backend.subscribe(channel)
            self._backend.unsubscribe(channel)

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe."""
        self._backend.unsubscribe(channel)

    def publish(self, channel: str, *payloads: str) -> None:
        """Publish payloads."""
        for payload in payloads:
            self._backend.publish(channel, b64decode(payload))

    def publish_numbers(self, channel: str, prefix: str, count: int, size: int = 0) -> None:
        """Publish numbered messages; every seventh is padded to a size."""
        for number in range(count):
            text = f"{prefix}:{number}:"
            self._backend.publish(channel, text.ljust(size if number % 7 == 0 else 0).encode())

    def try_to_publish(self, channel: str, size: int, times: int) -> int:
        """Publish several times; return the number of failures."""
        from ..exceptions import BackendUnavailable

        failed = 0
        for _ in range(times):
            try:
                self._backend.publish(channel, bytes(size))
            except BackendUnavailable:
                failed += 1
        return failed

    def try_to_publish_this(self, channel: str, payload: str) -> bool:
        """Publish; return whether that succeeded."""
        from ..exceptions import BackendUnavailable

        try:
            self._backend.publish(channel, b64decode(payload))
        except BackendUnavailable:
            return False
        return True

    def publish_at_once(self, channel: str, threads: int, count: int, text: str = "") -> None:
        """Publish from several threads or greenlets at the same time: numbers, or one text."""

        def work(index: int) -> None:
            if text:
                self.publish(channel, *[b64encode(text.encode()).decode()] * count)
            else:
                self.publish_numbers(channel, f"{index}", count)

        workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def publish_within(self, channel: str, payload: str, seconds: float, greenlets: int) -> int:
        """Publish from greenlets with a gevent timeout; return how many timed out."""
        import gevent

        def work() -> bool:
            timeout = gevent.Timeout.start_new(seconds)
            try:
                self._backend.publish(channel, b64decode(payload))
            except gevent.Timeout:
                return True
            finally:
                timeout.close()
            return False

        workers = [gevent.spawn(work) for _ in range(greenlets)]
        return sum(worker.get() for worker in workers)

    def inject(self, channel: str, packet: str) -> None:
        """Send a packet unchanged."""
        self._backend._prepare()
        self._backend.transmit(channel, b64decode(packet))

    def ask(self, channel: str, question: str, timeout: float) -> list[str]:
        """Ask the others."""
        answers = self._backend.ask(channel, b64decode(question), timeout)
        return [b64encode(answer).decode() for answer in answers]

    def received(self, count: int, timeout: float) -> list[tuple[str, str]]:
        """Return the publications that have arrived."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._received) >= count, timeout)
            found, self._received = self._received, []
        return [(channel, b64encode(payload).decode()) for channel, payload in found]

    def gaps(self, count: int, timeout: float) -> list[dict[str, Any]]:
        """Return the gaps that have been reported."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._gaps) >= count, timeout)
            found, self._gaps = self._gaps, []
        return [{"reason": g.reason, "seconds": g.seconds, "missed": g.missed} for g in found]

    def counts(self) -> dict[str, int]:
        """Return the backend's counters."""
        counts = self._backend.counts
        return {name: getattr(counts, name) for name in counts.__slots__}

    def starve(self) -> None:
        """Leave the process without free descriptors."""
        import resource

        time.sleep(0.05)  # libev may need one more descriptor once, after the fork
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, self._files[1]))

    def feed(self) -> None:
        """Give the process free descriptors again."""
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, self._files)

    def id(self) -> str:
        """Return the id of this process."""
        return self._backend.id.hex()

    def numbers(self, process: str) -> list[int]:
        """Return the last numbers of the threads of a process, sorted."""
        from ..backends.numbers import THREAD

        table = self._backend.numbers.table()
        return sorted(
            number % THREAD for source, number in table.items() if source.hex().startswith(process)
        )

    def has_total_order(self) -> bool:
        """Return the attribute."""
        return self._backend.has_total_order

    def mark(self, process: str) -> dict[str, Any]:
        """See ``Backend``."""
        return self._backend.mark(bytes.fromhex(process), TIMEOUT)

    def await_mark(self, mark: dict[str, Any]) -> bool:
        """See ``Backend``; wait long only for a mark that comes."""
        return self._backend.await_mark(mark, 0.2 if mark.get("mark") == "00" else TIMEOUT)

    def namespace(self) -> str:
        """Return the namespace."""
        return self._backend.namespace

    def fork_and_publish(self, channel: str, payload: str) -> str:
        """Publish from a fork; return the id of the fork."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self._backend.publish(channel, b64decode(payload))
                self._backend.close()
                # Time for copied greenlets, which must not do the work of the parent.
                time.sleep(0.1)
                os.write(writer, self._backend.id.hex().encode())
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("the fork failed")
        with os.fdopen(reader, "rb", buffering=0) as results:
            found = results.read(64)
        os.close(writer)
        assert found is not None
        return found.decode()

    def memory(self) -> int:
        """Return the resident memory in KiB."""
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def watch_turns(self) -> None:
        """Start counting how often another thread runs."""
        threading.Thread(target=self._tick, daemon=True).start()

    def _tick(self) -> None:
        while True:
            time.sleep(0.005)
            self._turns += 1

    def turns(self) -> int:
        """Return how often the other thread has run since the last call: up to 200 a second."""
        turns, self._turns = self._turns, 0
        return turns

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()


def _serve(url: str, namespace: str) -> None:
    import logging

    logging.basicConfig(level=logging.INFO)
    commands = Commands(url, namespace)
    source: Any = sys.stdin
    if "gevent.monkey" in sys.modules:
        from gevent.fileobject import FileObject

        source = FileObject(sys.stdin.fileno(), "r", closefd=False)
    for line in source:
        name, *arguments = json.loads(line)
        began = time.monotonic()
        try:
            result = {"value": getattr(commands, name)(*arguments)}
        except Exception as error:
            seconds = time.monotonic() - began
            result = {"error": type(error).__name__, "text": str(error), "seconds": seconds}
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


def _main(kind: str, scheme: str) -> None:
    if kind == "gevent":
        from gevent import monkey

        monkey.patch_all()
    if "DJANGO_SETTINGS_MODULE" in os.environ:
        import django

        django.setup()
    from ..backends import from_url

    with contextlib.suppress(Exception):  # the URLs of some have a path; their forks import then
        from_url(f"{scheme}://")
    arguments = become_fork()
    if kind == "gevent":
        from gevent import reinit

        reinit()
    _serve(*arguments)


if __name__ == "__main__":
    _main(*sys.argv[1:])
