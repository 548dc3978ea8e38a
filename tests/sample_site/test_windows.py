"""Windows of one browser, connected to different workers."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.gauges import worker_of
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


def test_presence(demo: Demo, open_window: OpenWindow) -> None:
    """The chat shows who is present: who joins, with which name, and who leaves, after 15 s."""
    url = f"http://127.0.0.1:{demo.server.port}/chat/"
    browser = open_window(url)
    first = browser.current_window_handle
    introduce(browser, "Ada", "#7b3fa0")
    browser.find_element(By.NAME, "user").send_keys(Keys.TAB)
    wait_for(browser, "#here", "Ada")
    open_another(browser, url)
    wait_for(browser, "#here", "Ada")
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


def test_notifying(demo: Demo, open_window: OpenWindow) -> None:
    """The windows of a browser share one socket; signing out closes the sockets of all workers."""
    server = demo.server
    url = f"http://127.0.0.1:{server.port}/notify/"
    browser = open_window(f"http://127.0.0.1:{server.port}/chat/")
    browser.get(url)
    browser.find_element(By.NAME, "username").send_keys("ann\n")
    wait_for(browser, "#state", "connected")
    here = browser.current_window_handle
    there = open_another(browser, url)
    browser.switch_to.window(here)
    browser.find_element(By.NAME, "text").send_keys("hello <b>you</b>\n")
    wait_for(browser, "#log .went", "(open browsers: 1)")
    browser.switch_to.window(there)
    wait_for(browser, "#log", "ann: hello <b>you</b>")
    take_picture(browser, "notified")

    cookie = browser.get_cookie("sessionid")
    assert cookie is not None
    headers = {"Cookie": f"sessionid={cookie['value']}"}
    with ExitStack() as stack:
        sockets: list[ClientConnection] = []
        workers: set[int] = set()
        while len(workers) < 2:
            websocket = server.connect("/notify/", additional_headers=headers)
            sockets.append(stack.enter_context(websocket))
            workers.add(worker_of(server, websocket.local_address[1]))
            assert len(sockets) < 100, "all in one worker"
        browser.switch_to.window(here)
        browser.find_element(By.CSS_SELECTOR, ".account button").click()
        wait_for(browser, "h1", "Who are you?")
        for websocket in sockets:
            with pytest.raises(ConnectionClosed) as closed:
                websocket.recv(timeout=TIMEOUT)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4401
    browser.switch_to.window(there)
    wait_for(browser, "#state", "signed out (4401)")
    take_picture(browser, "signed-out")
