"""The page Crowd, with two workers, one of which it kills, and a deploy."""

from __future__ import annotations

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.support import TIMEOUT

from .conftest import Demo, OpenWindow, wait_for


def number(window: webdriver.Chrome, name: str) -> int:
    """Return a number that the page shows."""
    return int(window.find_element(By.ID, name).text.replace(",", ""))


def wait_for_number(window: webdriver.Chrome, name: str, least: int) -> None:
    """Wait until a number has reached a value."""
    WebDriverWait(window, 2 * TIMEOUT).until(lambda _: number(window, name) >= least)


def press(window: webdriver.Chrome, name: str) -> None:
    """Press a button."""
    window.find_element(By.NAME, name).click()


def test_crowd(demo: Demo, open_window: OpenWindow) -> None:
    """Page and crowd receive all numbers, each once, though a worker is killed, and at a deploy."""
    window = open_window(f"http://127.0.0.1:{demo.server.port}/crowd/")
    press(window, "come")
    wait_for_number(window, "open", 61)
    wait_for_number(window, "crowd", 1)
    wait_for(window, "#workers", "this page")
    workers = demo.server.workers
    for button in ("kill", "deploy"):
        press(window, button)
        wait_for(window, "#log", "The socket is in worker")
        window.execute_script("document.getElementById('log').replaceChildren()")
        # Both go on.
        wait_for_number(window, "received", number(window, "received") + 4)
        wait_for_number(window, "crowd", number(window, "crowd") + 240)
    assert not set(workers) & set(demo.server.workers)
    assert number(window, "lost") == number(window, "doubled") == 0
    press(window, "go")
    WebDriverWait(window, TIMEOUT).until(lambda _: number(window, "open") <= 1)
