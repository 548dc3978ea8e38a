"""The codec against the engine of ``websockets``: frame by frame, both find the same.

Compared are messages, control frames, and the close code when the connection fails. In the other
direction, each message, sent as the server would, must arrive unchanged at the engine's client.

Deliberate differences, each allowed only where it applies:

1. A length that is not in its shortest form is 1002 (RFC 6455 section 5.2); the engine accepts it.
2. If a header breaks a rule and also announces too much, or the highest bit of its length is set,
   the codec fails with 1002; the engine checks the size first and fails with 1009.
3. The engine applies the limit to control frames too, less the fragments before them.
4. The engine fails a close frame between fragments with 1002; section 5.4 allows it.
5. The engine leaves reassembly and the check of UTF-8 to its callers: ``Engine`` adds them.
6. The engine adds the compressed bytes of one fragment to the inflated ones of those before it.
   The codec limits both sums, each by itself, and compressed bytes to the most that a message of
   the limit's size may take. ``_Reference`` counts them, and the engine has no limit of its own if
   messages may be compressed. Data that inflates beyond the limit and is broken after it is 1009
   in the codec, 1002 in the engine.
7. If a compressed payload ends in the middle of a block, the tail of RFC 7692 section 7.2.2 is
   read as its data. From 2,044 bytes on the engine reports this as too big, below it does not.
8. With context takeover, after a stream has ended (section 7.2.3.4) the engine inflates nothing
   more, and each later message is empty; the codec starts a new stream.
9. If a close frame has a code that must not be sent and a reason that is not UTF-8, the codec
   fails with 1002, the engine with 1007.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from websockets.exceptions import PayloadTooBig
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from django_wsmux.protocol.deflate import FLUSH, Compressor, Deflate, max_deflated_size
from django_wsmux.protocol.events import Control, Failure
from django_wsmux.protocol.frames import CLOSE, RSV1, TEXT, CloseCode, encode_message
from django_wsmux.protocol.prepared import PreparedMessage
from tests.protocol.test_codec import frame, header
from tests.protocol.test_codec_streams import Engine

from .choices import Choices
from .streams import choose_stream
from .subject import Message, Setup, take

__all__ = ["check"]

#: Bytes of a stream after which nothing is added.
_MOST = 2**14


def check(data: bytes) -> None:
    """Try one input.

    Raises:
        AssertionError: codec and engine disagree where they should not.
    """
    choices = Choices(data)
    setup = Setup.choose(choices)
    stream = choose_stream(choices, setup.limit, setup.deflate, _MOST)
    with setup.in_force():
        messages = _check_receiving(setup, stream)
    _check_sending(setup.deflate, messages)


def _frames_in(stream: bytes, limit: int) -> Iterator[tuple[bytes, int, bool]]:
    """Yield the frames of a stream, the last one padded, as far as any implementation reads it.

    Yields:
        The frame, the size of its payload, and whether its length is in the shortest form.
    """
    position = 0
    while position < len(stream):
        head = stream[position : position + 10].ljust(10, b"\0")
        form = {126: 2, 127: 8}.get(head[1] & 0x7F, 0)
        length = int.from_bytes(head[2 : 2 + form], "big") if form else head[1] & 0x7F
        stop = position + 2 + form + 4 + min(length, limit + 125)
        data = stream[position:stop].ljust(stop - position, b"\0")
        yield data, length, 2 + form == len(header(0, length))
        position = stop


def _engine(deflate: Deflate | None, limit: int | None) -> Protocol:
    protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=limit)
    if deflate is not None:
        extension = PerMessageDeflate(
            not deflate.remote_takeover,
            not deflate.local_takeover,
            deflate.remote_bits,
            deflate.local_bits,
        )
        protocol.extensions = [extension]
    return protocol


class _Reference(Engine):
    """The engine's result for a stream, with the parts that it leaves out.

    Attributes:
        code: the code of the failure, by the rules of the engine and those of this class.
        is_last: whether nothing can be compared after this frame.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self._setup = setup
        self._announced = self._fragments = 0
        self._is_in_message = self._is_compressed = False
        self._protocol = _engine(setup.deflate, None if setup.deflate else setup.limit)
        self.code: int | None = None
        self.is_last = False

    def take(self, data: bytes, length: int) -> None:
        """Pass one whole frame, with a payload of this size."""
        is_data = not data[0] & 0x8
        most = max(self._setup.limit, 125)
        announced = 0
        if is_data:
            if not self._is_in_message:
                self._announced = self._fragments = 0
                is_marked = bool(data[0] & RSV1)
                self._is_compressed = is_marked and self._setup.deflate is not None
            self._announced += length
            announced, most = self._announced, self._setup.limit
            if self._is_compressed:
                most = max_deflated_size(most)
                announced -= self._fragments * FLUSH
            self._fragments += 1
        if length > most or announced > most:
            # Difference 2.
            is_legal = is_data and not length >> 63 and self._is_legal(data)
            self.code = CloseCode.MESSAGE_TOO_BIG if is_legal else CloseCode.PROTOCOL_ERROR
            return
        self.receive(data)
        if is_data:
            self._is_in_message = not data[0] & 0x80
        error = self._protocol.parser_exc
        if self.failed and error is not None:
            assert self._protocol.close_sent is not None
            self.code = self._protocol.close_sent.code
        elif is_data and len(self._data) > self._setup.limit:
            self.code = CloseCode.MESSAGE_TOO_BIG
            if data[0] & 0x80 and not self.failed:
                self.messages.pop()
        elif self.failed:
            self.code = CloseCode.INVALID_DATA
        # Differences 3, 7 and 8.
        self.is_last = (
            self.stricter
            or (length >= 2044 and isinstance(error, PayloadTooBig))
            or (data[0] & 0x88 == 0x80 and self._has_ended)
        )

    def _is_legal(self, data: bytes) -> bool:
        """Return whether an engine in the same state accepts the frame without its payload."""
        protocol = _engine(self._setup.deflate, None)
        if self._is_in_message:
            protocol.receive_data(frame(TEXT, fin=False))
        protocol.receive_data(bytes((data[0], data[1] & 0x80)) + bytes(4))
        return protocol.parser_exc is None

    @property
    def _has_ended(self) -> bool:
        """Whether the stream that inflates messages has had its last block."""
        decoders = (getattr(each, "decoder", None) for each in self._protocol.extensions)
        return any(decoder is not None and decoder.eof for decoder in decoders)


