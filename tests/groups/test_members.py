"""The members of groups in this process."""

from __future__ import annotations

from typing import Any

import pytest

from django_wsmux.connection.counters import counters
from django_wsmux.groups.members import Members, name_of, prefix_of
from django_wsmux.protocol.prepared import PreparedMessage


class Socket:
    """Records its calls."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def deliver(self, message: PreparedMessage) -> None:
        """Keep a message."""
        self.told.append(message)

    def close_from_group(self, code: int, reason: str) -> None:
        """Keep a close."""
        self.told.append((code, reason))


@pytest.fixture
def members() -> Any:
    """No members yet."""
    return Members()


def test_join_and_leave(members: Any) -> None:
    """A group exists while it has members, which are listed in the order in which they joined."""
    one, two, three = Socket(), Socket(), Socket()
    assert members.add("room", one) is True
    assert members.add("room", one) is False
    assert members.add("room", two) is False
    assert members.add("room", three, {"name": "three"}) is False
    assert members.of("room") == [one, two, three]
    assert members.info("room", three) == {"name": "three"}
    assert members.discard("room", two) is False
    assert members.discard("room", two) is False
    assert not members.has("room", two)
    assert members.discard("room", one) is False
    assert members.has("room", three)
    assert members.discard("room", three) is True
    assert members.discard("room", three) is False
    assert members.of("room") == []
    assert members.info("room", three) is None


def test_names(members: Any) -> None:
    """Groups of users have no sizes; a name may have several prefixes."""
    for key in ("room", ("a", "room"), ("a", "@user.7"), "other"):
        members.add(key, Socket())
    assert members.sizes() == [("room", 1), (("a", "room"), 1), ("other", 1)]
    assert [(prefix_of(key), name_of(key)) for key in members.groups()] == [
        ("", "room"),
        ("a", "room"),
        ("a", "@user.7"),
        ("", "other"),
    ]


def test_deliver(members: Any) -> None:
    """A message reaches all members but those excluded, and each delivery counts."""
    one, two, other = Socket(), Socket(), Socket()
    for socket in (one, two):
        members.add("room", socket)
    members.add("other", other)
    before = counters["group_messages"], counters["group_deliveries"]
    message = PreparedMessage(1, b"hello")
    members.deliver("room", message)
    members.deliver("room", message, {one})
    members.deliver("nowhere", message)
    assert (one.told, two.told, other.told) == ([message], [message, message], [])
    assert counters["group_messages"] == before[0] + 2
    assert counters["group_deliveries"] == before[1] + 3


def test_close(members: Any) -> None:
    """A close reaches all members of one group."""
    one, other = Socket(), Socket()
    members.add("room", one)
    members.add("other", other)
    members.close("room", 4000, "bye")
    assert (one.told, other.told) == ([(4000, "bye")], [])


def test_disown(members: Any) -> None:
    """A forked child has no members, even if another thread held the lock."""
    members.add("room", Socket(), {"name": "one"})
    members._lock.acquire()
    members.disown()
    assert members.of("room") == []
    assert members.add("room", Socket()) is True
