"""Tracked: the memory of groups with members in this process."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

from django_wsmux.groups.numbered import stream_of
from django_wsmux.groups.tracked import Tracked
from django_wsmux.history.store import Entry, Reading
from django_wsmux.protocol.positions import Position

_GROUPS = 2000


@pytest.fixture(autouse=True)
def history() -> Iterator[None]:
    """Keep the messages of all groups."""
    with override_settings(WEBSOCKET_HISTORY={"*": {"messages": 200, "seconds": 600}}):
        yield


def begun(name: str) -> Tracked:
    """Return a group that was read, and is empty."""
    tracked = Tracked(name)
    tracked.advance(Reading("store", 1, "store.1", 7, 8), tracked.news)
    return tracked


def test_memory() -> None:
    """A group that waits for messages takes at most 200 bytes, beside its epoch and its name."""
    names = [f"room.{number}" for number in range(_GROUPS)]
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        groups = {name: begun(name) for name in names}
        gc.collect()
        size = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert size / len(groups) <= 200


def test_window_is_freed() -> None:
    """A window without messages takes no memory, and begins at the last delivered message."""
    tracked = begun("room.1")
    window = tracked.window
    assert (window.start, len(window)) == (7, 0)
    assert tracked.window is window
    tracked.drop_window()
    assert tracked.window is not window
    tracked.clear_window()
    assert tracked.window.start == 7


def test_waiting_and_behind() -> None:
    """Members are added and removed; groups without any share one empty mapping."""
    tracked, other = begun("room.1"), begun("room.2")
    one: Any = object()
    two: Any = object()
    tracked.end_waiting(one)
    tracked.end_behind(one)
    for each in (one, two):
        tracked.note_waiting(each, lambda: None)
        tracked.note_behind(each, Position("a.b", 1))
    assert list(tracked.waiting) == list(tracked.behind) == [one, two]
    assert not other.waiting
    assert not other.behind
    for each, left in ((one, [two]), (one, [two]), (two, [])):
        tracked.end_waiting(each)
        tracked.end_behind(each)
        assert list(tracked.waiting) == list(tracked.behind) == left
    empty: object = tracked.waiting
    assert tracked.behind is other.behind is empty


def test_damaged_message() -> None:
    """An entry that is not an envelope is not a message."""
    assert begun("room.1").message(Entry(8, 1.0, b"")) is None


def test_pattern_that_is_gone() -> None:
    """A group whose pattern is removed while it has members is kept nothing of."""
    tracked = begun("room.1")
    with override_settings(WEBSOCKET_HISTORY={}):
        assert stream_of("room.1") is None
        assert (tracked.stream.name, tracked.stream.keep.seconds) == ("room.1", 0.0)
    assert tracked.stream.keep.messages == 200
