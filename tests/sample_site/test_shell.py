"""The shell session of ``docs/sample.rst``."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from websockets.sync.client import ClientConnection

from tests.sample_site.test_windows import sign_in
from tests.support import ROOT, TIMEOUT

from .conftest import Demo


def said(websocket: ClientConnection) -> str:
    """Return the next message."""
    return str(websocket.recv(timeout=TIMEOUT))


def test_shell(demo: Demo) -> None:
    """The user's windows and the chat show the messages."""
    page = (ROOT / "docs" / "sample.rst").read_text()
    (command,) = re.findall(r"^    \$ python (\S+/manage.py shell)$", page, re.MULTILINE)
    lines = re.findall(r"^    >>> (.+)$", page, re.MULTILINE)
    cookie = sign_in(demo.server, "ann")
    with (
        demo.server.connect("/notify/", additional_headers={"Cookie": cookie}) as ann,
        demo.server.connect("/chat/") as chat,
    ):
        subprocess.run(
            [sys.executable, *command.split()],
            input="\n".join(lines),
            cwd=ROOT,
            env={**os.environ, **demo.env},
            check=True,
            text=True,
        )
        assert said(ann) == "your order has been shipped"
        assert "hello from the shell" in said(chat)
