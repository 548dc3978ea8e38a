"""The namespace: which processes share groups, and what warns of a wrong one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.test import override_settings

from django_wsmux.groups.namespace import doubts, namespace
from tests.conftest import StartServer
from tests.support import ROOT, TIMEOUT


def found() -> list[tuple[str | None, str]]:
    """Run all checks; return ids and messages."""
    return [(message.id, str(message.msg)) for message in run_checks()]


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a short name: the path of a unix socket is limited."""
    return tmp_path_factory.mktemp("n")


def test_named() -> None:
    """The setting is the namespace, in any folder."""
    with override_settings(WEBSOCKET_NAMESPACE="mysite", WEBSOCKET_BACKEND="local://"):
        assert namespace() == "mysite"


def test_folder() -> None:
    """Without the setting, the folder makes the namespace on one machine, but not with a broker."""

    def of(folder: str, backend: str) -> str:
        with override_settings(BASE_DIR=Path(folder), WEBSOCKET_BACKEND=backend):
            return namespace()

    assert of("/srv/one", "local://") != of("/srv/two", "local://")
    assert of("/srv/one", "redis://x") == of("/srv/two", "redis://x")


def test_no_pages() -> None:
    """A project without pages has a namespace too."""
    with override_settings(WEBSOCKET_BACKEND="redis://x"):
        usual = namespace()
        del settings.ROOT_URLCONF
        assert namespace() not in ("", usual)


RELEASES = [
    "/srv/mysite/releases/20261125T1200",
    "/srv/mysite/20261125120000/src",
    "/srv/mysite/2026-11-25_12-00",
    "/srv/mysite/3f2c9a1",
    "/srv/mysite/v1.4.2",
    "/srv/mysite/release-17",
    "/srv/mysite/releases/blue",
]
OTHERS = ["/srv/mysite", "/home/user2024/mysite", "/app", "/srv/decade/facade", "/srv/my-site_2"]


