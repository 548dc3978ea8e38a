"""The pool of greenlets for event views: its limit, its order, and errors."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT

#: ``start()`` starts a job in the hub; ``settle()`` lets the hub run until nothing is left to do.
PREPARED = """
import gevent
from django_wsmux.transports import handler_pool
from django_wsmux.transports.handler_pool import HandlerPool

log = []
hub = gevent.get_hub()

def start(pool, job, subject=None):
    hub.loop.run_callback(pool.start, job, subject)

def settle():
    for _ in range(5):
        gevent.sleep(0)

def waiting(name):
    done = gevent.event.Event()
    def job(subject):
        log.append((name, subject))
        done.wait()
        return False
    return job, done

import gevent.event
pool = HandlerPool(2, lambda: log.append("retired"))
"""


def run(program: str) -> str:
    """Run a program in a process of its own; return what it logs."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREPARED + program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_limit() -> None:
    """Jobs beyond the limit wait for a greenlet, without their subject."""
    assert not run("""
jobs = [waiting(number) for number in range(3)]
for number, (job, _) in enumerate(jobs):
    start(pool, job, f"subject {number}")
settle()
assert log == [(0, "subject 0"), (1, "subject 1")]
assert (pool.running, pool.waiting) == (2, 1)
jobs[0][1].set()
settle()
assert log[2:] == [(2, None)]
for _, done in jobs:
    done.set()
settle()
assert (pool.running, pool.waiting) == (0, 0)
""")


def test_turns() -> None:
    """A job with more work goes on after those that wait."""
    assert not run("""
def repeated(name):
    left = [1, 2, 3]
    def job(subject):
        log.append(name)
        left.pop()
        gevent.sleep(0)
        return bool(left)
    return job

one = HandlerPool(1, lambda: None)
for name in "ab":
    start(one, repeated(name))
for _ in range(5):
    settle()
assert log == list("ababab"), log
""")


def test_idle() -> None:
    """Greenlets that were idle for a while end, and call the function for that."""
    assert not run("""
handler_pool.IDLE = 0.01
short = HandlerPool(2, lambda: log.append("retired"))
start(short, lambda subject: False)
while "retired" not in log:
    gevent.sleep(0.01)
assert short._count == 0
""")


def test_error() -> None:
    """An error of a job is logged, and its greenlet serves the next job."""
    log = run("""
def broken(subject):
    raise ValueError("a job's bug")
start(pool, broken)
start(pool, lambda subject: log.append(subject) or False, "next")
settle()
assert log == ["next"]
assert pool._count == 1
""")
    assert "ValueError: a job's bug" in log
