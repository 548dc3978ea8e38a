"""Messages to many: each form is made once."""

from __future__ import annotations

from django_wsmux.protocol.frames import BINARY, TEXT
from django_wsmux.protocol.prepared import (
    PagedMessage,
    PreparedMessage,
    SingleMessage,
    frames_of,
    prepare,
)


class Framing:
    """Notes what it is given."""

    threshold = 0

    def __init__(self, key: str | None) -> None:
        self.key = key
        self.seen: list[tuple[SingleMessage, str, str]] = []

    def encode(self, prepared: SingleMessage, group: str, position: str) -> bytes:
        """Return a new object each time."""
        self.seen.append((prepared, group, position))
        return bytearray(prepared.payload)  # type: ignore[return-value]


def test_made_once_for_equal_keys() -> None:
    """Two framings with equal keys share what the first has made; another one makes its own."""
    message = PreparedMessage(TEXT, b"hi", "room", "e-7")
    first, same, other = Framing("a"), Framing("a"), Framing("b")
    assert message.form(first) is message.form(same) is message.form(first)
    assert message.form(other) is not message.form(first)
    assert first.seen == [(message, "room", "e-7")]
    assert not same.seen
    assert len(other.seen) == 1


def test_never_shared() -> None:
    """A framing without a key makes a frame each time that one is sent."""
    message, framing = PreparedMessage(BINARY, b"hi"), Framing(None)
    assert message.form(framing) is not message.form(framing)
    assert framing.seen == [(message, "", "")] * 2


def test_frames_of_several() -> None:
    """The frames of several messages; those below the threshold are plain."""
    messages = [PreparedMessage(TEXT, text) for text in (b"one", b"fourteen")]
    framing, plain = Framing("a"), b"".join(message.plain for message in messages)
    for _ in range(2):
        assert frames_of(messages, framing) == b"onefourteen"
    assert len(framing.seen) == 2
    assert frames_of(messages, Framing(None)) == b"onefourteen"
    framing.threshold = 4
    assert frames_of(messages, framing) == messages[0].plain + b"fourteen"
    framing.threshold = 100
    assert frames_of(messages, framing) == plain


def test_traced() -> None:
    """The trace context of the sender is kept, also for a page of a client."""
    message = prepare(TEXT, b"hi", "room", "00-a-b-01")
    assert (message.traceparent, message.group, message.message) == ("00-a-b-01", "room", "hi")
    assert PagedMessage(message, ["p1"]).traceparent == "00-a-b-01"
    assert type(prepare(TEXT, b"hi", "room", "")) is PreparedMessage
    assert PreparedMessage(TEXT, b"hi").traceparent == ""
