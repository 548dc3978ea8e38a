"""Bytes to messages: properties of random streams."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Iterable, Iterator
from itertools import pairwise
from operator import itemgetter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from django_wsmux.protocol import codec as codec_module
from django_wsmux.protocol.codec import Codec
from django_wsmux.protocol.events import Closed, Control, Failure, Ping, Pong
from django_wsmux.protocol.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close_payload,
)
from tests.support import TIMES

from .test_codec import LIMIT, Message, frame, header, receive, receive_as_read

pytestmark = pytest.mark.usefixtures("unmasking")

settings.register_profile("codec", deadline=None, max_examples=50 * TIMES, database=None)
quick = settings(settings.get_profile("codec"))

Talk = tuple[bytes, list[Message], list[Control]]

cuts = st.lists(st.integers(0, 2**16), max_size=4)
read_sizes = st.lists(st.integers(1, 200), min_size=1, max_size=5)
masks = st.binary(min_size=4, max_size=4)
texts = st.text(max_size=8) | st.sampled_from([125, 126, LIMIT]).map("x".__mul__)
binaries = st.binary(max_size=8) | st.sampled_from([125, 126, LIMIT]).map(bytes)
control_payloads = st.binary(max_size=8) | st.just(b"x" * 125)
pings_and_pongs = st.builds(Ping, control_payloads) | st.builds(Pong, control_payloads)


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    """Cut data at these positions, which wrap around; pieces may be empty."""
    positions = sorted(position % (len(data) + 1) for position in at)
    return [data[start:stop] for start, stop in pairwise([0, *positions, len(data)])]


@st.composite
def talks(draw: st.DrawFn) -> Talk:
    """Return a valid stream, and its messages and control frames."""
    stream, messages, controls = b"", draw(st.lists(texts | binaries, max_size=4)), list[Control]()
    for message in messages:
        opcode = TEXT if isinstance(message, str) else BINARY
        parts = cut(message.encode() if isinstance(message, str) else message, draw(cuts))
        for last, part in enumerate(parts, 1 - len(parts)):
            stream += frame(opcode, part, fin=last == 0, mask=draw(masks))
            opcode = CONTINUATION
            for control in draw(st.lists(pings_and_pongs, max_size=1)):
                stream += frame(PING if isinstance(control, Ping) else PONG, control.payload)
                controls.append(control)
    if draw(st.booleans()):
        closed = Closed(draw(st.integers(3000, 4999)), draw(st.text(max_size=30)))
        stream += frame(CLOSE, close_payload(closed.code, closed.reason)) + draw(st.binary())
        controls.append(closed)
    return stream, messages, controls


def loose_frame(first: int, payload: bytes, form: int) -> bytes:
    """Return a frame that may break the rules.

    ``form`` is the number of bytes of its length; 0 is the shortest form.
    """
    if form == 0:
        return bytes((first,)) + frame(0, payload)[1:]
    length = (b"\xfe" if form == 2 else b"\xff") + len(payload).to_bytes(form, "big")
    return bytes((first,)) + length + bytes(4) + payload


def mutate(talk: Talk, changes: Iterable[tuple[int, int]]) -> bytes:
    """Return a valid stream with some of its bytes changed."""
    stream = bytearray(talk[0])
    for position, change in changes:
        if stream:
            stream[position % len(stream)] ^= change
    return bytes(stream)


first_bytes = st.sampled_from(bytes.fromhex("81 82 01 02 80 00 88 89 8a" * 3 + "09 c1 83 8b"))
close_bodies = st.builds(
    lambda code, reason: code.to_bytes(2, "big") + reason,
    st.sampled_from([999, 1000, 1004, 1014, 1015, 3000, 5000]),
    st.binary(max_size=4),
)
lengths = st.sampled_from([125, 126, LIMIT // 2, LIMIT - 125, LIMIT, LIMIT + 1])
payloads = st.binary(max_size=8) | texts.map(str.encode) | close_bodies | lengths.map(bytes)
loose_frames = st.builds(loose_frame, first_bytes, payloads, st.sampled_from([0] * 8 + [2, 8]))
changes = st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), min_size=1, max_size=3)
streams = st.one_of(
    st.binary(max_size=40),
    st.lists(loose_frames, max_size=8).map(b"".join),
    st.builds(mutate, talks(), changes),
)


class TestAnyCut:
    """The result does not depend on how the bytes are cut."""

    @quick
    @given(talks(), cuts)
    def test_valid(self, talk: Talk, at: list[int]) -> None:
        """A valid stream is its messages and control frames: whole, byte by byte and in pieces."""
        stream, *expected = talk
        for pieces in ([stream], cut(stream, range(len(stream))), cut(stream, at)):
            assert receive(*pieces) == tuple(expected)

    @quick
    @given(streams, cuts)
    def test_arbitrary(self, stream: bytes, at: list[int]) -> None:
        """Any bytes come to the same end: no exception, and a code that can be sent to the peer."""
        whole = receive(stream)
        assert receive(*cut(stream, range(len(stream)))) == whole
        assert receive(*cut(stream, at)) == whole
        for control in whole[1]:
            if isinstance(control, Failure):
                close_payload(control.code, control.reason)

    @quick
    @given(streams | talks().map(itemgetter(0)), read_sizes)
    def test_as_read(self, stream: bytes, sizes: list[int]) -> None:
        """Large frames that are read into a buffer of their own come to the same end."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(codec_module, "LARGE", 64)
            assert receive_as_read(stream, sizes) == receive(stream)


