"""``ConnectionClosed``, and the name under which older code catches it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from django_wsmux.exceptions import ConnectionClosed
from tests.support import ROOT


def test_says_how() -> None:
    """Code and reason are attributes, and part of the text."""
    error = ConnectionClosed(4000, "enough")
    assert (error.code, error.reason) == (4000, "enough")
    assert str(error) == "WebSocket closed with 4000: enough"
    assert str(ConnectionClosed(1006)) == "WebSocket closed with 1006"


OURS = "from django_wsmux.exceptions import ConnectionClosed"
THEIRS = "from geventwebsocket.exceptions import WebSocketError"


def run(*lines: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("imports", [(OURS, THEIRS), (THEIRS, OURS)])
def test_is_gevent_websockets(imports: tuple[str, str]) -> None:
    """Code written for gevent-websocket catches it, whichever module is imported first."""
    program = (
        *imports,
        "try:",
        "    raise ConnectionClosed(4000, 'enough')",
        "except WebSocketError as error:",
        "    print(error, error.code, error.reason)",
    )
    result = run(*program)
    assert result.stdout == "WebSocket closed with 4000: enough 4000 enough\n", result.stderr


def test_needs_no_gevent() -> None:
    """Importing it does not import gevent."""
    result = run("import sys", OURS, "sys.exit('gevent' in sys.modules)")
    assert result.returncode == 0, result.stderr
