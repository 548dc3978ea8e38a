"""Handing over in gunicorn's own workers; test_succession.py shows it with each worker."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT

#: A process that is no worker of gunicorn.
ELSEWHERE = """
import sys
from django_wsmux.server import stock
from django_wsmux.server.dispatcher import Dispatcher

Dispatcher(print, print)
stock.install()
sys.exit("gevent" in sys.modules)
"""


def test_other_servers() -> None:
    """In any other process nothing happens, and gevent is not imported."""
    subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=ROOT, check=True, timeout=60)
