"""Runs the recipe of ``docs/tasks.rst`` with Celery."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.conftest import need
from tests.manual.recipes import PAGE, Recipe, commands, until, wait_for_end, wait_for_line
from tests.manual.walkthrough import page
from tests.sample_site.conftest import assert_no_errors, new_window, wait_for
from tests.services import RedisServer
from tests.support import GUNICORN_OPTIONS, ROOT, Server

#: The commands of the section that keep running.
SERVE, WORK, BEAT = commands("With Celery")[-3:]

QUIET = ("--without-gossip", "--without-mingle", "-l", "INFO")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for Celery and for the groups."""
    need("redis-server")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Recipe:
    """The project of the page."""
    directory = tmp_path_factory.mktemp("celery")
    return Recipe(directory, "With Celery", {"REDIS_URL": redis.url}, ("", ""))


@pytest.fixture(scope="module")
def server(recipe: Recipe) -> Iterator[Server]:
    """The project, served as documented."""
    options = " ".join(("-b 127.0.0.1:0", *GUNICORN_OPTIONS))
    server = recipe.serve(SERVE, GUNICORN_CMD_ARGS=options)
    yield server
    server.stop()


def lines(window: webdriver.Chrome) -> list[str]:
    """Return the lines that the page shows."""
    found: list[str] = window.execute_script(
        "return [...document.querySelectorAll('#lines li')].map((li) => li.textContent)"
    )
    return found


def wait_for_more(window: webdriver.Chrome) -> None:
    """Wait for three more lines."""
    wait_for(window, "#lines", f"This is line {len(lines(window)) + 3}.")


@pytest.fixture
def window(tmp_path: Path, server: Server, recipe: Recipe) -> Iterator[webdriver.Chrome]:
    """A browser that is signed in."""
    need("chromium", "chromedriver")
    window = new_window(tmp_path)
    window.get(f"http://127.0.0.1:{server.port}/wsmux/client.js")
    name, _, value = recipe.cookie.partition("=")
    window.add_cookie({"name": name, "value": value})
    yield window
    if "SCREENSHOTS" in os.environ:
        window.save_screenshot(f"{os.environ['SCREENSHOTS']}/report.png")
    window.quit()


def test_nothing_is_left_out() -> None:
    """Each block is a file or a command, in a section that a test builds."""
    blocks = page(PAGE)
    text = (ROOT / "docs" / PAGE).read_text()
    assert len(blocks) == len(re.findall(r"::(?: \S+)?\n\n    ", text))
    for block in blocks:
        assert bool(block.file) != bool(block.commands), block
        assert block.heading in ("The page", "With Celery", "With django.tasks", "Testing")


def test_page(recipe: Recipe, server: Server, redis: RedisServer, window: webdriver.Chrome) -> None:
    """The page shows each line once and in order, whatever is restarted or killed meanwhile."""
    with recipe.running(WORK, *QUIET) as worker, recipe.running(BEAT):
        window.get(f"http://127.0.0.1:{server.port}/reports/")
        field = window.find_element(By.NAME, "lines")
        field.clear()
        field.send_keys("1000000\n")
        wait_for(window, "#state", "connected")
        wait_for_more(window)
        path = window.current_url.partition(f":{server.port}")[2]
        with recipe.connect(server, path) as websocket:
            # A deploy.
            old = server.workers
            server.signal(signal.SIGHUP)
            for pid in old:
                server.wait_for_log(rf"Worker exiting \(pid: {pid}\)")
            wait_for_more(window)
            # The processes of the worker are killed, and the task goes to another one.
            children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
            assert len(children) >= 2
            for child in children:
                os.kill(int(child), signal.SIGKILL)
            wait_for_more(window)
            window.find_element(By.CSS_SELECTOR, "#count button").click()
            wait_for(window, "#words", " words")
            wait_for(window, "#workload", "Reports under way: 1")
            window.find_element(By.ID, "stop").click()
            wait_for(window, "#news", "Report 1 is ready.")
            stored = recipe.stored(1)
            assert stored == list(range(1, len(stored) + 1))
            numbers = wait_for_line(websocket, len(stored))
        assert numbers == list(range(numbers[0], len(stored) + 1))
        wait_for(window, "#lines", f"This is line {len(stored)}.")
        assert lines(window) == [f"This is line {number}." for number in stored]
        assert window.find_element(By.ID, "state").text == "connected"
        assert_no_errors(window)


def test_redis_away(recipe: Recipe, server: Server, redis: RedisServer) -> None:
    """The task goes on while Redis is down, and its messages arrive when Redis is back."""
    with recipe.running(WORK, *QUIET):
        path = recipe.start_report(server, 1_000_000)
        report = int(path.split("/")[2])
        with recipe.connect(server, path) as websocket:
            wait_for_line(websocket, 1)
            redis.stop()
            count = len(recipe.stored(report))
            until(lambda: len(recipe.stored(report)) >= count + 3)
            redis.start()
            numbers = wait_for_line(websocket, count + 3)
            websocket.send('{"type": "stop"}')
            wait_for_end(websocket)
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("pool", ["gevent", "threads"])
def test_pools(pool: str, recipe: Recipe, server: Server) -> None:
    """Each pool that the page names runs the tasks."""
    command = f"{WORK} -P {pool}"
    with recipe.running(command, *QUIET):
        path = recipe.start_report(server, 1_000_000)
        with recipe.connect(server, path) as websocket:
            numbers = wait_for_line(websocket, 5)
            websocket.send('{"type": "stop"}')
            wait_for_end(websocket)
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        stored = recipe.stored(int(path.split("/")[2]))
        assert stored == list(range(1, len(stored) + 1))


def test_own_tests(recipe: Recipe) -> None:
    """The tests of the page pass."""
    output = recipe.run(commands("Testing")[0])
    assert "Ran 5 tests" in output
    assert output.rstrip().splitlines()[-2].endswith("OK"), output