@pytest.mark.parametrize("folder", [*RELEASES, *OTHERS])
def test_release_folder(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that looks like a release gets a warning, unless the project has a name."""
    monkeypatch.delenv("PWD", raising=False)
    with override_settings(BASE_DIR=Path(folder), WEBSOCKET_BACKEND="local://"):
        assert [folder in doubt for doubt, _ in doubts()] == [True] * (folder in RELEASES)
        with override_settings(WEBSOCKET_NAMESPACE="mysite"):
            assert list(doubts()) == []
    for backend in ("local://?namespace=mysite", "redis://x", "memory://"):
        with override_settings(BASE_DIR=Path(folder), WEBSOCKET_BACKEND=backend):
            assert list(doubts()) == []


def test_link(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder behind a symbolic link gets the warning too; its hint names the setting."""
    (directory / "blue").mkdir()
    (directory / "current").symlink_to("blue")
    monkeypatch.setenv("PWD", str(directory / "current"))
    backend = f"local://{directory}"
    with override_settings(BASE_DIR=directory / "blue", WEBSOCKET_BACKEND=backend):
        ((number, text),) = found()
        assert number == "django_wsmux.W016"
        assert f"{directory}/current is a symbolic link" in text
        assert [check.hint for check in run_checks()] == ['Set WEBSOCKET_NAMESPACE = "mysite".']
        monkeypatch.setenv("PWD", str(directory / "blue"))
        assert found() == []
    with override_settings(BASE_DIR=directory / "current", WEBSOCKET_BACKEND=backend):
        assert found() == [], "this path is the same for all releases"


@pytest.mark.parametrize("value", [None, 5, "x" * 101, "two\nlines"])
def test_invalid_name(value: object) -> None:
    """A value that is no valid name is refused."""
    with override_settings(WEBSOCKET_NAMESPACE=value):
        ((number, text),) = found()
    assert number == "django_wsmux.E002"
    assert text.startswith("WEBSOCKET_NAMESPACE must be a name")


@pytest.mark.parametrize("wrong", ["missing", "file", "open", "long"])
def test_unusable_directory(directory: Path, wrong: str) -> None:
    """A check finds a directory that cannot be used, before the first socket."""
    with override_settings(
        WEBSOCKET_BACKEND=f"local://{unusable(directory, wrong)}", WEBSOCKET_NAMESPACE="mysite"
    ):
        ((number, text),) = found()
    assert number == f"django_wsmux.{'W018' if wrong == 'missing' else 'E017'}"
    assert str(directory) in text


@pytest.mark.parametrize("wrong", ["missing", "long"])
def test_early_commands(directory: Path, environment: dict[str, str], wrong: str) -> None:
    """A command runs before the directory exists, but not with a path that can never work."""
    settings = {"WEBSOCKET_NAMESPACE": "mysite"}
    result = subprocess.run(
        [sys.executable, "-m", "django", "migrate", "--plan"],
        env={
            **os.environ,
            **environment,
            "TEST_BACKEND": f"local://{unusable(directory, wrong)}",
            "TEST_SETTINGS": json.dumps(settings),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (result.returncode == 0) == (wrong == "missing")
    assert ("W018" if wrong == "missing" else "E017") in result.stderr


def unusable(directory: Path, wrong: str) -> str:
    """Return a path that local:// cannot use for the namespace "mysite"."""
    if wrong == "file":
        (directory / "file").touch()
    elif wrong == "long":
        (directory / ("d" * 80)).mkdir()
        return f"{directory}/{'d' * 80}"
    elif wrong == "open":
        from django_wsmux.backends.local import LocalBackend

        os.mkdir(LocalBackend(f"local://{directory}", namespace="mysite").directory, 0o755)
        return str(directory)
    return f"{directory}/{wrong}"


def test_alias_that_is_not_postgresql() -> None:
    """A check finds a database alias that is not PostgreSQL."""
    for alias, problem in (("default", "sqlite"), ("nowhere", "doesn't exist")):
        with override_settings(WEBSOCKET_BACKEND=f"postgres://?using={alias}"):
            ((number, text),) = found()
        assert number == "django_wsmux.E017"
        assert problem in text


def test_start_with_unusable_directory(directory: Path, start_server: StartServer) -> None:
    """A server does not start with a directory that cannot be used, and says why."""
    server = start_server("own", env={"TEST_BACKEND": f"local://{directory}/missing"})
    server.wait_for_log(r"WEBSOCKET_BACKEND cannot be used: .*missing.*must exist")
    assert server.wait() != 0


# Our worker already listens when it starts, before the directory can change.
@pytest.mark.parametrize("worker", ["stock", "gevent", "runserver"])
def test_directory_that_changes(directory: Path, start_server: StartServer, worker: str) -> None:
    """A directory that becomes unusable is an outage: sockets open, and recover afterwards."""
    env = {
        "TEST_BACKEND": f"local://{directory}",
        "TEST_SETTINGS": json.dumps({"WEBSOCKET_NAMESPACE": "mysite"}),
    }
    server = start_server(worker, env=env)
    headers = {"Cookie": server.sign_in("ann")}
    (private,) = directory.iterdir()
    private.chmod(0o755)
    with server.connect("/echo/", additional_headers=headers) as websocket:
        server.wait_for_log("not listening: .*only this user can enter")
        private.chmod(0o700)
        server.wait_for_log("listening again after")
        websocket.send("still open")
        assert websocket.recv(timeout=TIMEOUT) == "still open"
    assert server.log.count("not listening") == 1


class Releases:
    """A server of one release, and commands of another."""

    def __init__(self, directory: Path, environment: dict[str, str], name: str) -> None:
        self.directory = directory
        self.environment = environment
        self.name = name

    def env(self, release: str) -> dict[str, str]:
        """Return the environment of a process of a release."""
        base = f"/srv/mysite/releases/{release}"
        settings = {"BASE_DIR": base, "WEBSOCKET_NAMESPACE": self.name}
        return {
            **self.environment,
            "TEST_BACKEND": f"local://{self.directory}",
            "TEST_SETTINGS": json.dumps(settings),
        }

    def command(self, release: str, *arguments: str) -> tuple[str, str]:
        """Run ``manage.py websockets``; return its stdout and stderr."""
        result = subprocess.run(
            [sys.executable, "-m", "django", "websockets", *arguments],
            env={**os.environ, **self.env(release)},
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        return result.stdout, result.stderr


@pytest.fixture(params=["", "mysite"])
def releases(
    request: pytest.FixtureRequest, directory: Path, environment: dict[str, str]
) -> Releases:
    """Two releases, with and without a name."""
    return Releases(directory, environment, request.param)


def test_releases(releases: Releases, start_server: StartServer) -> None:
    """With a name, releases hear each other; without one, a command says where it looked."""
    server = start_server("own", env=releases.env("20261125T1200"))
    server.wait_for_log(rf"WebSockets: groups by local:// in {releases.directory}/wsmux-")
    with server.connect("/echo/") as websocket:
        websocket.send("open")
        websocket.recv()
        output, errors = releases.command("20261126T0900")
        assert ("1 sockets in 1 processes" in output) == bool(releases.name)
        assert ("found no process in" in errors) != bool(releases.name)
        assert ('Set WEBSOCKET_NAMESPACE = "mysite"' in server.log) != bool(releases.name)
        assert ('"20261125T1200" looks like the name of one release' in server.log) != bool(
            releases.name
        )
        if not releases.name:
            assert "0 sockets" not in output
            assert f"found no process in {releases.directory}/wsmux-" in errors
            assert "is of another project or another release" in errors
            assert "found no process" in releases.command("x", "send", "room", "hello")[1]
            assert json.loads(releases.command("x", "--json")[0])["sockets"] == []


def test_private_tmp(directory: Path) -> None:
    """A service with its own temporary directory is told what that means."""
    private = directory / "systemd-private-1" / "tmp"
    private.mkdir(parents=True)
    program = "from django.core.checks import run_checks; print(run_checks())"
    command = (
        f"mount --bind {private} /tmp && "
        f'{sys.executable} -c "import django; django.setup(); {program}"'
    )
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command],
        env={
            **os.environ,
            "TMPDIR": "/tmp",  # systemd replaces this directory
            "DJANGO_SETTINGS_MODULE": "tests.project.settings",
            "TEST_BACKEND": "local://",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if "unshare failed" in result.stderr or "mount:" in result.stderr:
        pytest.skip("only root may mount, and not everywhere")
    assert "W016" in result.stdout, result.stderr
    assert "(PrivateTmp)" in result.stdout
    assert "local:///run/mysite" in result.stdout
