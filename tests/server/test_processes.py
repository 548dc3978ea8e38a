"""Processes of this machine, as ``/proc`` shows them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from django_wsmux.server.processes import children_of, parent_of, start_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_child() -> None:
    """A child is found with the time of its start, until it has ended."""
    child = subprocess.Popen(["sleep", "600"])
    try:
        assert parent_of(child.pid) == os.getpid()
        started = start_of(child.pid)
        assert started >= start_of(os.getpid()) > 0
        assert children_of(os.getpid())[child.pid] == started
    finally:
        child.send_signal(signal.SIGKILL)
    # It is a zombie now.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert start_of(child.pid) == parent_of(child.pid) == 0
    assert child.pid not in children_of(os.getpid())
    child.wait()


def test_none() -> None:
    """There is no process of such a number."""
    assert start_of(2**30) == parent_of(2**30) == 0
    assert children_of(2**30) == {}
