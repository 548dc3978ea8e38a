"""The codec under test: how to create it, how to feed it, and what must be true of the result.

Only this file depends on the codec's interface.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle

from django_wsmux.protocol import codec as codec_module
from django_wsmux.protocol.codec import Codec
from django_wsmux.protocol.deflate import Compression, Deflate, negotiate
from django_wsmux.protocol.events import Closed, Control, Failure
from django_wsmux.protocol.frames import close_payload

from .choices import Choices

__all__ = [
    "CUTS",
    "DEFLATES",
    "LIMITS",
    "Message",
    "Result",
    "Setup",
    "assert_sound",
    "feed",
    "feed_as_read",
    "pieces_of",
    "take",
]

Message = str | bytes
Result = tuple[list[Message], list[Control]]

#: Limits on a message's size, around each place where the form of a length changes.
LIMITS = (300, 1, 10, 125, 126, 4096, 65536, 70_000)

#: Sizes of reads to choose from.
CUTS = (1, 2, 3, 5, 7, 14, 50, 64, 65, 127, 200, 1000, 4096, 65536)


def _agreed(offer: str, compression: Compression) -> Deflate:
    result = negotiate(offer, compression)
    assert result is not None
    return result[1]


_NAME = "permessage-deflate"
_KEEPING = Compression(threshold=0, context_takeover=True)

#: Possible agreements: none, each combination of context takeover, the smallest windows.
DEFLATES: tuple[Deflate | None, ...] = (
    None,
    _agreed(_NAME, Compression(threshold=0)),
    _agreed(_NAME, _KEEPING),
    _agreed(f"{_NAME}; client_no_context_takeover", _KEEPING),
    _agreed(f"{_NAME}; server_no_context_takeover", _KEEPING),
    _agreed(
        f"{_NAME}; client_max_window_bits=9", Compression(0, window_bits=9, context_takeover=True)
    ),
)


@dataclass(frozen=True, slots=True)
class Setup:
    """The parameters of a connection before its first byte.

    Attributes:
        limit: the limit on a message's size.
        deflate: the agreed parameters of permessage-deflate, if any.
        room: the number of messages after which the codec stops.
        large: the size from which a frame gets a buffer of its own; low, so that a fuzzer's streams
            reach it.
    """

    limit: int
    deflate: Deflate | None
    large: int
    room: int = 2**16

    @classmethod
    def choose(cls, choices: Choices) -> Setup:
        """Choose the parameters."""
        return cls(
            choices.one_of(LIMITS),
            choices.one_of(DEFLATES),
            choices.one_of((64, 2, 2**17)),
            choices.one_of((2**16, 1, 3)),
        )

    def codec(self) -> Codec:
        """Return a new codec; no other code creates one."""
        codec = Codec(self.limit, max_messages=self.room)
        codec.deflate = self.deflate
        return codec

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Apply ``large`` during the block."""
        before, codec_module.LARGE = codec_module.LARGE, self.large
        try:
            yield
        finally:
            codec_module.LARGE = before


def pieces_of(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """Cut data into pieces of these sizes, repeatedly."""
    pieces, position = list[bytes](), 0
    for size in cycle(sizes):
        if position >= len(data):
            break
        pieces.append(data[position : position + size])
        position += size
    return pieces


def take(codec: Codec, data: bytes, messages: list[Message]) -> list[Control]:
    """Pass a piece to a codec, and let it continue whenever it stops before the end."""
    waiting = list[Message]()
    controls = codec.receive(data, waiting)
    return controls + _go_on(codec, waiting, messages)


def _go_on(codec: Codec, waiting: list[Message], messages: list[Message]) -> list[Control]:
    controls = list[Control]()
    while True:
        messages += waiting
        waiting.clear()
        if not codec.is_suspended:
            return controls
        controls += codec.receive(b"", waiting)


def feed(codec: Codec, pieces: Iterable[bytes], messages: list[Message]) -> list[Control]:
    """Pass these pieces to a codec."""
    return [control for piece in pieces for control in take(codec, piece, messages)]


def feed_as_read(
    codec: Codec, stream: bytes, sizes: Sequence[int], messages: list[Message]
) -> list[Control]:
    """Pass a stream to a codec as a server does, in reads of at most these sizes.

    A large frame is read into a buffer of its own, everything else into a buffer that is reused.
    """
    controls, waiting = list[Control](), list[Message]()
    buffer, source = bytearray(max(sizes)), BytesIO(stream)
    for most in cycle(sizes):
        if codec.large is None:
            size = source.readinto(memoryview(buffer)[:most])
            message = codec.decode_single_frame(buffer, size)
            if message is None:
                controls += codec.receive(buffer, waiting, size)
            else:
                waiting.append(message)
        else:
            with codec.get_buffer() as space:
                size = source.readinto(space[:most])
            controls += codec.buffer_updated(size, waiting)
        controls += _go_on(codec, waiting, messages)
        if not size:
            return controls
    raise AssertionError("cycle() has no end")


def assert_sound(result: Result, limit: int) -> None:
    """Assert properties that hold for any stream's messages and control frames."""
    messages, controls = result
    for message in messages:
        assert type(message) in (str, bytes)
        payload = message.encode() if isinstance(message, str) else message
        assert len(payload) <= limit
    for control in controls:
        if isinstance(control, Closed | Failure):
            assert control is controls[-1]
            assert _can_be_told(control)


def _can_be_told(control: Closed | Failure) -> bool:
    """Return whether code and reason fit into a close frame to the peer."""
    try:
        close_payload(control.code, control.reason)
    except ValueError:
        return False
    return True
