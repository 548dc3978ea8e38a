"""Questions to all processes, and the count of their answers."""

from __future__ import annotations

from django_wsmux.backends.request_reply import (
    PendingRequest,
    pack_answer,
    pack_question,
    unpack_answer,
)

ASKER = b"a" * 16


def test_packets() -> None:
    """An answer names its asker and the number of its question; no text differs from none."""
    question = pack_question(7, b"who?")
    assert question[PendingRequest.HEAD :] == b"who?"
    assert unpack_answer(pack_answer(ASKER, question, b"me")) == (ASKER, 7, b"me")
    assert unpack_answer(pack_answer(ASKER, question, b"")) == (ASKER, 7, b"")
    assert unpack_answer(pack_answer(ASKER, question, None)) == (ASKER, 7, None)


def test_number_of_answers() -> None:
    """With a known number, the wait ends with the last answer; our own echo counts."""
    pending = PendingRequest()
    pending.add(b"1", b"one")
    pending.expect(4)
    pending.add(b"2", None)
    pending.add(b"2", b"again")
    assert pending.wait(0) is False
    assert pending.replies().missing == 2
    pending.echo()
    pending.add(b"3", b"three")
    assert pending.wait(0) is True
    assert pending.replies() == [b"one", b"three"]
    assert pending.replies().missing == 0


def test_set_of_processes() -> None:
    """With known processes, only their answers count."""
    pending = PendingRequest()
    pending.expect({b"1", b"2"})
    pending.add(b"3", b"new")
    pending.add(b"1", b"one")
    assert pending.wait(0) is False
    assert pending.replies().missing == 1
    pending.add(b"2", None)  # it has died
    assert pending.wait(0) is True


def test_unknown() -> None:
    """While the processes are unknown, the missing ones are unknown, too."""
    pending = PendingRequest()
    pending.add(b"1", b"one")
    assert pending.wait(0) is False
    assert pending.replies() == [b"one"]
    assert pending.replies().missing is None
