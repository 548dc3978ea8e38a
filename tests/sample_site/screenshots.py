"""Takes the pictures of the manual: ``python -m tests.sample_site.screenshots DIRECTORY``.

The sample site is served as ``scripts/demo`` does, and used as in the tests. Check the results
before you copy them to the manual.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.manual import support_desk
from tests.monitoring.admin_site import PAGE, AdminSite
from tests.sample_site import test_crowd
from tests.sample_site.conftest import new_window, wait_for
from tests.sample_site.test_browser import introduce, say
from tests.sample_site.test_live import add_card, bid, fill, press

#: Replaces the name of the machine in the pictures.
RENAME = """
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        walker.currentNode.data = walker.currentNode.data.replaceAll(arguments[0], "web1");
    }
"""


def resize(window: webdriver.Chrome, width: int, height: int) -> None:
    """Let a page have this size."""
    window.set_window_size(width, height)
    # The frame of the window takes a part of it.
    inner = window.execute_script("return window.innerHeight")
    window.set_window_size(width, 2 * height - inner)


class Visitors:
    """Browsers on the sample site, each with its own cookies.

    Args:
        port: the port of the sample site.
        directory: for the browsers' profiles.
        stack: ends the browsers.
    """

    def __init__(self, port: int, directory: Path, stack: ExitStack) -> None:
        self._port = port
        self._directory = directory
        self._stack = stack
        self._count = 0

    def open(self, path: str, height: int, width: int = 900) -> webdriver.Chrome:
        """Open a page in a new browser, with a window of this size."""
        self._count += 1
        window = new_window(self._directory / f"profile{self._count}")
        self._stack.callback(window.quit)
        resize(window, width, height)
        window.get(f"http://127.0.0.1:{self._port}{path}")
        return window


def chat(visitors: Visitors) -> webdriver.Chrome:
    """Let three people talk."""
    windows = []
    people = (("Ada", "#7b3fa0"), ("Grace", "#b3541e"), ("Linus", "#1f6f54"))
    for name, colour in people:
        window = visitors.open("/chat/", 510)
        wait_for(window, "#state", "connected")
        introduce(window, name, colour)
        windows.append(window)
    lines = (
        (0, "Is this thing on?"),
        (1, "It is. One gunicorn serves the page and this socket."),
        (2, "And mine, in another browser."),
        (0, "No broker, no second server. Nice."),
    )
    for number, text in lines:
        say(windows[number], text)
        for window in windows:
            wait_for(window, "#log", text)
    return windows[1]


def sign_in(window: webdriver.Chrome, name: str) -> None:
    """Sign in on the page Notify."""
    window.find_element(By.NAME, "username").send_keys(name + "\n")
    wait_for(window, "#state", "connected")


def notify(visitors: Visitors) -> webdriver.Chrome:
    """Notify a user, who sees it in another window."""
    window = visitors.open("/notify/", 480)
    sign_in(window, "ada")
    for text in ("your order has been shipped", "it arrives on Friday"):
        say(window, text)
        wait_for(window, "#log", f"{text} (open browsers: 1)")
    return window


def board(visitors: Visitors) -> webdriver.Chrome:
    """Put some cards on the board."""
    window = visitors.open("/board/", 480)
    wait_for(window, "#state", "connected")
    cards = ("Order the cake", "Invite everyone", "Ask Grace for the good plates", "Find a date")
    for card in cards:
        add_card(window, card)
    for card, columns in ((cards[2], ("Doing",)), (cards[3], ("Doing", "Done"))):
        for column in columns:
            press(window, card, f"Move to {column}")
            wait_for(window, f"#{column.lower()}", card)
    return window


def auction(visitors: Visitors) -> webdriver.Chrome:
    """Offer a lot, and bid for it in another browser."""
    window = visitors.open("/auction/", 580)
    wait_for(window, "#state", "connected")
    fill(window, "title", "A bicycle, hardly used\n")
    other = visitors.open("/auction/", 580)
    for each in (window, other):
        each.find_element(By.PARTIAL_LINK_TEXT, "A bicycle").click()
    for each, name, amount in ((window, "Ada", 12), (other, "Grace", 15), (window, "Ada", 20)):
        wait_for(each, "#state", "connected")
        fill(each, "bidder", name)
        bid(each, amount)
        for viewer in (window, other):
            wait_for(viewer, "#lot .price", f"{amount} €")
    fill(other, "bidder", "Grace")
    bid(other, 20)
    wait_for(other, "#bid", "Bid more than 20.")
    return other


def crowd(visitors: Visitors) -> webdriver.Chrome:
    """Let the clients come, deploy, and kill a worker."""
    window = visitors.open("/crowd/", 640)
    window.find_element(By.NAME, "come").click()
    test_crowd.wait_for_number(window, "crowd", 1)
    for button in ("deploy", "kill"):
        window.find_element(By.NAME, button).click()
        wait_for(window, "#log li:last-child", "The socket is in worker")
        test_crowd.wait_for_number(window, "crowd", test_crowd.number(window, "crowd") + 1)
    test_crowd.wait_for_number(window, "open", int(os.environ.get("SAMPLE_SITE_CROWD", "1000")) + 1)
    window.find_element(By.NAME, "go").click()
    return window


def admin(visitors: Visitors, session: str) -> webdriver.Chrome:
    """Show the sockets of all workers to an operator."""
    window = visitors.open("/echo/", 800, 1340)
    window.add_cookie({"name": "sessionid", "value": session})
    window.get(window.current_url.replace("/echo/", PAGE))
    wait_for(window, "#wsmux-state", "Live.")
    wait_for(window, "#wsmux-sockets", "/admin/sockets/")
    window.execute_script(RENAME, socket.gethostname())
    window.execute_script("document.documentElement.style.overflow = 'hidden'")  # no scroll bar
    return window


def desk(directory: Path, stack: ExitStack) -> webdriver.Chrome:
    """Let a customer talk with an agent."""
    directory.mkdir()
    project = support_desk.SupportDesk(directory)
    server = project.start()
    stack.callback(server.stop)
    ann, bob, _ = (
        support_desk.open_desk(project, server.port, name, directory / f"{name}.profile", stack)
        for name in ("ann", "bob", "carol")
    )
    resize(bob, 900, 340)
    support_desk.open_ticket(ann, "The projector shows no picture")
    wait_for(bob, "#tickets", "projector")
    bob.find_element(By.PARTIAL_LINK_TEXT, "projector").click()
    wait_for(bob, "#state", "connected")
    support_desk.claim(bob)
    wait_for(ann, "#ticket", "bob answers")
    lines = (
        (ann, "It says: no signal."),
        (bob, "Is the cable plugged in, at both ends?"),
        (ann, "At one end. Now it works, thank you!"),
    )
    for window, text in lines:
        support_desk.say(window, text)
        for each in (ann, bob):
            wait_for(each, "#lines", text)
    project.run(support_desk.NOTICE)
    for selector, text in (("#notice", "14:00"), ("#agents", "carol"), ("#ticket\\.1", "ann")):
        wait_for(bob, selector, text)
    return bob


def main(directory: Path) -> None:
    """Take all pictures."""
    with TemporaryDirectory() as temporary, ExitStack() as stack:
        site = AdminSite(Path(temporary))
        stack.callback(site.server.stop)
        with ExitStack() as other:
            desk(Path(temporary, "desk"), other).save_screenshot(directory / "support_desk.png")
        with ExitStack() as before:
            visitors = Visitors(site.server.port, Path(temporary, "before"), before)
            board(visitors).save_screenshot(directory / "board.png")
            auction(visitors).save_screenshot(directory / "auction.png")
            crowd(visitors).save_screenshot(directory / "crowd.png")
        visitors = Visitors(site.server.port, Path(temporary), stack)
        # The browsers stay open, so that the operator sees their sockets.
        chat(visitors).save_screenshot(directory / "chat.png")
        notify(visitors).save_screenshot(directory / "notify.png")
        admin(visitors, site.keys["root"]).save_screenshot(directory / "admin.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
