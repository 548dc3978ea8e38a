"""The pages of the sample site in Chromium."""

from __future__ import annotations

import signal
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.client.proxy import Proxy
from tests.support import TIMEOUT, Server

from .conftest import OpenWindow, wait_for, wait_for_states


def say(window: webdriver.Chrome, text: str) -> None:
    """Type a line and press Enter."""
    window.find_element(By.NAME, "text").send_keys(text + "\n")


def introduce(window: webdriver.Chrome, user: str, colour: str) -> None:
    """Fill in name and colour."""
    field = window.find_element(By.NAME, "user")
    field.clear()
    field.send_keys(user)
    window.execute_script("document.getElementsByName('colour')[0].value = arguments[0]", colour)


def colour_of(window: webdriver.Chrome, number: int) -> str:
    """Return the colour of the name in front of a line."""
    names = window.find_elements(By.CSS_SELECTOR, "#log .user")
    return str(window.execute_script("return arguments[0].style.color", names[number]))


def chat(one: webdriver.Chrome, two: webdriver.Chrome) -> None:
    """Talk between two windows."""
    introduce(one, "Ada", "#7b3fa0")
    introduce(two, "Grace", "#b3541e")
    say(one, "hello <b>you</b>")
    wait_for(two, "#log", "hello <b>you</b>")
    say(two, "hello yourself")
    for window in (one, two):
        wait_for(window, "#log", "hello yourself")
        names = [name.text for name in window.find_elements(By.CSS_SELECTOR, "#log .user")]
        assert names == ["Ada", "Grace"]
        assert colour_of(window, 0) == "rgb(123, 63, 160)"
        assert colour_of(window, 1) == "rgb(179, 84, 30)"


def test_chat(site: Server, open_window: OpenWindow) -> None:
    """A line typed in one window appears in the other, with name and colour, as text."""
    url = f"http://127.0.0.1:{site.port}/chat/"
    chat(open_window(url), open_window(url))


def test_redis_chat(redis_site: Server, open_window: OpenWindow) -> None:
    """The chat works with Redis too."""
    url = f"http://127.0.0.1:{redis_site.port}/redis-chat/"
    chat(open_window(url), open_window(url))


def test_echo(site: Server, open_window: OpenWindow) -> None:
    """A message comes back, with the time that it took."""
    window = open_window(f"http://127.0.0.1:{site.port}/echo/")
    say(window, "are you there")
    wait_for(window, "#log .came", "are you there")
    wait_for(window, "#log .came", " ms")


def test_ping(site: Server, open_window: OpenWindow) -> None:
    """ping is answered; other messages are not."""
    window = open_window(f"http://127.0.0.1:{site.port}/ping/")
    for text in ("ping", "what", "pong"):
        say(window, text)
    wait_for(window, "#log li:last-child", "ping")
    came = [line.text.split()[0] for line in window.find_elements(By.CSS_SELECTOR, "#log .came")]
    assert came == ["pong", "ping"]


def test_deploy(site: Server, open_window: OpenWindow) -> None:
    """The page does not notice that gunicorn reloads: its socket moves to the new worker."""
    window = open_window(f"http://127.0.0.1:{site.port}/chat/")
    say(window, "before")
    wait_for(window, "#log", "before")
    (worker,) = site.workers
    site.signal(signal.SIGHUP)
    site.wait_for_log(rf"Worker exiting \(pid: {worker}\)")
    say(window, "after")
    wait_for(window, "#log", "after")
    assert "server restarting" not in window.execute_script("return window.shown")


def test_returns(site: Server, open_window: OpenWindow) -> None:
    """A window gets the lines that it missed, each once, and then sends its own."""
    proxy = Proxy(site.port)
    try:
        window = open_window(f"http://127.0.0.1:{proxy.port}/chat/")
        say(window, "before")
        wait_for(window, "#log", "before")
        proxy.refuse()
        proxy.cut()
        wait_for(window, "#state", "reconnecting")
        say(window, "after")
        with site.connect("/chat/") as websocket:
            websocket.send("meanwhile")
            websocket.recv(timeout=TIMEOUT)
        proxy.resume()
        wait_for(window, "#log", "after")
    finally:
        proxy.stop()
    lines = [line.text for line in window.find_elements(By.CSS_SELECTOR, "#log .text")]
    assert lines == ["before", "meanwhile", "after"]


def test_edit(edited_site: tuple[Server, Path], open_window: OpenWindow) -> None:
    """The page shows an edit as a restart, then talks to the new code."""
    server, directory = edited_site
    window = open_window(f"http://127.0.0.1:{server.port}/echo/")
    say(window, "before")
    wait_for(window, "#log .came", "before")
    server.wait_for_log(r"sample_site/sockets\.py first seen")
    sockets = directory / "sockets.py"
    edited = sockets.read_text().replace("send(message)", 'send(f"edited: {message!s}")', 1)
    sockets.write_text(edited)
    wait_for_states(window, "server restarting")
    wait_for(window, "#state", "connected")
    say(window, "after")
    wait_for(window, "#log li:last-child", "edited: after")
