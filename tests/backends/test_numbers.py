"""Numbers of publications: those of this process, and what arrives of others."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from django_wsmux.backends import numbers as module
from django_wsmux.backends.numbers import THREAD, Numbers, wait_until

PROCESS = bytes(range(16))


def test_threads() -> None:
    """Each thread is a source of its own, which numbers from 1; the first one is the process."""
    numbers = Numbers(PROCESS)
    found: list[int] = []
    begin = threading.Barrier(3)

    def draw() -> None:
        begin.wait()
        for _ in range(3):
            last = numbers.own[numbers.get_ident()]
            last[0] += 1
            found.append(last[0])

    threads = [threading.Thread(target=draw) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    by_source: dict[bytes, list[int]] = {}
    for number in found:
        by_source.setdefault(numbers.source_of(PROCESS, number), []).append(number % THREAD)
    assert all(each == [1, 2, 3] for each in by_source.values())
    # A thread that ends may pass on its id.
    assert PROCESS in by_source
    table = numbers.table()
    assert table == {numbers.source_of(PROCESS, number): number for number in sorted(found)}


def test_early() -> None:
    """A number that is drawn before the members are served counts once they are served."""
    numbers = Numbers(PROCESS)
    seen: list[Any] = []
    assert [numbers.draw_early() for _ in range(3)] == [1, 2, 3]
    assert numbers.table() == {PROCESS: 0}
    numbers.arrived(1, "room", b"a")
    numbers.observe = lambda *what: seen.append(what)
    numbers.arrived(2, "room", b"b")
    assert numbers.table() == {PROCESS: 2}
    assert seen == [(PROCESS, 2, "room", b"b")]


def test_forget_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table does not grow without limit; those who have sent lately stay in it."""
    monkeypatch.setattr(module, "_MANY", 10)
    numbers = Numbers(PROCESS)
    for index in range(1, 101):
        for source in (b"busy", b"%d" % index):
            numbers.last[source][0] = index
    table = numbers.table()
    assert len(table) < 30
    assert table[b"busy"] == table[b"100"] == 100


def test_wait_until() -> None:
    """It waits for the condition, but not longer than the time."""
    answers = iter([False, False, True])
    assert wait_until(lambda: next(answers), 60)
    assert not wait_until(lambda: False, 0.01)
