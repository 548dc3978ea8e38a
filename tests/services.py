"""Real brokers for the tests, each with its own directory and port, and an unreliable network."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .support import TIMEOUT, unused_port, wait_for_port

__all__ = [
    "PostgresServer",
    "Proxy",
    "RedisServer",
    "fail_over",
    "find_postgres",
    "move_slot",
    "postgres_environment",
    "proxy_to",
    "redis_cluster",
    "redis_sentinel",
    "wait_until_said",
]


def wait_until_said(condition: Callable[[], object]) -> None:
    """Poll until the condition is true, where nothing can be awaited."""
    deadline = time.monotonic() + 2 * TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


class RedisServer:
    """A redis-server without persistence.

    Args:
        directory: for its log.
        options: further options for redis-server.
        config: the configuration of a Sentinel; makes this one a Sentinel.

    Attributes:
        port: the port that it listens on.
    """

    tls_port = 0

    def __init__(self, directory: Path, *options: str, config: Path | None = None) -> None:
        self.port = unused_port()
        # A configuration file makes it a Sentinel, which writes to it.
        self._config = [] if config is None else [str(config), "--sentinel"]
        self.options = options
        self._log = directory / f"redis-{self.port}.log"
        self._directory = directory
        self.start()

    @classmethod
    def with_tls(cls, directory: Path, key: Path, certificate: Path) -> RedisServer:
        """Start a server that speaks TLS at ``tls_port``."""
        port = unused_port()
        options = f"--tls-port {port} --tls-key-file {key} --tls-cert-file {certificate}"
        server = cls(directory, *options.split(), "--tls-auth-clients", "no")
        server.tls_port = port
        return server

    @classmethod
    def of_cluster(cls, directory: Path) -> RedisServer:
        """Start a server that can join a cluster."""
        # The default port of the cluster bus, 10,000 higher, may be out of range.
        options = f"--cluster-enabled yes --cluster-port {unused_port()}"
        # By default, a server that is silent for 15 seconds counts as dead.
        return cls(directory, *options.split(), "--cluster-node-timeout", "120000")

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server, at the same port as before."""
        command = ["redis-server", *self._config, "--port", f"{self.port}", "--bind", "127.0.0.1"]
        if not self._config:
            command += ["--save", ""]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.options], cwd=self._directory, stdout=log, stderr=log
            )
        wait_for_port(self.port)

    def ask(self, *command: str) -> str:
        """Send a command; return the reply as redis-cli prints it, one item per line."""
        client = ["redis-cli", "-p", f"{self.port}", *command]
        return subprocess.run(client, check=True, capture_output=True, text=True).stdout

    def kill(self) -> None:
        """Kill the server, as a crash does."""
        self.process.kill()
        self.process.wait(TIMEOUT)

    def freeze(self) -> None:
        """Stop the process; its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the process continue."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop the server."""
        if self.process.poll() is None:
            self.thaw()
            self.process.terminate()
            self.process.wait(TIMEOUT)


@contextmanager
def redis_cluster(directory: Path) -> Iterator[list[RedisServer]]:
    """Run three masters that know each other during the block."""
    servers = []
    for number in range(3):
        node = directory / f"node{number}"
        node.mkdir()
        servers.append(RedisServer.of_cluster(node))
    addresses = [f"127.0.0.1:{server.port}" for server in servers]
    command = ["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for server in servers:
        wait_until_said(lambda: "cluster_state:ok" in server.ask("CLUSTER", "INFO"))  # noqa: B023
    yield servers
    for server in servers:
        server.stop()


def move_slot(slot: str, source: RedisServer, target: RedisServer, *others: RedisServer) -> None:
    """Move a slot of a cluster with its keys, as Redis's manual describes.

    The target must import the slot first: only then is its claim newer than the source's. Otherwise
    the source's next ping takes the slot back from it.
    """
    names = [server.ask("CLUSTER", "MYID").strip() for server in (source, target)]
    assert "OK" in target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
    assert "OK" in source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
    if keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, "100").split():
        where = ("127.0.0.1", str(target.port), "", "0", "60000")
        assert "OK" in source.ask("MIGRATE", *where, "KEYS", *keys)
    for server in (target, source, *others):
        assert "OK" in server.ask("CLUSTER", "SETSLOT", slot, "NODE", names[1])


@contextmanager
def redis_sentinel(directory: Path) -> Iterator[tuple[RedisServer, RedisServer, RedisServer]]:
    """Run a master, its replica and their Sentinel during the block; yield the three."""
    master = RedisServer(directory)
    replica = RedisServer(directory, "--replicaof", "127.0.0.1", str(master.port))
    wait_until_said(lambda: "master_link_status:up" in replica.ask("INFO", "replication"))
    settings = directory / "sentinel.conf"
    settings.write_text(
        f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds mymaster 120000\n"
        "sentinel failover-timeout mymaster 2000\n"
    )
    sentinel = RedisServer(directory, config=settings)
    wait_until_said(lambda: str(replica.port) in sentinel.ask("SENTINEL", "REPLICAS", "mymaster"))
    yield master, replica, sentinel
    for server in (sentinel, replica, master):
        server.stop()


