"""Who is compared: what each needs installed, how it is started, and the ways into it.

Each peer has an environment of its own, made here from PyPI or npm by the names of its packages;
ours runs in the Python that runs the benchmark. A new peer is an entry of ``PEERS`` and a file in
``servers/``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from harness import ROOT, SERVERS, BenchError, Contestant, compiled, gunicorn

__all__ = ["OURS", "PEERS", "Entry", "Peer", "entries"]

WORKER = "django_wsmux.worker.WebSocketWorker"
GEVENT_WEBSOCKET_WORKER = "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"

#: The same Django for everybody, and the driver of its database that takes its time.
DJANGO = (f"Django=={metadata.version('Django')}", "psycopg[binary]")

#: What a server can be measured at.
SOCKETS = frozenset({"echo", "idle", "handshakes", "latency"})
ROOM = frozenset({"fanout"})
DJANGO_SOCKETS = SOCKETS | ROOM | {"redis", "blocking"}
PAGES = frozenset({"pages"})

#: Makes a command line from the environment's program, the number of processes, a directory for
#: what it needs, and the port.
Command = Callable[[str, int, Path, int], list[str]]


@dataclass(frozen=True)
class Peer:
    """A server to compare.

    Attributes:
        key: its name on the command line and the name of its environment.
        title: its name in the report.
        command: how it is started.
        offers: what it can be measured at.
        packages: what its environment is made of; none for this Python.
        distributions: what is named beside the figures.
        ways: paths to its views, each with what it is called.
        room_ways: more of them, to rooms only.
        kind: of environment: ``python``, ``node`` or ``none``.
        most_sockets: that it can be asked to hold.
    """

    key: str
    title: str
    command: Command
    offers: frozenset[str]
    packages: tuple[str, ...] = ()
    distributions: tuple[str, ...] = ()
    ways: Mapping[str, str] = field(default_factory=lambda: {"/": ""})
    room_ways: Mapping[str, str] = field(default_factory=dict)
    kind: str = "python"
    most_sockets: int = 1_000_000

    def contestant(
        self,
        environments: Path | None = None,
        processes: int = 1,
        variables: Mapping[str, str] | None = None,
    ) -> Contestant:
        """Return its server, from an environment that is there."""
        program = self.program(environments)
        more = dict(variables or {})
        if not self.packages:
            more["PYTHONPATH"] = str(ROOT)
        return Contestant(
            f"{self.key}-{processes}",
            lambda scratch, port: self.command(program, processes, scratch, port),
            more,
        )

    def program(self, environments: Path | None) -> str:
        """Return what runs it."""
        if self.kind == "node":
            assert environments is not None
            return str(environments / self.key)
        if not self.packages:
            return sys.executable
        assert environments is not None
        return str(environments / self.key / "bin" / "python")

    def is_installed(self, environments: Path) -> bool:
        """Say whether its environment is there, as it should be now."""
        if self.kind == "none":
            return shutil.which("gcc") is not None
        if not self.packages:
            return True
        marker = environments / self.key / "packages"
        return marker.exists() and marker.read_text() == "\n".join(self.packages)

    def install(self, environments: Path) -> None:
        """Make its environment anew.

        Raises:
            BenchError: that cannot be done here.
        """
        if not self.packages:
            raise BenchError("gcc is missing")
        place = environments / self.key
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        if self.kind == "node":
            if shutil.which("node") is None or shutil.which("npm") is None:
                raise BenchError("node or npm is missing")
            commands = [["npm", "install", "--no-audit", "--no-fund", *self.packages]]
        else:
            commands = [
                [sys.executable, "-m", "venv", str(place)],
                [self.program(environments), "-m", "pip", "install", "--quiet", *self.packages],
            ]
        for command in commands:
            made = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
            if made.returncode:
                raise BenchError(f"{command[0]} failed:\n{made.stderr[-2000:]}")
        (place / "packages").write_text("\n".join(self.packages))

    def versions(self, environments: Path) -> dict[str, str]:
        """Return the versions of what it is made of, as its environment has them."""
        if self.kind == "none":
            return {}
        if self.kind == "node":
            node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
            package = environments / self.key / "node_modules" / "ws" / "package.json"
            version = json.loads(package.read_text())["version"]
            return {"Node": node.stdout.strip().removeprefix("v"), "ws": version}
        ask = (
            "import json, platform, sys; from importlib.metadata import version; "
            "print(json.dumps({'Python': platform.python_version()} | "
            "{name: version(name) for name in sys.argv[1:]}))"
        )
        command = [self.program(environments), "-c", ask, *self.distributions]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        found: dict[str, str] = json.loads(answer.stdout)
        return found


@dataclass(frozen=True)
class Entry:
    """A server by one of the ways into it: what has a row in the tables.

    Attributes:
        peer: the server.
        path: where its views are.
        title: its name in the report.
    """

    peer: Peer
    path: str
    title: str

    @property
    def key(self) -> str:
        """Its name for machines."""
        return f"{self.peer.key}{self.path}".strip("/")


def entries(peer: Peer, measure: str) -> list[Entry]:
    """Return what of a server takes part in a measure; the page is at one place for all."""
    if measure not in peer.offers:
        return []
    if measure == "pages":
        return [Entry(peer, "/", peer.title)]
    ways = dict(peer.ways)
    if measure in ("fanout", "redis"):
        ways.update(peer.room_ways)
    return [
        Entry(peer, path, f"{peer.title}, {way}" if way else peer.title)
        for path, way in ways.items()
    ]


def under_gunicorn(worker: str, application: str, *options: str) -> Command:
    """Return how an application is started under gunicorn."""

    def command(program: str, processes: int, scratch: Path, port: int) -> list[str]:
        workers = ("-w", str(processes), *options)
        return gunicorn(worker, application, *workers, python=program)(scratch, port)

    return command


def daphne(program: str, processes: int, scratch: Path, port: int) -> list[str]:
    """Start Daphne."""
    if processes > 1:
        return [program, "daphne_fleet.py", str(port), str(processes)]
    return [program, "-m", "daphne", "-v", "0", "-p", str(port), "channels_site:application"]


def uvicorn(program: str, processes: int, scratch: Path, port: int) -> list[str]:
    """Start Uvicorn, which takes uvloop and httptools by itself."""
    options = ["--log-level", "warning", "--no-access-log", "--workers", str(processes)]
    return [program, "-m", "uvicorn", "--port", str(port), *options, "channels_site:application"]


def script(name: str) -> Command:
    """Return how a script of ``servers/`` is started."""
    return lambda program, processes, scratch, port: [program, name, str(port)]


CHANNELS = {"/sync/": "sync", "/async/": "async"}

OURS = Peer(
    "wsmux",
    "django_wsmux",
    under_gunicorn(WORKER, "wsmux_site"),
    DJANGO_SOCKETS | PAGES,
    distributions=("Django", "gunicorn", "gunicorn_h1c", "gevent", "websockets"),
    ways={
        "/function/": "function view",
        "/event/": "event view",
        "/lean/": "lean event view",
    },
    room_ways={"/watched/": "group_receive()"},
)

PEERS = (
    OURS,
    Peer(
        "wsmux-plain",
        "its worker without dispatcher",
        under_gunicorn(WORKER, "plain_site"),
        PAGES,
        ways={},
    ),
    Peer(
        "gevent",
        "gunicorn gevent, dispatcher",
        under_gunicorn("gevent", "wsmux_site"),
        PAGES,
        ways=OURS.ways,
    ),
    Peer(
        "gevent-plain",
        "gunicorn gevent, without",
        under_gunicorn("gevent", "plain_site"),
        PAGES,
        ways={},
    ),
    Peer(
        "daphne",
        "Channels on Daphne",
        daphne,
        DJANGO_SOCKETS | PAGES,
        (*DJANGO, "channels[daphne]", "channels-redis"),
        ("channels", "channels-redis", "daphne", "Twisted"),
        CHANNELS,
    ),
    Peer(
        "uvicorn",
        "Channels on Uvicorn",
        uvicorn,
        DJANGO_SOCKETS | PAGES,
        (*DJANGO, "channels", "uvicorn[standard]", "channels-redis"),
        ("channels", "channels-redis", "uvicorn", "uvloop", "websockets"),
        CHANNELS,
    ),
    Peer(
        "gunicorn-asgi",
        "Channels on gunicorn asgi",
        under_gunicorn("asgi", "channels_site"),
        DJANGO_SOCKETS | PAGES,
        (*DJANGO, "channels", "gunicorn>=24", "gunicorn_h1c", "uvloop", "channels-redis"),
        ("channels", "channels-redis", "gunicorn", "gunicorn_h1c", "uvloop"),
        CHANNELS,
    ),
    Peer(
        "django-gevent-websocket",
        "django-gevent-websocket",
        under_gunicorn(
            GEVENT_WEBSOCKET_WORKER, "django_gevent_websocket_site:websocket_application"
        ),
        DJANGO_SOCKETS,
        (*DJANGO, "django-gevent-websocket", "gunicorn[gevent]", "redis"),
        ("django-gevent-websocket", "gevent-websocket", "gevent", "gunicorn"),
    ),
    Peer(
        "gevent-websocket",
        "gevent-websocket, bare",
        under_gunicorn(GEVENT_WEBSOCKET_WORKER, "gevent_websocket_echo"),
        SOCKETS | ROOM,
        ("gevent-websocket", "gunicorn[gevent]"),
        ("gevent-websocket", "gevent", "gunicorn"),
    ),
    Peer(
        "flask-sock-threads",
        "flask-sock, threads",
        # A thread for each socket, and another of flask-sock's own.
        under_gunicorn("gthread", "flask_sock_echo", "--threads", "2100"),
        SOCKETS | ROOM,
        ("flask-sock", "gunicorn"),
        ("flask-sock", "simple-websocket", "Flask", "gunicorn"),
        most_sockets=2000,
    ),
    Peer(
        "flask-sock-gevent",
        "flask-sock, gevent",
        under_gunicorn("gevent", "flask_sock_echo"),
        SOCKETS | ROOM,
        ("flask-sock", "gunicorn[gevent]"),
        ("flask-sock", "simple-websocket", "Flask", "gunicorn", "gevent"),
    ),
    Peer(
        "websockets",
        "websockets, bare",
        script("websockets_echo.py"),
        SOCKETS | ROOM,
        ("websockets", "uvloop"),
        ("websockets", "uvloop"),
    ),
    Peer(
        "picows",
        "picows, bare",
        script("picows_echo.py"),
        SOCKETS | ROOM,
        ("picows", "uvloop"),
        ("picows", "uvloop"),
    ),
    Peer(
        "ws",
        "ws on Node, bare",
        # From its own directory, where the module is.
        lambda program, processes, scratch, port: [
            "env",
            "-C",
            program,
            "node",
            str(SERVERS / "ws_echo.js"),
            str(port),
        ],
        SOCKETS | ROOM,
        ("ws",),
        kind="node",
    ),
    Peer(
        "c",
        "C, epoll: the limit",
        lambda program, processes, scratch, port: compiled(SERVERS / "epoll_echo.c")(scratch, port),
        SOCKETS,
        kind="none",
    ),
)
