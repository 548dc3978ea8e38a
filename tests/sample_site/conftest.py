"""Fixtures: the sample site behind its documented command, and browsers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.conftest import need
from tests.support import ROOT, TIMEOUT, Server, unused_port, wait_for_port


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a Redis for the tests."""
    need("redis-server")
    port = unused_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for_port(port)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait(TIMEOUT)


def serve(directory: Path, *options: str, **env: str) -> Server:
    """Migrate and serve, as scripts/demo does."""
    env = {
        "SAMPLE_SITE_DATABASE": str(directory / "db.sqlite3"),
        "SAMPLE_SITE_BACKEND": f"local://{directory}",
        **env,
    }
    subprocess.run(
        [sys.executable, ROOT / "sample_site" / "manage.py", "migrate", "-v0"],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "sample_site.settings", **env},
        check=True,
    )
    env["DJANGO_SETTINGS_MODULE"] = "sample_site.settings"
    return Server.gunicorn("own", *options, application="sample_site.wsgi", env=env)


# Logs when the reloader knows of a file: it does not notice an earlier edit.
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
    """The sample site, without Redis."""
    env = {"REDIS_URL": f"redis://127.0.0.1:{unused_port()}/0"}
    server = serve(tmp_path_factory.mktemp("site"), **env)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_site(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Server]:
    """The sample site, with Redis."""
    server = serve(tmp_path_factory.mktemp("redis_site"), REDIS_URL=redis_url)
    yield server
    server.stop()


@dataclass(frozen=True)
class Demo:
    """The sample site with two workers, and the environment of its other programs."""

    server: Server
    env: dict[str, str]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The site that scripts/demo serves."""
    directory = tmp_path_factory.mktemp("demo")
    env = {
        "SAMPLE_SITE_DATABASE": str(directory / "db.sqlite3"),
        "SAMPLE_SITE_BACKEND": f"local://{directory}",
        "SAMPLE_SITE_CROWD": "60",
        "DJANGO_SETTINGS_MODULE": "sample_site.settings",
    }
    server = serve(directory, "-w", "2", **env)
    yield Demo(server, env)
    server.stop()


# Chromium

OpenWindow = Callable[[str], webdriver.Chrome]

ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1100,800"
)

# Some states last an eighth of a second, too short to poll for.
WATCH = """
window.shown = [];
const state = document.getElementById("state");
const watcher = new MutationObserver(() => window.shown.push(state.textContent));
watcher.observe(state, {childList: true});
"""


def new_window(profile: Path) -> webdriver.Chrome:
    """Start a browser with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ARGUMENTS.split():
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    return webdriver.Chrome(options, Service(shutil.which("chromedriver")))


@pytest.fixture
def open_window(tmp_path: Path) -> Iterator[OpenWindow]:
    """Open a page in a browser of its own."""
    need("chromium", "chromedriver")
    windows: list[webdriver.Chrome] = []

    def open_window(url: str) -> webdriver.Chrome:
        window = new_window(tmp_path / str(len(windows)))
        windows.append(window)
        window.get(url)
        wait_for(window, "#state", "connected")
        window.execute_script(WATCH)
        return window

    yield open_window
    pictures = os.environ.get("SCREENSHOTS")
    for number, window in enumerate(windows):
        if pictures:
            window.save_screenshot(f"{pictures}/{tmp_path.name}-{number}.png")
        window.quit()


def wait_for(window: webdriver.Chrome, selector: str, text: str) -> None:
    """Wait until an element shows the text; the page may replace the element meanwhile."""
    ignored = [StaleElementReferenceException]
    WebDriverWait(window, TIMEOUT, poll_frequency=0.02, ignored_exceptions=ignored).until(
        lambda _: text in window.find_element(By.CSS_SELECTOR, selector).text,
        f"{text!r} does not appear in {selector}",
    )


def wait_for_states(window: webdriver.Chrome, *states: str) -> None:
    """Wait until the page has shown these states, in this order."""

    def has_shown(_: webdriver.Chrome) -> bool:
        shown = iter(window.execute_script("return window.shown"))
        return all(state in shown for state in states)

    WebDriverWait(window, TIMEOUT, poll_frequency=0.02).until(has_shown, f"not shown: {states}")


def assert_no_errors(window: webdriver.Chrome) -> None:
    """Check that no script of the page has raised an exception."""
    logged: Any = window.get_log("browser")  # type: ignore[no-untyped-call]
    assert [each for each in logged if each["source"] == "javascript"] == []
