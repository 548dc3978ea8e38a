"""The codec: whatever a peer sends, in whatever pieces.

* It never raises, and what it reports can be told to the peer.
* However the bytes are cut, also when a large frame is read to its own space, the same messages
  and the same end come out.
* It never holds more than a small multiple of the limit, and never more than that at a time
  for what it hands over; see ``memory_bound()``.
"""

from __future__ import annotations

import tracemalloc

from django_wsmux.protocol.events import Closed, Control, Failure

from .choices import Choices
from .streams import choose_stream
from .subject import CUTS, Message, Setup, assert_sound, feed, feed_as_read, pieces_of

__all__ = ["check", "memory_bound"]

#: Pieces that a stream is cut into at most: up to so many bytes it is given one by one.
_PIECES = 2048

#: Bytes of a stream at which no more is added.
_MOST = 2**17

#: Bytes that whoever watches may allocate meanwhile: atheris, coverage.
_SLACK = 2**15


def check(data: bytes) -> None:
    """Try one input.

    Raises:
        AssertionError: it makes the codec break a promise.
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
        # Section 1.4: what follows is discarded.
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
    """Takes messages and keeps none but their sum."""

    def __init__(self) -> None:
        self.size = 0

    def __len__(self) -> int:
        return 0

    def append(self, message: Message) -> None:
        """Take one."""
        self.size += len(message)

    def pop(self) -> object:
        """Give the last one back, which nobody asks for here."""
        raise NotImplementedError


def memory_bound(limit: int, size: int) -> int:
    """Return how many bytes a codec may hold at any time, its work on one piece included.

    Args:
        limit: of a message's size.
        size: of the piece of the stream that it is given.
    """
    # At the worst moment a large frame, its payload unmasked, what that inflates to, and the text
    # twice, with up to 4 bytes for a character that was one on the wire: 8.0 was measured.
    message = 9 * limit
    # A ping of 6 bytes becomes two objects; what is cut off a piece is a copy.
    piece = 20 * size
    # The stream that inflates has a window of 32 KiB and its tables; then there is the codec.
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
            # Each call hands over what was sent, or one message's worth inflated and one more.
            assert messages.size <= 2 * setup.limit + len(piece)
            while codec.is_held:
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
