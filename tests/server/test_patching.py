"""Checks that gevent's monkey-patching is complete or absent."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support import ROOT
from tests.test_checks import check


@pytest.mark.parametrize("prelude", ["", "from gevent import monkey; monkey.patch_all()"])
def test_patched_or_not(prelude: str) -> None:
    """A command may run in a process that is fully patched, or not at all."""
    assert check(prelude).returncode == 0


def test_partially_patched() -> None:
    """E003 names what is not patched."""
    result = check("from gevent import monkey; monkey.patch_all(socket=False, ssl=False)")
    assert result.returncode == 1
    assert "(django_wsmux.E003) this process serves with gevent, but socket, ssl" in result.stderr


def test_partially_patched_at_start() -> None:
    """The application does not start in such a process."""
    program = (
        "from gevent import monkey; monkey.patch_all(thread=False)\n"
        "from django_wsmux.wsgi import get_wsgi_application; get_wsgi_application()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.project.settings"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "ImproperlyConfigured: this process serves with gevent, but threading" in result.stderr
