"""Numbered messages, and the streams of groups."""

from __future__ import annotations

import pytest
from django.test import override_settings

from django_wsmux.groups.envelope import Envelope, excluding
from django_wsmux.groups.numbered import NumberedMessage, is_of, most_of, numbered_of, stream_of
from django_wsmux.history.store import Keep, Stream
from django_wsmux.protocol.frames import TEXT
from django_wsmux.protocol.positions import Position
from django_wsmux.protocol.prepared import PagedMessage, PreparedMessage

pytestmark = pytest.mark.usefixtures("history")


def test_message() -> None:
    """A message knows its number, and the clients that do not get it."""
    where = Position("a.1", 7)
    envelope = Envelope(TEXT, "room.1", b"hi", excluding(("x", "y.2")))
    message = NumberedMessage("room.1", where, envelope, 5.0)
    assert (message.epoch, message.offset, message.position) == ("a.1", 7, "a.1-7")
    assert message.excluded == ("x", "y.2")
    assert (message.sent, message.group, message.message) == (5.0, "room.1", "hi")
    assert NumberedMessage("room.1", where, Envelope(TEXT, "room.1", b""), 5.0).excluded == ()


def test_of_a_group() -> None:
    """The message behind a frame, if it is of the group, also for some pages only."""
    message = NumberedMessage("room.1", Position("a.1", 7), Envelope(TEXT, "room.1", b""), 5.0)
    assert numbered_of("room.1", message) is message
    assert numbered_of("room.1", PagedMessage(message, ["1"])) is message
    assert not is_of(("tenant", "room.1"), message)
    assert not is_of("room.1", PreparedMessage(TEXT, b"", "room.1"))


def test_streams() -> None:
    """The name of a stream contains the prefix; users have one channel."""
    keep = Keep(5, 600)
    assert stream_of("room.1") == Stream("room.1", keep, "room.1")
    assert stream_of(("t", "room.1")) == Stream("t\x1froom.1", keep, "t\x1froom.1")
    assert stream_of("@user:1") == Stream("@user:1", keep, "@people")
    assert stream_of("other") is None
    assert stream_of("@session:1") is None


def test_most() -> None:
    """The messages that a client may get are limited by the group and for all groups."""
    for most, expected in ((100, 5), (3, 3), (100, 5)):
        with override_settings(WEBSOCKET_HISTORY_LIMIT=most):
            assert most_of("room.1") == expected
            assert most_of("other") == 1
