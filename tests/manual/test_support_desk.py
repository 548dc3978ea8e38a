"""Runs the project of ``docs/support_desk.rst``."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from docutils import nodes
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.client.browsers import Browser, browser_of
from tests.client.proxy import Proxy
from tests.conftest import need
from tests.manual import document
from tests.manual.support_desk import (
    COMMANDS,
    FILES,
    NOTICE,
    PAGE,
    SupportDesk,
    claim,
    open_desk,
    open_ticket,
    say,
)
from tests.sample_site.conftest import assert_no_errors, wait_for
from tests.support import TIMEOUT, Server


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> SupportDesk:
    """The project at the end of the page."""
    return SupportDesk(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def server(desk: SupportDesk) -> Iterator[Server]:
    """The project, served as documented."""
    server = desk.start()
    yield server
    server.stop()


def count(text: str) -> int:
    """Return how many lines are not empty."""
    return sum(1 for line in text.splitlines() if line.strip())


def test_lines() -> None:
    """The project has at most 120 lines of Python and 60 of JavaScript, as the page says."""
    modules = [path for path in FILES.rglob("*.py") if path.name != "tests.py"]
    python = 1 + sum(count(path.read_text()) for path in modules)  # one line of wsgi.py
    templates = "".join(path.read_text() for path in FILES.rglob("*.html"))
    javascript = sum(
        count(each) for each in re.findall(r"<script.*?>\n(.*?)</script>", templates, re.S)
    )
    assert python <= 120
    assert 20 <= javascript <= 60
    text = " ".join(PAGE.read_text().split())
    assert f"{python} lines of Python and {javascript} of JavaScript" in text


def test_files() -> None:
    """The page shows each file, and the commands that the test runs."""
    included = re.findall(r"^\.\. include:: support_desk/(\S+)$", PAGE.read_text(), re.MULTILINE)
    assert sorted(included) == sorted(
        str(path.relative_to(FILES)) for path in FILES.rglob("*.*") if path.suffix != ".pyc"
    )
    blocks = [node.astext() for node in document(PAGE).findall(nodes.literal_block)]
    commands = re.findall(r"^\$ (.+)$", "\n".join(blocks), re.MULTILINE)
    assert commands == list(COMMANDS)


def test_own_tests(desk: SupportDesk) -> None:
    """The tests of the page pass, and so do the checks."""
    output = desk.run("python manage.py test")
    assert "Ran 7 tests" in output
    assert output.rstrip().splitlines()[-2].endswith("OK"), output
    assert "no issues" in desk.run("python manage.py check")


@pytest.fixture
def firefox(tmp_path: Path) -> Iterator[Browser]:
    """The other browser."""
    profile = tmp_path / "firefox"
    profile.mkdir()
    yield from browser_of("firefox", "desk.cases.mjs", profile)


def texts(window: webdriver.Chrome, items: str) -> list[str]:
    """Return the texts of a list of the page."""
    found: list[str] = window.execute_script(
        f"return [...document.querySelectorAll('#{items} li')].map((li) => li.textContent)"
    )
    return found


def test_desk(desk: SupportDesk, server: Server, firefox: Browser, tmp_path: Path) -> None:
    """A customer and two agents use the desk; no one reloads a page, and nothing is missed."""
    need("chromium", "chromedriver")
    proxy = Proxy(server.port)
    with ExitStack() as stack:
        stack.callback(proxy.stop)
        ann, bob, carol = (
            open_desk(desk, proxy.port, name, tmp_path / name, stack)
            for name in ("ann", "bob", "carol")
        )
        wait_for(ann, "#agents", "carol")
        open_ticket(ann, "No sound <b>at all</b>")
        for window in (bob, carol):
            wait_for(window, "#tickets", "No sound <b>at all</b> (ann): waiting")
            assert not window.find_element(By.CSS_SELECTOR, "#tickets form").is_displayed()
        for window in (bob, carol):
            window.find_element(By.PARTIAL_LINK_TEXT, "No sound").click()
            wait_for(window, "#state", "connected")
        assert not ann.find_element(By.CSS_SELECTOR, "#ticket form").is_displayed()
        claim(bob)
        for window in (ann, bob, carol):
            wait_for(window, "#ticket", "bob answers")
        for name in ("ann", "bob", "carol"):
            wait_for(ann, "#ticket\\.1", name)
        say(bob, "Is it plugged in?")
        wait_for(ann, "#lines", "bob: Is it plugged in?")
        # A deploy.
        workers = server.workers
        server.signal(signal.SIGHUP)
        for pid in workers:
            server.wait_for_log(rf"Worker exiting \(pid: {pid}\)")
        say(ann, "It is.")
        wait_for(bob, "#lines", "ann: It is.")
        # All connections are cut. Ann speaks all the same.
        proxy.refuse()
        proxy.cut()
        wait_for(ann, "#state", "waiting")
        say(ann, "Oh, it works now.", is_sent=False)
        desk.run(NOTICE)
        proxy.resume()
        expected = ["bob: Is it plugged in?", "ann: It is.", "ann: Oh, it works now."]
        for window in (ann, bob, carol):
            wait_for(window, "#lines", expected[-1])
            wait_for(window, "#notice", "Back at 14:00")
            assert texts(window, "lines") == expected
        # A page that is loaded again has all of it; an agent who has left is online for 15 seconds.
        bob.get(f"http://127.0.0.1:{proxy.port}/")
        wait_for(bob, "#notice", "Back at 14:00")
        wait_for(bob, "#tickets", "bob answers")
        carol.get("about:blank")
        # An agent in Firefox.
        firefox.run(
            "talk",
            origin=f"http://127.0.0.1:{proxy.port}",
            control=proxy.control,
            user="bob",
            path="/tickets/1/",
            heard=expected[-1],
        )
        expected += ["bob: with a connection", "bob: without a connection"]
        wait_for(ann, "#lines", expected[-1])
        assert texts(ann, "lines") == expected
        WebDriverWait(ann, TIMEOUT).until(lambda _: ann.find_element(By.ID, "agents").text == "bob")
        for window in (ann, bob):
            assert_no_errors(window)
