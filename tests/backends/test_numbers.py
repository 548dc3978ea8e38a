"""Numbers of publications: those of this process, and what arrives of others."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from django_wsmux.backends import numbers as module
from django_wsmux.backends.numbers import Numbers, wait_until

PROCESS = bytes(range(16))


def test_threads() -> None:
    """Each thread has a source of its own, which numbers from 1."""
    numbers = Numbers(PROCESS)
    found: list[tuple[bytes, int]] = []
    begin = threading.Barrier(3)

    def draw() -> None:
        begin.wait()
        for _ in range(3):
            found.append(numbers.draw())

    threads = [threading.Thread(target=draw) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    by_source: dict[bytes, list[int]] = {}
    for source, number in found:
        by_source.setdefault(source, []).append(number)
    assert all(each == [1, 2, 3] for each in by_source.values())
    assert set(by_source) == {PROCESS + bytes((0, thread)) for thread in range(3)}
    assert numbers.table() == dict.fromkeys(by_source, 3)


def test_early() -> None:
    """A number that is drawn before the members are served counts once they are served."""
    numbers = Numbers(PROCESS)
    seen: list[Any] = []
    drawn = [numbers.draw_early() for _ in range(3)]
    source = drawn[0][0]
    assert numbers.table() == {source: 0}
    numbers.arrived(*drawn[0], "room", b"a")
    numbers.observe = lambda *what: seen.append(what)
    numbers.arrived(*drawn[1], "room", b"b")
    assert numbers.table() == {source: 2}
    assert seen == [(source, 2, "room", b"b")]


def test_forget_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table does not grow without limit; those who have sent lately stay in it."""
    monkeypatch.setattr(module, "_MANY", 10)
    numbers = Numbers(PROCESS)
    for index in range(1, 101):
        for source in (b"busy", b"%d" % index):
            if source not in numbers.last:
                numbers.forget_idle()
            numbers.last[source] = index
    table = numbers.table()
    assert len(table) < 30
    assert table[b"busy"] == table[b"100"] == 100


def test_wait_until() -> None:
    """It waits for the condition, but not longer than the time."""
    answers = iter([False, False, True])
    assert wait_until(lambda: next(answers), 60)
    assert not wait_until(lambda: False, 0.01)
