"""The peers: what each one installs, how it is started, and the paths of its views.

Each peer has its own environment, created here from PyPI or npm; ours runs in the Python of the
benchmark. To add a peer, add an entry to ``PEERS`` and a file to ``servers/``.
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

#: The same Django for all peers, and the driver of the database that the slow view waits for.
DJANGO = (f"Django=={metadata.version('Django')}", "psycopg[binary]")

#: Measures that a server can take part in.
SOCKETS = frozenset({"echo", "idle", "handshakes", "latency"})
ROOM = frozenset({"fanout"})
DJANGO_SOCKETS = SOCKETS | ROOM | {"redis", "blocking"}
PAGES = frozenset({"pages"})

#: Makes a command line from the environment's program, the number of processes, a scratch
#: directory, and the port.
Command = Callable[[str, int, Path, int], list[str]]


@dataclass(frozen=True)
class Peer:
    """A server to compare with ours.

    Attributes:
        key: name on the command line and of its environment.
        title: name in the report.
        command: makes the command line that starts it.
        offers: measures that it can take part in.
        packages: packages to install in its environment; none for this Python.
        distributions: packages whose versions are listed in the report.
        ways: paths of its views, each with a name.
        room_ways: further paths, for rooms only.
        kind: kind of environment: ``python``, ``node`` or ``none``.
        most_sockets: maximum number of sockets that it can hold.
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
        """Return its server, using an installed environment."""
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
        """Return the program that runs it."""
        if self.kind == "node":
            assert environments is not None
            return str(environments / self.key)
        if not self.packages:
            return sys.executable
        assert environments is not None
        return str(environments / self.key / "bin" / "python")

    @property
    def warmup(self) -> int:
        """How many times longer than Python it takes to be as fast as it gets: V8 compiles late."""
        return 50 if self.kind == "node" else 1

    def is_installed(self, environments: Path) -> bool:
        """Return whether its environment exists and has the right packages."""
        if self.kind == "none":
            return shutil.which("gcc") is not None
        if not self.packages:
            return True
        marker = environments / self.key / "packages"
        return marker.exists() and marker.read_text() == "\n".join(self.packages)

    def install(self, environments: Path) -> None:
        """Create its environment, replacing an older one.

        Raises:
            BenchError: the environment cannot be created.
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
        """Return the versions of its packages, as installed in its environment."""
        if self.kind == "none":
            return {}
        if self.kind == "node":
            node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
            modules = environments / self.key / "node_modules"
            return {"Node": node.stdout.strip().removeprefix("v")} | {
                name: json.loads((modules / name / "package.json").read_text())["version"]
                for name in self.distributions
            }
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
    """A row in the tables: a server and one of its paths.

    Attributes:
        peer: the server.
        path: path of its views.
        title: name in the report.
    """

    peer: Peer
    path: str
    title: str

    @property
    def key(self) -> str:
        """Name in the JSON report and in the targets."""
        return f"{self.peer.key}{self.path}".strip("/")


def entries(peer: Peer, measure: str) -> list[Entry]:
    """Return the rows of a server in a measure. The page has the same path on all servers."""
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
    """Return a command that starts an application under gunicorn."""

    def command(program: str, processes: int, scratch: Path, port: int) -> list[str]:
        workers = ("-w", str(processes), *options)
        return gunicorn(worker, application, *workers, python=program)(scratch, port)

    return command


def daphne(program: str, processes: int, scratch: Path, port: int) -> list[str]:
    """Return the command line of Daphne."""
    if processes > 1:
        return [program, "daphne_fleet.py", str(port), str(processes)]
    return [program, "-m", "daphne", "-v", "0", "-p", str(port), "channels_site:application"]


def uvicorn(program: str, processes: int, scratch: Path, port: int) -> list[str]:
    """Return the command line of Uvicorn, which uses uvloop and httptools by default."""
    options = ["--log-level", "warning", "--no-access-log", "--workers", str(processes)]
    return [program, "-m", "uvicorn", "--port", str(port), *options, "channels_site:application"]


def script(name: str) -> Command:
    """Return a command that starts a script of ``servers/``."""
    return lambda program, processes, scratch, port: [program, name, str(port)]


def under_node(name: str) -> Command:
    """Return a command that starts a script of ``servers/`` in the directory of its modules."""

    def command(program: str, processes: int, scratch: Path, port: int) -> list[str]:
        return ["env", "-C", program, "node", str(SERVERS / name), str(port)]

    return command


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
        # Each socket needs one thread, and one more of flask-sock.
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
        under_node("ws_echo.js"),
        SOCKETS | ROOM,
        ("ws",),
        ("ws",),
        kind="node",
    ),
    Peer(
        "uws",
        "uWebSockets on Node, bare",
        under_node("uws_echo.js"),
        SOCKETS | ROOM,
        ("@trufflesuite/uws-js-unofficial",),
        ("@trufflesuite/uws-js-unofficial",),
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
