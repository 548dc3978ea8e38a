"""Fixtures: servers of every kind, and skips for programs that are not installed."""

from __future__ import annotations

import faulthandler
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hypothesis
import pytest

from .combinations import mark_others
from .services import PostgresServer, find_postgres, postgres_environment
from .support import PATH, ROOT, SERVERS, TIMES, Server

if TYPE_CHECKING:
    from django_wsmux.test import WebSocketClient

# Modules with assert statements where pytest would not rewrite them by itself.
pytest.register_assert_rewrite(
    "django_wsmux.backends.contract",
    "tests.backends.faults",
    "tests.history.contract",
    "tests.presence.contract",
)

StartServer = Callable[..., Server]

#: Seconds after which a process that finishes no test counts as hung. A test's own timeout is
#: shorter, but does not end a process between tests, or one whose signal handlers do not run.
HUNG = 900

#: Rooms whose tests start no program, or only servers that the fixtures below start.
QUICK = {
    ROOT / "tests" / name
    for name in ("auth", "connection", "handlers", "protocol", "server", "testing", "transports")
}

# No test fails because the machine is slow.
hypothesis.settings.register_profile(
    "patient",
    deadline=None,
    max_examples=50 * TIMES,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")

# Servers are stopped with SIGINT. A shell that runs the tests in the background makes them ignore
# it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option, and the ini setting that lists its paths."""
    parser.addoption(
        "--of-libraries",
        action="store_true",
        help="leave out tests that no library affects: the paths of of_no_library in setup.cfg;"
        " mark as nightly all parametrizations whose values others have",
    )
    parser.addini("of_no_library", "tests that no library affects", type="paths")
    parser.addini("with_alone", "files with tests marked alone", type="paths")
    parser.addini("measured", "tests that are measured with --coverage", type="paths")


def pytest_configure(config: pytest.Config) -> None:
    """Keep all files of tests and servers in a directory that is removed at the end."""
    if not config.getoption("usepdb"):
        config.pluginmanager.register(Watchdog())
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # the directory of the process that started this one
    # tmp_path stays in its usual place.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    # Its path is short, as the paths of Unix sockets are limited.
    directory = tempfile.TemporaryDirectory(prefix="t", ignore_cleanup_errors=True)
    config.add_cleanup(directory.cleanup)
    Path(directory.name).chmod(0o755)  # some servers run as another user
    os.environ["TMPDIR"] = tempfile.tempdir = directory.name


class Watchdog:
    """Ends this process with a traceback if it hangs, also at its exit."""

    def __init__(self) -> None:
        self._errors = os.dup(2)  # a test captures the original one
        self._wait()

    def _wait(self) -> None:
        faulthandler.dump_traceback_later(HUNG, exit=True, file=self._errors)

    def pytest_runtest_logreport(self) -> None:
        """Wait again."""
        self._wait()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Wait for the exit, except in a process of pytest-xdist, which may wait for others."""
        if "PYTEST_XDIST_WORKER" in os.environ:
            faulthandler.cancel_dump_traceback_later()
        else:
            self._wait()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``--of-libraries``, leave out tests whose result no library can change.

    With ``-m alone``, do not even import files without such tests, which takes most of its time.
    """
    if config.getoption("of_libraries") and collection_path in config.getini("of_no_library"):
        return True
    if collection_path.suffix == ".py" and config.getoption("markexpr").startswith("alone"):
        return collection_path not in config.getini("with_alone") or None
    return None


@pytest.hookimpl(tryfirst=True, specname="pytest_collection_modifyitems")
def pytest_mark_nightly(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what ``@pytest.mark.combinations`` leaves to nightly runs, before ``-m`` is applied.

    With ``--of-libraries``, each value of a parameter is enough: another run has the products.
    """
    mark_others(items, default=1 if config.getoption("of_libraries") else 0)


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Refuse a test marked ``alone`` in a file where ``-m alone`` would not find it."""
    if item.get_closest_marker("alone") and item.path not in item.config.getini("with_alone"):
        raise pytest.UsageError(f"add {item.path} to with_alone in setup.cfg")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put quick files last, so that the processes of pytest-xdist end at about the same time."""
    # Every fixture with a server uses this one.
    starting = {item.path for item in items if "environment" in getattr(item, "fixturenames", ())}

    def is_quick(item: pytest.Item) -> bool:
        return item.path not in starting and not QUICK.isdisjoint(item.path.parents)

    items.sort(key=is_quick)


#: With this variable, a program that starts measures its coverage.
_MEASURE = "COVERAGE_PROCESS_CONFIG"


@pytest.fixture(scope="session")
def measure() -> dict[str, str]:
    """Environment variables of programs whose coverage is measured; of no others from here on."""
    value = os.environ.pop(_MEASURE, None)
    return {} if value is None else {_MEASURE: value}


#: Coverage's tracer, if it measures.
_tracer = sys.gettrace()


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Do not measure while the files of tests are imported: that would double the time."""
    # Django is set up now. This imports the modules that no server imports, and measures that.
    import django_wsmux.test  # noqa: F401

    sys.settrace(None)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Have the garbage collector skip all tests and modules from here on."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _measure(request: pytest.FixtureRequest, measure: dict[str, str]) -> Iterator[None]:
    """Measure the modules that ``measured`` in ``setup.cfg`` lists, and their programs."""
    measured = request.config.getini("measured")
    if {request.path, *request.path.parents}.isdisjoint(measured):
        yield
        return
    os.environ.update(measure)
    sys.settrace(_tracer)
    yield
    sys.settrace(None)
    os.environ.pop(_MEASURE, None)


@pytest.fixture
def sockets() -> Iterator[None]:
    """Use the sockets of ``tests/site/``; assert that none stays open."""
    # Django is not set up yet when this module is imported.
    from django_wsmux.connection import registry
    from django_wsmux.testing.client import close_all

    from .site import SITE
    from .site import sockets as site

    site.ends.clear()
    with SITE:
        yield
        close_all()
    assert not registry.open_sockets
    assert not registry.running_views


@pytest.fixture(params=["/function/", "/event/"])
def path(request: pytest.FixtureRequest) -> str:
    """Both kinds of view of ``tests/site/``."""
    return str(request.param)


@pytest.fixture
def client() -> WebSocketClient:
    """A client that is not signed in; replaces pytest-django's."""
    from django_wsmux.test import WebSocketClient

    return WebSocketClient()


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database for the servers under test."""
    path = tmp_path_factory.mktemp("database") / "db.sqlite3"
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "-v0", "--settings=tests.project.settings"],
        env={**os.environ, "TEST_DATABASE": str(path)},
        cwd=ROOT,
        check=True,
    )
    return path


@pytest.fixture(scope="session")
def environment(database: Path) -> dict[str, str]:
    """Environment variables of every server under test."""
    return {"TEST_DATABASE": str(database), "DJANGO_SETTINGS_MODULE": "tests.project.settings"}


def _start(environment: dict[str, str], name: str) -> Server:
    if name == "direct":
        return Server("-m", "tests.project.direct", env=environment)
    if name == "runserver":
        return Server.runserver(env=environment)
    return Server.gunicorn(name, env=environment)


@pytest.fixture(scope="module", params=[*SERVERS, "direct"])
def server(request: pytest.FixtureRequest, environment: dict[str, str]) -> Iterator[Server]:
    """Every server that can serve WebSockets, including gevent-websocket's own."""
    server = _start(environment, request.param)
    yield server
    server.stop()


@pytest.fixture(scope="module", params=SERVERS)
def gunicorn(request: pytest.FixtureRequest, environment: dict[str, str]) -> Iterator[Server]:
    """The gunicorn workers: Django answers before the 101."""
    server = _start(environment, request.param)
    yield server
    server.stop()


@pytest.fixture(scope="module", params=SERVERS)
def front(request: pytest.FixtureRequest, environment: dict[str, str]) -> Iterator[Server]:
    """Every server under which Django answers before the 101, with HTTP if it refuses."""
    server = _start(environment, request.param)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def direct(environment: dict[str, str]) -> Iterator[Server]:
    """gevent-websocket's own server, which sends the 101 first."""
    server = _start(environment, "direct")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, with its key in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -out -"
    certificate = subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    path.write_text(path.read_text() + certificate)
    return path


def _starting(environment: dict[str, str]) -> Iterator[StartServer]:
    servers: list[Server] = []

    def start(worker: str, *options: str, env: dict[str, str] | None = None, **more: str) -> Server:
        env = {**environment, **(env or {})}
        if worker == "runserver":
            server = Server.runserver(*options, env=env, **more)
        elif worker == "direct":
            server = _start(env, worker)
        else:
            server = Server.gunicorn(worker, *options, env=env, **more)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def start_server(environment: dict[str, str]) -> Iterator[StartServer]:
    """Start servers with the test's own options; stop them after the test."""
    yield from _starting(environment)


@pytest.fixture(scope="module")
def start_lasting_server(environment: dict[str, str]) -> Iterator[StartServer]:
    """Start servers that several tests share; stop them after the module."""
    yield from _starting(environment)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that a module has to itself, with room for a hundred connections."""
    server = start_postgres()
    yield server
    server.stop()


def start_postgres() -> PostgresServer:
    """Start PostgreSQL; if it is not installed, skip or fail as ``missing()`` does."""
    if find_postgres() is None:
        missing("PostgreSQL")
    return PostgresServer()


def start_migrated_postgres() -> PostgresServer:
    """Start PostgreSQL, and create the tables of the package."""
    server = start_postgres()
    try:
        subprocess.run(
            [sys.executable, "-m", "django", "migrate", "-v0"],
            env={**os.environ, **postgres_environment(server.port)},
            cwd=ROOT,
            check=True,
        )
    except BaseException:
        server.stop()
        raise
    return server


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    """A server that no test harms."""
    server = start_migrated_postgres()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def fragile_server() -> Iterator[PostgresServer]:
    """A server that tests may harm, but leave running."""
    server = start_migrated_postgres()
    yield server
    server.stop()


def need(*programs: str) -> None:
    """Skip the test if a program is missing; fail if nothing may be skipped."""
    for program in programs:
        if shutil.which(program, path=PATH) is None:
            missing(program)


def missing(program: str) -> NoReturn:
    """Skip the test because a program is missing; fail if nothing may be skipped."""
    message = f"{program} is not installed: scripts/test installs it where it can"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
