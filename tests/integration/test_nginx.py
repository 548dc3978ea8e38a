"""nginx in front, with the configurations that the manual shows."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.support import ROOT, TIMEOUT, WORKERS, Server, Site, unused_port, wait_for_port

StartServer = Callable[..., Server]


@pytest.fixture
def start_nginx(tmp_path: Path) -> Iterator[Callable[[str, Server], int]]:
    """Run nginx with a file of the manual; only addresses are put in."""
    need("nginx")
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, server: Server) -> int:
        port = unused_port()
        text = (ROOT / "docs" / name).read_text()
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
        text = text.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
        file = tmp_path / "nginx.conf"
        file.write_text(text)
        temporary = " ".join(
            f"{kind}_temp_path {tmp_path}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        file.write_text(text.replace("http {", f"http {{ {temporary} access_log off;", 1))
        program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
        assert program is not None
        directives = f"daemon off; pid {tmp_path}/pid; error_log stderr;"
        command = [program, "-p", str(tmp_path), "-c", str(file), "-g", directives]
        started.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        wait_for_port(port)
        return port

    yield start
    for process in started:
        process.terminate()
        process.wait(TIMEOUT)


@pytest.mark.parametrize("name", ["nginx.conf", "nginx-site.conf"])
@pytest.mark.parametrize("worker", WORKERS)
def test_page_and_socket(
    start_server: StartServer,
    start_nginx: Callable[[str, Server], int],
    worker: str,
    name: str,
) -> None:
    """One location serves both, and many pages after one another."""
    server = start_server(worker)
    port = start_nginx(name, server)
    outside = Site(port)
    with outside.connect("/echo/") as websocket:
        websocket.send("through nginx")
        assert websocket.recv(timeout=TIMEOUT) == "through nginx"
    assert [outside.get("/").split()[0] for _ in range(5)] == ["plain"] * 5
    assert outside.refused("/status/403/").status == 403


def test_the_outside_is_known(
    start_server: StartServer, start_nginx: Callable[[str, Server], int]
) -> None:
    """URLs name nginx's port, and its pages may connect."""
    server = start_server("own")
    port = start_nginx("nginx-site.conf", server)
    outside = Site(port)
    assert f"ws://127.0.0.1:{port}/echo/" in outside.get("/page/")
    with outside.connect("/echo/", origin=f"http://127.0.0.1:{port}"):
        pass


def test_addresses(start_server: StartServer, start_nginx: Callable[[str, Server], int]) -> None:
    """WEBSOCKET_TRUSTED_PROXIES: what nginx has seen counts, not what the client claims."""
    settings = {"WEBSOCKET_MAX_SOCKETS_PER_ADDRESS": 2, "WEBSOCKET_TRUSTED_PROXIES": 1}
    server = start_server("own", env={"TEST_SETTINGS": json.dumps(settings)})
    outside = Site(start_nginx("nginx-site.conf", server))
    claims = [f"X-Forwarded-For: 192.0.2.{n}\r\nX_Forwarded_For: 192.0.2.9\r\n" for n in range(2)]
    with outside.upgraded("/echo/", claims[0]), outside.upgraded("/echo/", claims[1]):
        assert json.loads(server.get("/places/")) == [2, {"127.0.0.1": 2}, {}]
        assert outside.refused("/echo/", {"X-Forwarded-For": "192.0.2.3"}).status == 429
