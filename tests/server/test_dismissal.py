"""Slots for sockets that open only to report a refusal."""

from __future__ import annotations

from django_wsmux.server import dismissal, limits


def test_slots() -> None:
    """There are 256 slots; each is released once, and none counts as an open socket."""
    places = limits._count
    slots = [dismissal.enter() for _ in range(256)]
    try:
        assert None not in slots
        assert dismissal.enter() is None
    finally:
        for slot in slots:
            assert slot is not None
            slot.release()
            slot.release()
    again = dismissal.enter()
    assert again is not None
    again.release()
    assert dismissal._taken == 0
    assert limits._count == places


def test_frames() -> None:
    """The frames are a close frame and, before it, a message if there is a time to return."""
    assert dismissal.frames(4404, "no", None) == b"\x88\x04\x11\x34no"
    assert dismissal.frames(1013, "", 7.5) == b'\x81\x15{"bye":{"after":7.5}}\x88\x02\x03\xf5'
