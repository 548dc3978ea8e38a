"""The codec with any bytes, in any pieces.

* It never raises, and its failures can be sent to the peer.
* However the bytes are cut, also when a large frame is read into a buffer of its own, the messages
  and the end are the same.
* It never holds more than a small multiple of the limit; see ``memory_bound()``.
"""

from __future__ import annotations

import tracemalloc

from django_wsmux.protocol.events import Closed, Control, Failure

from .choices import Choices
from .streams import choose_stream
from .subject import CUTS, Message, Setup, assert_sound, feed, feed_as_read, pieces_of

__all__ = ["check", "memory_bound"]

#: The maximum number of pieces; streams of at most this many bytes are cut into single bytes.
_PIECES = 2048

#: Bytes of a stream after which nothing is added.
_MOST = 2**17

#: Bytes that observers may allocate meanwhile: atheris, coverage.
_SLACK = 2**15


def check(data: bytes) -> None:
    """Try one input.

    Raises:
        AssertionError: the codec breaks a promise.
    """
    choices = Choices(data)
    setup = Setup.choose(choices)
    sizes = [choices.one_of(CUTS) for _ in range(3)]
    measure = choices.number(4) == 3
    stream = choose_stream(choices, setup.limit, setup.deflate, _MOST)
    least = 1 + len(stream) // _PIECES
    sizes = [size * least for size in sizes]
    with setup.in_force():
        if measure:
            _check_memory(setup, stream, sizes)
        else:
            _check_cuts(setup, stream, [least], sizes)


def _check_cuts(setup: Setup, stream: bytes, *cuts: list[int]) -> None:
    codec, messages = setup.codec(), list[Message]()
    whole = messages, feed(codec, [stream], messages)
    assert_sound(whole, setup.limit)
    if _is_finished(whole[1]):
        # Section 1.4: bytes that follow are discarded.
        after = list[Message]()
        assert feed(codec, [stream], after) == []
        assert after == []
    for sizes in cuts:
        messages = []
        controls = feed(setup.codec(), pieces_of(stream, sizes), messages)
        assert (messages, controls) == whole, f"cut into {sizes}"
        assert_sound((messages, controls), setup.limit)
        messages = []
        controls = feed_as_read(setup.codec(), stream, sizes, messages)
        assert (messages, controls) == whole, f"read by {sizes}"


def _is_finished(controls: list[Control]) -> bool:
    return bool(controls) and isinstance(controls[-1], Closed | Failure)


class _Unkept:
    """Takes messages and keeps only the sum of their sizes."""

    def __init__(self) -> None:
        self.size = 0

    def __len__(self) -> int:
        return 0

    def append(self, message: Message) -> None:
        """Count a message."""
        self.size += len(message)

    def pop(self) -> object:
        """Return the last message, which no test requests."""
        raise NotImplementedError


def memory_bound(limit: int, size: int) -> int:
    """Return how many bytes a codec may hold at any time, including its work on one piece.

    Args:
        limit: the limit on a message's size.
        size: the size of the piece of the stream.
    """
    # At the worst moment these are a large frame, its unmasked payload, the inflated payload, and
    # the text twice, with up to 4 bytes for a character that was one on the wire: 8.0 was measured.
    message = 9 * limit
    # A ping of 6 bytes becomes two objects; the rest of a piece is copied.
    piece = 20 * size
    # The stream that inflates has a window of 32 KiB and tables; the rest is the codec.
    return message + piece + 2**16 + _SLACK


def _check_memory(setup: Setup, stream: bytes, sizes: list[int]) -> None:
    messages = _Unkept()
    pieces = pieces_of(stream, sizes)
    tracemalloc.start()
    try:
        codec = setup.codec()
        before, _ = tracemalloc.get_traced_memory()
        for piece in pieces:
            tracemalloc.reset_peak()
            messages.size, controls = 0, codec.receive(piece, messages)
            # Each call returns the messages that were sent, or those of one limit inflated and one
            # more.
            assert messages.size <= 2 * setup.limit + len(piece)
            while codec.is_suspended:
                messages.size, controls = 0, codec.receive(b"", messages)
                assert messages.size <= 2 * setup.limit + len(piece)
            peak = tracemalloc.get_traced_memory()[1] - before
            bound = memory_bound(setup.limit, len(piece))
            assert peak <= bound, f"{peak} bytes held, {bound} allowed"
            if _is_finished(controls):
                del controls
                held = tracemalloc.get_traced_memory()[0] - before
                assert held <= _SLACK, f"{held} bytes held after the end"
    finally:
        tracemalloc.stop()