def frames_in(stream: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield the frames of a stream, the last one padded, and whether each length is shortest."""
    while stream:
        padded = stream + bytes(14 + LIMIT)
        form = {126: 2, 127: 8}.get(padded[1] & 0x7F, 0)
        length = int.from_bytes(padded[2 : 2 + form], "big") if form else padded[1] & 0x7F
        size = 2 + form + 4 + length
        yield padded[:size], 2 + form == len(header(0, length))
        stream = stream[size:]


class Engine:
    """The engine of ``websockets``, with reassembly and the check of UTF-8, which it lacks."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.controls: list[Control] = []
        self.failed = self.stricter = False
        self._protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=LIMIT)
        self._opcode, self._data = Opcode.CONT, b""

    def receive(self, data: bytes) -> None:
        """Pass one whole frame to the engine."""
        self._protocol.receive_data(data)
        error = self._protocol.parser_exc
        self.failed = error is not None
        # It limits control frames too, by what the fragments before them have left.
        self.stricter = data[0] & 0x8 > 0 and isinstance(error, PayloadTooBig)
        for event in self._protocol.events_received():
            assert isinstance(event, Frame)
            self._take(event)
        if self._protocol.close_rcvd is not None:
            # It fails a close frame between fragments with 1002, which section 5.4 allows.
            self.failed = False
            close = self._protocol.close_rcvd
            self.controls.append(Closed(close.code, close.reason))

    def _take(self, event: Frame) -> None:
        if event.opcode is Opcode.PING:
            self.controls.append(Ping(bytes(event.data)))
        elif event.opcode is Opcode.PONG:
            self.controls.append(Pong(bytes(event.data)))
        elif event.opcode is not Opcode.CLOSE:
            self._take_data(event)

    def _take_data(self, event: Frame) -> None:
        if event.opcode is not Opcode.CONT:
            self._opcode, self._data = event.opcode, b""
        self._data += event.data
        message: Message = self._data
        if self._opcode is Opcode.TEXT:
            try:
                message, _ = utf_8_decode(self._data, "strict", event.fin)
            except UnicodeDecodeError:
                self.failed = True
                return
        if event.fin:
            self.messages.append(message)


class TestAgainstEngine:
    """The engine of ``websockets`` finds the same messages and the same end."""

    @quick
    @given(streams | talks().map(itemgetter(0)))
    def test_same(self, stream: bytes) -> None:
        """After every frame, messages, control frames and failure are the same."""
        codec, engine, messages, controls = Codec(LIMIT), Engine(), list[Message](), list[Control]()
        for data, shortest in frames_in(stream):
            controls += codec.receive(data, messages)
            failures = [control for control in controls if isinstance(control, Failure)]
            if not shortest:  # which the engine accepts
                assert [failure.code for failure in failures] == [1002]
                break
            engine.receive(data)
            if engine.stricter:
                break
            assert messages == engine.messages
            assert controls == engine.controls + failures
            assert engine.failed == bool(failures)
            if failures or data[0] & 0xF == CLOSE:
                break
