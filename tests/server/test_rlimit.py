"""The limit of open files is raised as far as the process may."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT

PROGRAM = """
import resource
from django_wsmux.server.rlimit import raise_limit

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
most = 1000 if hard == resource.RLIM_INFINITY else min(hard, 1000)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, most))
assert raise_limit() == (100, most)
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
assert raise_limit() == (most, most)
"""


def test_raise_limit() -> None:
    """The soft limit becomes the hard limit; a second call changes nothing."""
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, check=True)