def fail_over(master: RedisServer, sentinel: RedisServer) -> None:
    """Kill a master; its Sentinel, which is patient before, has half a second to notice it."""
    master.kill()
    assert "OK" in sentinel.ask("SENTINEL", "SET", "mymaster", "down-after-milliseconds", "500")


def find_postgres() -> Path | None:
    """Return the directory of PostgreSQL's programs; Debian does not put it on the path."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    places += [Path(place) for place in os.environ["PATH"].split(os.pathsep)]
    programs = ("initdb", "postgres", "pg_isready", "psql")
    for place in places:
        if all((place / program).exists() for program in programs):
            return place
    return None


def postgres_environment(port: int) -> dict[str, str]:
    """Return the environment of processes whose database is the PostgreSQL at a port."""
    return {
        "DJANGO_SETTINGS_MODULE": "tests.backends.postgres_settings",
        "TEST_POSTGRES_PORT": str(port),
    }


class PostgresServer:
    """A PostgreSQL with an empty database ``postgres``, user ``postgres``, no password.

    Args:
        max_connections: the server's ``max_connections``.
        network: addresses of other machines that may connect, such as ``10.0.0.0/24``.
    """

    def __init__(self, max_connections: int = 60, network: str | None = None) -> None:
        self._max_connections = max_connections
        self._addresses = "127.0.0.1" if network is None else "*"
        programs = find_postgres()
        assert programs is not None
        self._programs = programs
        # Not pytest's directory: PostgreSQL refuses to run as root, and other users cannot enter
        # it.
        self._directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self._directory, "postgres", "postgres")
            self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self._run("initdb", "-D", str(self._directory / "data"), "-A", "trust", "-U", "postgres")
        if network is not None:
            with (self._directory / "data/pg_hba.conf").open("a") as file:
                file.write(f"host all all {network} trust\n")
        self.port = unused_port()
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*self._as_user, str(self._programs / program), *arguments],
            cwd=self._directory,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        """Start the server, at the same port as before."""
        settings = {
            "listen_addresses": self._addresses,
            "port": str(self.port),
            "unix_socket_directories": str(self._directory),
            "fsync": "off",
            "max_connections": str(self._max_connections),
            "shared_buffers": "16MB",
        }
        command = [*self._as_user, str(self._programs / "postgres"), "-D", "data"]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self._directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self._directory, stdout=log, stderr=log)
        ready = [str(self._programs / "pg_isready"), "-q", "-U", "postgres", "-h", "127.0.0.1"]
        ready += ["-p", str(self.port)]
        wait_until_said(lambda: subprocess.run(ready).returncode == 0)

    def ask(self, sql: str) -> str:
        """Run a statement; return the values, one row per line."""
        command = [str(self._programs / "psql"), "-h", "127.0.0.1", "-p", str(self.port)]
        command += ["-U", "postgres", "-At", "-c", sql]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def kill(self) -> None:
        """Kill server and children as a crash does: SIGQUIT, without notice or checkpoint."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(TIMEOUT)

    def freeze(self) -> None:
        """Stop the processes; their connections stay open."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the processes continue."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in (self.process.pid, *map(int, children.split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """Stop the server and remove its directory."""
        if self.process.poll() is None:
            self.thaw()
            self.process.send_signal(signal.SIGINT)
            self.process.wait(TIMEOUT)
        shutil.rmtree(self._directory)


class Proxy:
    """A TCP proxy that can fail.

    Args:
        port: the port that it forwards to.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._forwards = threading.Event()
        self._forwards.set()
        self._accepts = True
        self._is_closed = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def connections(self) -> int:
        """How many connections go through the proxy."""
        with self._lock:
            return len(self._pairs)

    def black_hole(self) -> None:
        """Stop forwarding without closing anything: half-open connections, a partition."""
        self._forwards.clear()

    def heal(self) -> None:
        """Forward again, including what was held back."""
        self._forwards.set()

    def cut(self) -> None:
        """Break the connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for sock in pair:
                # When the first is shut down, the forwarding thread may already have closed the
                # second.
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_closed:
                client.close()
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=TIMEOUT)
            except ConnectionRefusedError:
                client.close()
                continue
            pair = (client, server)
            with self._lock:
                self._pairs.append(pair)
            threading.Thread(target=self._forward, args=(pair,), daemon=True).start()

    def _forward(self, pair: tuple[socket.socket, socket.socket]) -> None:
        other = {pair[0]: pair[1], pair[1]: pair[0]}
        try:
            while True:
                for sock in select.select(pair, [], [])[0]:
                    data = sock.recv(65536)
                    self._forwards.wait()
                    if not data:
                        return
                    other[sock].sendall(data)
        except OSError:
            return
        finally:
            with self._lock:
                if pair in self._pairs:
                    self._pairs.remove(pair)
            for sock in pair:
                sock.close()

    def close(self) -> None:
        """Close the proxy."""
        self._is_closed = True
        self.heal()
        socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT).close()
        self._thread.join(TIMEOUT)
        self._listener.close()
        self.cut()


@contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """Run a proxy in front of a port during the block."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
