"""Two people in one room: one in Chromium, one in Firefox."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from django_wsmux.presence.store import LEAVING_SECONDS
from tests.conftest import StartServer

from .browsers import Browser, browser_of


@contextmanager
def opened(name: str, profiles: pytest.TempPathFactory) -> Iterator[Browser]:
    """Open a browser."""
    yield from browser_of(name, "presence.cases.mjs", profiles.mktemp("profile"))


def test_reload_and_close(
    start_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A page that is loaded again makes no event; one that is closed has left 15 seconds later."""
    origin = f"http://127.0.0.1:{start_server('own').port}"
    with ExitStack() as stack:
        chromium, firefox = (
            stack.enter_context(opened(name, tmp_path_factory)) for name in ("chromium", "firefox")
        )
        pool = stack.enter_context(ThreadPoolExecutor())

        def run(browser: Browser, case: str, name: str, **more: Any) -> Any:
            return browser.run(case, origin=origin, direct=origin, group="r", name=name, **more)

        screenshot = os.environ.get("TEST_SCREENSHOT")
        staying = pool.submit(run, chromium, "stays", "Ann", screenshot=screenshot)
        visit = run(firefox, "visits", "Bob")
        events = staying.result()
    bob = {"Bob": {"name": "Bob"}}
    first, came, went = events[0], events[1], events[-1]
    assert (first["all"], first["joined"], first["left"]) == (["Ann"], {}, {})
    assert (came["joined"], came["left"]) == (bob, {})
    assert (went["joined"], went["left"]) == ({}, bob)
    assert went["at"] - visit["at"] > (LEAVING_SECONDS - 1) * 1000
    # On a machine that takes as long to load a page, he has left and come back.
    if visit["away"] < LEAVING_SECONDS:
        assert len(events) == 3
