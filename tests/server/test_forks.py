"""State that a forked child resets."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT

LOCKS = """
import os
from django_wsmux.groups import members
from django_wsmux.server import dismissal, forks, limits

groups = members.Members()
os.register_at_fork(after_in_child=groups.disown)
forks.install()

def locks():
    return limits._lock, dismissal._lock, groups._lock, groups.closings._lock

for lock in locks()[:2] + locks()[3:]:
    lock.acquire()
child = os.fork()
if child == 0:
    os._exit(not all(lock.acquire(blocking=False) for lock in locks()))
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_locks() -> None:
    """A lock that another thread held during the fork is free in the child."""
    subprocess.run([sys.executable, "-c", LOCKS], cwd=ROOT, check=True, timeout=60)
