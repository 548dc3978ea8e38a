"""The sample site behind its documented command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.support import ROOT, TIMEOUT, Server, unused_port, wait_for_port


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis of our own."""
    need("redis-server")
    port = unused_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for_port(port)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait(TIMEOUT)


def serve(directory: Path, **env: str) -> Server:
    """Migrate and serve, as scripts/demo does."""
    env = {"SAMPLE_SITE_DATABASE": str(directory / "db.sqlite3"), **env}
    subprocess.run(
        [sys.executable, ROOT / "sample_site" / "manage.py", "migrate", "-v0"],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "sample_site.settings", **env},
        check=True,
    )
    env["DJANGO_SETTINGS_MODULE"] = "sample_site.settings"
    return Server.gunicorn("own", application="sample_site.wsgi", env=env)


# Says when the reloader knows of a file: an edit before that is not seen as one.
TELLING = """
from .settings import *

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django.utils.autoreload": {"handlers": ["console"], "level": "DEBUG"}},
}
"""


@pytest.fixture
def edited_site(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """A copy of the sample site to edit, under ``manage.py runserver``."""
    copy = tmp_path / "sample_site"
    shutil.copytree(ROOT / "sample_site", copy, ignore=shutil.ignore_patterns("*.sqlite3", "__py*"))
    (copy / "telling_settings.py").write_text(TELLING)
    env = {
        "DJANGO_SETTINGS_MODULE": "sample_site.telling_settings",
        "SAMPLE_SITE_DATABASE": str(tmp_path / "db.sqlite3"),
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
    }
    manage = str(copy / "manage.py")
    subprocess.run(
        [sys.executable, manage, "migrate", "-v0"], env={**os.environ, **env}, check=True
    )
    server = Server(manage, "runserver", f"127.0.0.1:{unused_port()}", env=env)
    yield server, copy
    server.stop()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The sample site, without a Redis."""
    env = {"REDIS_URL": f"redis://127.0.0.1:{unused_port()}/0"}
    server = serve(tmp_path_factory.mktemp("site"), **env)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_site(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Server]:
    """The sample site, with one."""
    server = serve(tmp_path_factory.mktemp("redis_site"), REDIS_URL=redis_url)
    yield server
    server.stop()