def _check_receiving(setup: Setup, stream: bytes) -> list[Message]:
    codec, reference = setup.codec(), _Reference(setup)
    messages, controls = list[Message](), list[Control]()
    for data, length, is_shortest in _frames_in(stream, setup.limit):
        controls += take(codec, data, messages)
        failures = [control.code for control in controls if isinstance(control, Failure)]
        if not is_shortest:  # difference 1
            assert failures == [CloseCode.PROTOCOL_ERROR]
            break
        reference.take(data, length)
        if _is_excused(setup, data, [*failures, reference.code]):
            break
        if reference.is_last and reference.code == CloseCode.MESSAGE_TOO_BIG:  # 3 and 7
            break
        assert messages == reference.messages
        assert [each for each in controls if not isinstance(each, Failure)] == reference.controls
        assert failures == [code for code in [reference.code] if code is not None]
        if failures or reference.is_last or data[0] & 0x0F == CLOSE:
            break
    return messages


def _is_excused(setup: Setup, data: bytes, codes: list[int | None]) -> bool:
    """Return whether the codes may differ, as a frame breaks two rules."""
    if codes == [CloseCode.MESSAGE_TOO_BIG, CloseCode.PROTOCOL_ERROR]:
        return setup.deflate is not None  # difference 6
    is_close = data[0] & 0x0F == CLOSE
    return is_close and codes == [CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA]  # 9


def _sent(deflate: Deflate | None, messages: Iterable[Message]) -> Iterator[bytes]:
    """Yield the frames of messages as ``connection/`` sends them."""
    compressor = None if deflate is None else Compressor(deflate)
    for message in messages:
        prepared = PreparedMessage(*encode_message(message))
        yield prepared.plain if compressor is None else prepared.form(compressor)


def _check_sending(deflate: Deflate | None, messages: list[Message]) -> None:
    client = Protocol(Side.CLIENT, state=State.OPEN, max_size=None)
    if deflate is not None:
        client.extensions = [
            PerMessageDeflate(
                not deflate.local_takeover,
                not deflate.remote_takeover,
                deflate.local_bits,
                deflate.remote_bits,
            )
        ]
    for data in _sent(deflate, messages):
        client.receive_data(data)
    assert client.parser_exc is None
    received: list[Any] = client.events_received()
    assert [_message(each) for each in received] == messages


def _message(event: Frame) -> Message:
    assert event.fin
    return bytes(event.data).decode() if event.opcode is Opcode.TEXT else bytes(event.data)
