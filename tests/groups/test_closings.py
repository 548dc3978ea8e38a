"""Closes of groups are remembered for handshakes under way."""

from __future__ import annotations

import pytest

from django_wsmux.groups import closings
from django_wsmux.groups.closings import Closings


def test_since() -> None:
    """A handshake sees closes of its own groups since it began; the last one counts."""
    closings = Closings()
    closings.add("a", 4000, "too early")
    closings.begin("first")
    assert closings.since("first", ["a"]) is None
    closings.add("a", 4001, "one")
    closings.begin("second")
    closings.add("b", 4002, "two")
    closings.add("b", 4003, "three")
    assert closings.since("first", ["c", "a"]) == (4001, "one")
    assert closings.since("first", ["b"]) == (4003, "three")
    assert closings.since("second", ["a"]) is None
    assert closings.since("second", ["a", "b"]) == (4003, "three")
    assert closings.since("first", []) is None


def test_end() -> None:
    """An ended handshake sees nothing; ending it twice, or without begin(), is no error."""
    closings = Closings()
    closings.end("first")
    closings.begin("first")
    closings.add("a", 4000, "")
    closings.end("first")
    closings.end("first")
    assert closings.since("first", ["a"]) is None


def test_forgets() -> None:
    """Closes that no handshake can ask for are not kept."""
    closings = Closings()
    closings.add("a", 4000, "")
    assert not closings._closes
    closings.begin("first")
    closings.add("a", 4000, "")
    closings.begin("second")
    closings.add("b", 4000, "")
    closings.add("a", 4000, "")
    closings.end("first")
    closings.add("c", 4000, "")
    assert list(closings._closes) == ["b", "a", "c"]
    closings.end("second")
    closings.add("d", 4000, "")
    assert not closings._closes


def test_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake that never ends does not keep all closes: it is refused instead."""
    monkeypatch.setattr(closings, "_MOST", 2)
    own = Closings()
    own.begin("slow")
    for name in "abc":
        own.add(name, 4000, name)
    own.begin("quick")
    assert list(own._closes) == ["b", "c"]
    assert own.since("slow", ["c"]) == (4000, "c")
    assert own.since("slow", ["a"]) == (1013, "the session may have ended")
    assert own.since("slow", []) is None
    own.add("d", 4000, "d")
    assert own.since("quick", ["a"]) is None


def test_lose() -> None:
    """A handshake during which closes may have been missed must be tried again."""
    own = Closings()
    own.begin("first")
    own.add("a", 4000, "heard")
    own.lose()
    own.begin("second")
    assert own.since("first", ["b"]) == (1013, "the session may have ended")
    assert own.since("first", []) is None
    assert own.since("second", ["a", "b"]) is None
    own.add("a", 4001, "again")
    assert own.since("first", ["a"]) == own.since("second", ["a"]) == (4001, "again")
