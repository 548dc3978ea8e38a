"""The lines of ``manage.py runserver`` for sockets."""

from __future__ import annotations

import re
import sys

import pytest

from tests.conftest import StartServer
from tests.functional.test_conversation import closing
from tests.management.commands.test_runserver import PLAIN, echo
from tests.support import Server


class TestLines:
    """What the terminal shows."""

    def test_open_and_close(self, start_server: StartServer) -> None:
        """Each has one line, with code and duration; no line for the request, and no traceback."""
        server = start_server("runserver")
        with server.connect("/echo/?a=b%20c") as websocket:
            echo(websocket)
            server.wait_for_log(r'"WEBSOCKET /echo/\?a=b%20c OPEN" 101\n')
            websocket.close(4000, "b\x1b[31mye")
        server.wait_for_log(
            r"\[\d\d/\w{3}/\d{4} [\d:]{8}\] "
            r'"WEBSOCKET /echo/\?a=b%20c CLOSE" 4000 \d+\.\d{3}s ' + re.escape(r"'b\x1b[31mye'")
        )
        server.get("/")
        server.wait_for_log(r'"GET / HTTP/1.1" 200')
        for absent in ("GET /echo/", "Traceback", "Error", "\x1b"):
            assert absent not in server.log
        assert server.log.count("WEBSOCKET") == 2

    def test_path_of_a_lean_socket(self, start_server: StartServer) -> None:
        """The lines show the path of a view that keeps no request."""
        server = start_server("runserver")
        with server.connect("/events/lean-echo/") as websocket:
            echo(websocket)
        server.wait_for_log(r'"WEBSOCKET /events/lean-echo/ CLOSE" 1000 \d+\.\d{3}s\n')

    def test_refused(self, start_server: StartServer) -> None:
        """A refusal is logged like any other request."""
        server = start_server("runserver")
        assert server.refused("/status/403/").status == 403
        server.wait_for_log(r'"GET /status/403/ HTTP/1.1" 403 10\n')
        assert "WEBSOCKET" not in server.log

    def test_exception(self, start_server: StartServer) -> None:
        """A view that fails shows its traceback; with DEBUG, the page gets the error too."""
        server = start_server("runserver", env={"TEST_DEBUG": "1"})
        with server.connect("/crash/") as websocket:
            websocket.send("go")
            code, reason = closing(websocket)
            assert code == 1011
            assert reason.startswith("500 ValueError: it broke")
        server.wait_for_log(
            r"Internal Server Error: /crash/\nTraceback (.*\n)+?ValueError: it broke"
        )
        server.wait_for_log(r'"WEBSOCKET /crash/ CLOSE" 1011 \d+\.\d{3}s 500 ValueError: it broke')

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
    def test_colours(self, environment: dict[str, str]) -> None:
        """On a terminal the lines have the colours of Django's responses."""
        command = [sys.executable, "-m", "django", "runserver", *PLAIN]
        program = f"import pty; pty.spawn({command!r})"
        server = Server("-c", program, env={**environment, "DJANGO_COLORS": "dark"})
        try:
            with server.connect("/echo/") as websocket:
                echo(websocket)
            with server.connect("/crash/") as websocket:
                websocket.send("go")
                closing(websocket)
            with server.upgraded("/echo/"):
                pass
            # http_info is bold, http_server_error bold magenta, http_bad_request bold red, and
            # http_success has no colour.
            server.wait_for_log(r'\x1b\[1m"WEBSOCKET /echo/ OPEN" 101\x1b\[0m')
            server.wait_for_log(r'\] \x1b\[m"WEBSOCKET /echo/ CLOSE" 1000 [\d.]+s')
            server.wait_for_log(r'\x1b\[35;1m"WEBSOCKET /crash/ CLOSE" 1011 .*\x1b\[0m')
            server.wait_for_log(r'\x1b\[31;1m"WEBSOCKET /echo/ CLOSE" 1006 [\d.]+s\x1b\[0m')
        finally:
            server.stop()
