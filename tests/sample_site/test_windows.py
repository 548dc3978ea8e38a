"""Windows of one browser, connected to different workers."""

from __future__ import annotations

import os
import re

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.support import TIMEOUT, Server

from .conftest import Demo, OpenWindow, wait_for
from .test_browser import introduce


def sign_in(server: Server, name: str) -> str:
    """Sign in as the page's form does; return the cookie."""
    page = server.request("/notify/")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    assert token is not None
    csrf = page.headers["Set-Cookie"].partition(";")[0]
    answer = server.post(
        "/sign-in/", {"csrfmiddlewaretoken": token[1], "username": name}, {"Cookie": csrf}
    )
    assert answer.status == 302, answer.text
    cookies = answer.headers.get_all("Set-Cookie") or []
    return "; ".join(cookie.partition(";")[0] for cookie in cookies)


def open_another(browser: webdriver.Chrome, url: str) -> str:
    """Open another window of a browser and go there; return its handle."""
    browser.switch_to.new_window("window")
    browser.get(url)
    wait_for(browser, "#state", "connected")
    return browser.current_window_handle


def shown(browser: webdriver.Chrome, selector: str) -> str:
    """Return the text of an element."""
    return browser.find_element(By.CSS_SELECTOR, selector).text


def take_picture(browser: webdriver.Chrome, name: str) -> None:
    """Save a picture of the window, if requested."""
    if pictures := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(f"{pictures}/{name}.png")


def worker(browser: webdriver.Chrome) -> int:
    """Return the worker that the window says it is connected to."""
    wait_for(browser, "#log", "connected to worker")
    match = re.search(r"worker (\d+)", shown(browser, "#log"))
    assert match is not None
    return int(match[1])


def test_presence(demo: Demo, open_window: OpenWindow) -> None:
    """The chat shows who is present: who joins, with which name, and who leaves."""
    url = f"http://127.0.0.1:{demo.server.port}/chat/"
    browser = open_window(url)
    first = browser.current_window_handle
    introduce(browser, "Ada", "#7b3fa0")
    browser.find_element(By.NAME, "user").send_keys(Keys.TAB)
    wait_for(browser, "#here", "Ada")
    open_another(browser, url)
    wait_for(browser, "#here", "Ada (2)")
    introduce(browser, "Grace <b>", "#b3541e")
    browser.find_element(By.NAME, "user").send_keys(Keys.TAB)
    wait_for(browser, "#here", "Grace <b>")
    browser.switch_to.window(first)
    wait_for(browser, "#here", "Ada\nGrace <b>")
    take_picture(browser, "presence")
    browser.switch_to.window(next(other for other in browser.window_handles if other != first))
    browser.close()
    browser.switch_to.window(first)
    WebDriverWait(browser, TIMEOUT).until(lambda _: shown(browser, "#here") == "Ada")


def test_signing_out(demo: Demo, open_window: OpenWindow) -> None:
    """One window receives what another sends, and is closed within a second when another signs out.

    The two are connected to different workers.
    """
    url = f"http://127.0.0.1:{demo.server.port}/notify/"
    browser = open_window(f"http://127.0.0.1:{demo.server.port}/chat/")
    browser.get(url)
    browser.find_element(By.NAME, "username").send_keys("ann\n")
    wait_for(browser, "#state", "connected")
    windows = {worker(browser): browser.current_window_handle}
    while len(windows) < 2:
        handle = open_another(browser, url)
        windows.setdefault(worker(browser), handle)
        assert len(browser.window_handles) < 30, "all windows are in one worker"
    here, there = windows.values()

    browser.switch_to.window(here)
    browser.find_element(By.NAME, "text").send_keys("hello <b>you</b>\n")
    wait_for(browser, "#log .went", f"(open windows: {len(browser.window_handles)})")
    browser.switch_to.window(there)
    wait_for(browser, "#log", "ann: hello <b>you</b>")
    take_picture(browser, "notified")
    # The two windows share what they record, as they share their storage.
    browser.execute_script(
        "new MutationObserver(() => { localStorage.closed = Date.now(); })"
        ".observe(document.getElementById('state'), {attributeFilter: ['data-state']})"
    )

    browser.switch_to.window(here)
    browser.execute_script(
        "document.querySelector('.account')"
        ".addEventListener('submit', () => { localStorage.signedOut = Date.now(); })"
    )
    browser.find_element(By.CSS_SELECTOR, ".account button").click()
    wait_for(browser, "h1", "Who are you?")
    browser.switch_to.window(there)
    wait_for(browser, "#state", "signed out (4401)")
    take_picture(browser, "signed-out")
    milliseconds = browser.execute_script("return localStorage.closed - localStorage.signedOut")
    assert milliseconds >= 0
