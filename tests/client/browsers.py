"""Browsers for tests: Chromium and Firefox, driven by a program in Node through WebDriver BiDi.

The cases of a test are functions of a module of JavaScript (``tests/client/*.cases.mjs``), because
puppeteer is a library for Node. ``Browser`` starts one browser for all cases of a file.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.support import TIMEOUT, TIMES

from .nodes import BIN, environment

__all__ = ["BROWSERS", "Browser", "browser_of"]

HERE = Path(__file__).parent

#: The program of each browser.
BROWSERS = {"chromium": "chromium", "firefox": "firefox-esr"}


class Browser:
    """A browser, and the cases that run in it one after the other.

    Each case has cookies, storage and windows of its own.

    Args:
        name: a key of ``BROWSERS``.
        cases: the name of a module of JavaScript in this directory, whose exports are the cases.
        profile: an empty directory.
    """

    def __init__(self, name: str, cases: str, profile: Path) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [
                BIN / "node",
                HERE / "browser.mjs",
                name,
                shutil.which(BROWSERS[name]) or "",
                HERE / cases,
                profile,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )

    def run(self, case: str, **options: Any) -> Any:
        """Run a case with options; return its result. An exception of the case is a failure."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"case": case, "options": options}) + "\n")
        self._process.stdin.flush()
        watchdog = threading.Timer(4 * TIMEOUT * TIMES, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        assert line, f"{case} did not end, or the program of the browser died"
        answer = json.loads(line)
        if "error" in answer:
            pytest.fail(answer["error"], pytrace=False)
        return answer["result"]

    def stop(self) -> None:
        """Close the browser."""
        try:
            self._process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def browser_of(name: str, cases: str, profile: Path) -> Iterator[Browser]:
    """Yield a browser: the body of a fixture."""
    need(BROWSERS[name])
    browser = Browser(name, cases, profile)
    yield browser
    browser.stop()
