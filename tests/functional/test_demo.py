"""``scripts/demo`` on a fresh copy, as a new user runs it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT, TIMEOUT, Site, unused_port


@pytest.mark.timeout(600)
def test_demo(tmp_path: Path) -> None:
    """The script makes all that it needs, prints its command and serves pages and sockets."""
    copy = tmp_path / "copy"
    # Other tests may write there at the same time.
    caches = (".hypothesis", ".tox", ".*_cache", "__pycache__", "*.egg-info", "wsload")
    ignored = shutil.ignore_patterns(".git", ".venv*", *caches)
    shutil.copytree(ROOT, copy, ignore=ignored)
    port = unused_port()
    process = subprocess.Popen(
        ["scripts/demo", "-b", f"127.0.0.1:{port}"],
        cwd=copy,
        env={key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = ""
    try:
        for line in process.stdout:
            said += line
            if re.search(r"Listening at", line):
                break
        assert "exec .venv/bin/gunicorn -k django_wsmux.worker.WebSocketWorker" in said, said
        assert f"Open http://127.0.0.1:{port} in two windows." in said, said
        site = Site(port)
        assert "One port, one process" in site.get("/")
        with site.connect("/echo/") as websocket:
            websocket.send("hello")
            assert websocket.recv(timeout=TIMEOUT) == "hello"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.stdout.read()
        process.stdout.close()
        process.wait(TIMEOUT)
