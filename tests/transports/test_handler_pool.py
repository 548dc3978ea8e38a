"""The pool of greenlets for event views: its limit, its order, and errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from django_wsmux.connection.link import is_compiled
from tests.implementations import IMPLEMENTATIONS, run_alone

Run = Callable[[str], str]

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


@pytest.fixture(params=["C", "Python"] if is_compiled else ["Python"])
def run(request: pytest.FixtureRequest) -> Run:
    """Return a function that runs a program in a process of its own and returns what it logs."""
    start = IMPLEMENTATIONS[request.param] + PREPARED
    return lambda program: run_alone(start + program)


def test_limit(run: Run) -> None:
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


def test_turns(run: Run) -> None:
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


def test_idle(run: Run) -> None:
    """Greenlets that were idle for a while end, and call the function for that."""
    assert not run("""
handler_pool.IDLE = 0.01
short = HandlerPool(2, lambda: log.append("retired"))
start(short, lambda subject: False)
while "retired" not in log:
    gevent.sleep(0.01)
assert short._count == 0
""")


def test_error(run: Run) -> None:
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


def test_last_first(run: Run) -> None:
    """The greenlet that was used last is used next."""
    assert not run("""
from greenlet import getcurrent
used = []
ends = [gevent.event.Event() for _ in range(2)]
def job(number):
    used.append(id(getcurrent()))
    if number < 2:
        ends[number].wait()
    return False
for number in range(2):
    start(pool, job, number)
settle()
for number in (1, 0):
    ends[number].set()
    settle()
start(pool, job, 2)
settle()
assert used[2] == used[0] != used[1]
assert pool._count == 2
""")


def test_referred_to(run: Run) -> None:
    """A greenlet to which other code refers ends instead of doing another job."""
    assert not run("""
from greenlet import getcurrent
kept = []
def job(keep):
    if keep:
        kept.append(getcurrent())
    log.append(id(getcurrent()))
    return False
start(pool, job, True)
settle()
start(pool, job, False)
settle()
assert log[1] == "retired" and log[0] != log[2], log
assert kept[0].dead and pool._count == 1
""")


def test_late_exception(run: Run) -> None:
    """An exception for a job that has returned is logged and counted, and changes nothing."""
    errors = run("""
from greenlet import getcurrent
from django_wsmux.connection.counters import counters
def job(name):
    log.append(name)
    if name == "first":
        hub.loop.run_callback(getcurrent().throw, ValueError("late"))
    return False
start(pool, job, "first")
settle()
start(pool, job, "second")
settle()
assert log == ["first", "second"], log
assert counters["late_exceptions"] == 1
assert pool._count == 1
""")
    assert "Ignoring ValueError('late')" in errors


def test_exception_in_a_job(run: Run) -> None:
    """An exception that is thrown while the job waits reaches the job."""
    assert not run("""
from greenlet import getcurrent
def job(subject):
    gevent.get_hub().loop.run_callback(getcurrent().throw, ValueError("in time"))
    try:
        gevent.get_hub().switch()
    except ValueError as error:
        log.append(str(error))
    return False
start(pool, job)
settle()
assert log == ["in time"], log
""")


def test_resumed_by_other_code(run: Run) -> None:
    """A greenlet that other code resumes while it has no job ends; another one takes its place."""
    assert not run("""
from greenlet import getcurrent
def job(name):
    log.append(name)
    if name == "first":
        hub.loop.run_callback(getcurrent().switch, "nonsense")
    return False
start(pool, job, "first")
settle()
assert log == ["first", "retired"], log
assert (pool._count, pool.running) == (0, 0)
start(pool, job, "second")
settle()
assert log[2:] == ["second"], log
""")


def test_subject_is_freed(run: Run) -> None:
    """Neither job nor subject outlive the job."""
    assert not run("""
import weakref
class Thing:
    def __call__(self, subject):
        return False
job, subject = Thing(), Thing()
seen = weakref.ref(job), weakref.ref(subject)
start(pool, job, subject)
del job, subject
settle()
assert seen[0]() is seen[1]() is None
""")


def test_disowned_in_a_job(run: Run) -> None:
    """A job of a forked child does not go on, and those that wait never start."""
    assert not run("""
def job(name):
    log.append(name)
    gevent.sleep(0)
    one.disown()
    return True
one = HandlerPool(1, lambda: None)
start(one, job, "first")
start(one, job, "second")
settle()
assert log == ["first"], log
assert (one.running, one.waiting) == (0, 0)
""")


def test_many(run: Run) -> None:
    """As many jobs run at a time as the pool has greenlets, and each is done once."""
    assert not run("""
big = HandlerPool(50, lambda: None)
most = 0
def job(number):
    global most
    most = max(most, big.running)
    gevent.sleep(0.001)
    log.append(1)
    return False
for number in range(500):
    start(big, job, number)
while len(log) < 500:
    gevent.sleep(0.001)
settle()
assert most == 50
assert (big.running, big.waiting, big._count) == (0, 0, 50)
""")
