"""The board and the auction in Chromium: each window sees what the others do."""

from __future__ import annotations

import signal

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.client.proxy import Proxy
from tests.support import TIMEOUT, Server

from .conftest import OpenWindow, assert_no_errors, wait_for

#: The titles of the cards by column.
COLUMNS = """
return ["todo", "doing", "done"].map(
    (column) => [...document.querySelectorAll(`#${column} .card a`)].map((card) => card.textContent)
)
"""


def wait_for_cards(window: webdriver.Chrome, *columns: list[str]) -> None:
    """Wait until the board has these cards."""
    WebDriverWait(window, TIMEOUT, poll_frequency=0.02).until(
        lambda _: window.execute_script(COLUMNS) == list(columns),
        f"not shown: {columns}",
    )


def fill(window: webdriver.Chrome, name: str, text: str) -> None:
    """Replace the content of a field."""
    field = window.find_element(By.NAME, name)
    field.clear()
    field.send_keys(text)


def add_card(window: webdriver.Chrome, title: str) -> None:
    """Add a card, and wait for the page that Turbo then shows."""
    fill(window, "title", title + "\n")
    wait_for(window, "#todo", title)
    WebDriverWait(window, TIMEOUT, poll_frequency=0.02).until(
        lambda _: window.execute_script("return document.forms[0].elements.title.value") == ""
    )


def press(window: webdriver.Chrome, card: str, title: str) -> None:
    """Press a button of a card."""
    window.find_element(By.XPATH, f"//li[a[text()='{card}']]//button[@title='{title}']").click()


def reload(site: Server) -> None:
    """Have gunicorn replace its worker."""
    (worker,) = site.workers
    site.signal(signal.SIGHUP)
    site.wait_for_log(rf"Worker exiting \(pid: {worker}\)")


def test_board(site: Server, open_window: OpenWindow) -> None:
    """Cards are added, moved, renamed and deleted in all windows, also in hidden tabs."""
    proxy = Proxy(site.port)
    try:
        one = open_window(f"http://127.0.0.1:{site.port}/board/")
        two = open_window(f"http://127.0.0.1:{proxy.port}/board/")
        windows = (one, two)
        for window, title in ((one, "<b>tea</b>"), (two, "cake")):
            add_card(window, title)
        for window in windows:
            wait_for_cards(window, ["<b>tea</b>", "cake"], [], [])
        press(two, "<b>tea</b>", "Move to Doing")
        for window in windows:
            wait_for_cards(window, ["cake"], ["<b>tea</b>"], [])
        # A deploy, while another tab hides the board.
        board = one.current_window_handle
        one.switch_to.new_window("tab")
        reload(site)
        press(two, "cake", "Move to Doing")
        wait_for_cards(two, [], ["<b>tea</b>", "cake"], [])
        two.find_element(By.LINK_TEXT, "cake").click()
        wait_for(two, "h1", "Rename a card")
        fill(two, "title", "coffee\n")
        one.close()
        one.switch_to.window(board)
        for window in windows:
            wait_for_cards(window, [], ["<b>tea</b>", "coffee"], [])
        # One window is offline.
        proxy.refuse()
        proxy.cut()
        wait_for(two, "#state", "reconnecting")
        press(one, "coffee", "Move to Done")
        wait_for_cards(one, [], ["<b>tea</b>"], ["coffee"])
        press(one, "<b>tea</b>", "Delete")
        proxy.resume()
        for window in windows:
            wait_for_cards(window, [], [], ["coffee"])
            assert_no_errors(window)
    finally:
        proxy.stop()


def bid(window: webdriver.Chrome, amount: int) -> None:
    """Type a bid and press Enter."""
    fill(window, "amount", f"{amount}\n")


def test_auction(site: Server, open_window: OpenWindow) -> None:
    """Everyone sees the highest bid; only the bidder sees what is wrong with one."""
    url = f"http://127.0.0.1:{site.port}/auction/"
    one, two = open_window(url), open_window(url)
    fill(one, "title", "A <b>bicycle</b>\n")
    for window in (one, two):
        wait_for(window, "#lots", "A <b>bicycle</b>")
        wait_for(window, "#lots", "no bids yet")
    two.find_element(By.LINK_TEXT, "A <b>bicycle</b>").click()
    wait_for(two, "#state", "connected")
    fill(two, "bidder", "Grace <i>")
    bid(two, 12)
    wait_for(one, "#lots", "12 €")
    wait_for(one, "#lots", "bid by Grace <i>")
    wait_for(two, "#bids", "Grace <i>")
    # The answer to the form keeps the name.
    WebDriverWait(two, TIMEOUT).until(
        lambda _: two.execute_script("return document.forms[0].elements.amount.value") == ""
    )
    bid(two, 12)
    wait_for(two, "#bid", "Bid more than 12.")
    reload(site)
    bid(two, 13)
    wait_for(one, "#lots", "13 €")
    wait_for(two, "#lot .price", "13 €")
    bids = [each.text for each in two.find_elements(By.CSS_SELECTOR, "#bids li")]
    assert bids == ["13 €\nGrace <i>", "12 €\nGrace <i>"]
    two.execute_script("document.querySelector('time.ends').dateTime = '2001-01-01T00:00:00Z'")
    wait_for(two, "#lot .ends", "has ended")
    for window in (one, two):
        assert "server restarting" not in window.execute_script("return window.shown ?? []")
        assert_no_errors(window)
