"""The C code of connections does the same as the code in Python, with real sockets."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from select import select
from struct import pack
from typing import Any

import pytest
from greenlet import GreenletExit, getcurrent, greenlet
from hypothesis import given, settings
from hypothesis import strategies as st

from django_wsmux.connection import link as link_module
from django_wsmux.connection.framing import PLAIN
from django_wsmux.connection.interfaces import CLOSED, CONNECTING, MARK, OPEN
from django_wsmux.protocol.codec import Codec
from django_wsmux.protocol.events import Control
from django_wsmux.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, encode
from django_wsmux.protocol.masking import apply_mask
from django_wsmux.transports.base import arrived
from tests.protocol.test_codec import MASK, Message, frame, header
from tests.protocol.test_speedups import SIZES, WRONG, leaked, references
from tests.support import ROOT

compiled = pytest.importorskip(
    "django_wsmux.connection._reactor",
    reason="there was no compiler when the package was installed",
)

quick = settings(deadline=None, max_examples=300, database=None)

Pair = tuple[socket.socket, socket.socket]

#: The code in Python was called.
FALLBACK = "fallback"


class Carrier:
    """Notes what C calls of a transport."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def _received(self, size: int, is_large: bool) -> None:
        assert not is_large
        self.calls.append(bytes(arrived[:size]))

    def _readable(self) -> None:
        self.calls.append("readable")

    def _close_fd(self) -> None:
        self.calls.append("closed")

    def _start_turn(self, message: Message) -> None:
        self.calls.append(("turn", message))

    def _fail(self, link: Link, error: Exception) -> None:
        self.calls.append(error)


class Limit:
    """As much of a codec as C uses."""

    def __init__(self, limit: Any) -> None:
        self.max_single_frame = limit
        self.received = b""

    def receive(self, data: bytes, messages: list[Message]) -> list[Control]:
        """Note what C has kept of a frame, and stop it."""
        self.received += data
        self.max_single_frame = -1
        return []


class Link(compiled.Link):  # type: ignore[name-defined,misc]
    """A connection whose Python only notes that it was called."""

    def __init__(self, descriptor: int = -1, limit: Any = 2**20) -> None:
        self.codec, self.hooks, self._framing = Limit(limit), None, PLAIN
        self._transport = Carrier()
        self._state, self._is_watched = OPEN, True
        self._descriptor = self._direct = descriptor
        self.messages: list[Message] = []
        self.rest: list[tuple[Message, int, int]] = []

    def message_received(self, message: Message) -> None:
        """Note a message that no view waits for."""
        self.messages.append(message)

    def _expect_large(self) -> None:
        """Do nothing."""

    def _finish_send(self, message: Message, opcode: int, sent: int) -> None:
        self.rest.append((message, opcode, sent))

    @link_module.fast_send
    def send(self, message: Any, binary: bool | None = None) -> str:
        """Return that C has passed the message on."""
        return FALLBACK

    @link_module.fast_receive
    def receive(self, timeout: float | None = None) -> str | None:
        """Return that C has passed the call on; None when closed."""
        return FALLBACK if self._state <= OPEN else None

    def __iter__(self) -> Iterator[Message]:
        return iter(link_module.messages(self))


def new(descriptor: int = -1, limit: Any = 2**20) -> Any:
    """Return a connection, for tests that give it wrong members."""
    return Link(descriptor, limit)


@pytest.fixture(autouse=True)
def _adopted() -> Iterator[None]:
    """Make the greenlet of the test the hub: the reactor belongs to one thread."""
    compiled.adopt(getcurrent(), arrived, MARK, PLAIN)
    yield
    compiled.forget()


def new_pair() -> Pair:
    """Return two ends of a connection, ours and the peer's, with large buffers."""
    ours, peers = socket.socketpair()
    for end in ours, peers:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
    ours.setblocking(False)
    peers.settimeout(30)
    return ours, peers


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Yield two ends of a connection, ours and the peer's."""
    ours, peers = new_pair()
    with ours, peers:
        yield ours, peers


@pytest.fixture(scope="module")
def shared_pair() -> Iterator[Pair]:
    """Yield two ends that many examples use, each leaving them empty."""
    ours, peers = new_pair()
    with ours, peers:
        yield ours, peers


def tcp_pair() -> Pair:
    """Return two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        peers = socket.create_connection(server.getsockname())
        ours = server.accept()[0]
    ours.setblocking(False)
    peers.settimeout(30)
    return ours, peers


def received(peers: socket.socket, size: int) -> bytes:
    """Return what has been sent to the peer."""
    data = b""
    while len(data) < size and (more := peers.recv(size - len(data))):
        data += more
    return data


def assert_silent(peers: socket.socket) -> None:
    """Assert that nothing more has been sent."""
    assert not select([peers], [], [], 0)[0]


def single(data: bytes, limit: int) -> Message | None:
    """Return the codec's message if these bytes are exactly one in one frame, at the start."""
    messages, controls = list[Message](), list[Control]()
    if limit >= 0:
        controls = Codec(limit).receive(data, messages)
    if len(messages) != 1 or controls or data[0] not in (0x80 | TEXT, 0x80 | BINARY):
        return None
    message = messages[0]
    payload = message.encode() if isinstance(message, str) else message
    return message if len(data) == len(frame(TEXT, payload)) else None


def is_kept(data: bytes, limit: int) -> bool:
    """Return whether these bytes are the beginning of one message in one frame that C keeps."""
    messages, codec = list[Message](), Codec(max(limit, 0))
    if limit < 0 or codec.receive(data, messages) or messages:
        return False
    start = {126: 8, 127: 14}.get(data[1] & 127, 6) if len(data) > 1 else 6
    if data[0] not in (0x80 | TEXT, 0x80 | BINARY) or len(data) < start:
        return False
    return data[0] & 15 == BINARY or apply_mask(data[start:], data[start - 4 : start]).isascii()


class TestReading:
    """One call for a message that comes alone."""

    def assert_same(self, pair: Pair, data: bytes, limit: int) -> None:
        """Assert that the codec finds the same in these bytes."""
        ours, peers = pair
        peers.sendall(data)
        link = new(ours.fileno(), limit)
        link._is_alive = False
        compiled.readable(link)
        expected = single(data, limit)
        if expected is not None:
            assert (link.messages, link._transport.calls) == ([expected], [])
            assert type(link.messages[0]) is type(expected)
            assert (link._bytes_in, link._is_alive) == (len(data), True)
        elif limit < 0:
            assert link._transport.calls == ["readable"]
            assert ours.recv(len(data) + 1) == data
        elif is_kept(data, limit):
            assert (link.messages, link._transport.calls, link.codec.received) == ([], [], b"")
            assert (link._bytes_in, link._is_alive) == (len(data), True)
            link._give_back()
            assert link.codec.received == data
            link._give_back()
            assert (link.codec.received, link.messages) == (data, [])
        else:
            # Unchanged, as the codec reads them once more, and counts them.
            assert (link.messages, link._transport.calls) == ([], [data])
            assert link.codec.received == b""
            assert (link._bytes_in, link._is_alive) == (0, False)

    @pytest.mark.parametrize("mask", [MASK, bytes(4), b"\xff\0\x80\x7f"])
    def test_sizes(self, shared_pair: Pair, mask: bytes) -> None:
        """A message of any size arrives, with any mask; one byte above the limit does not."""
        for size in SIZES:
            payload = bytes(range(33, 123)) * (size // 90 + 1)
            for opcode in TEXT, BINARY:
                data = frame(opcode, payload[:size], mask=mask)
                self.assert_same(shared_pair, data, size)
                self.assert_same(shared_pair, data, size - 1)

    def test_text(self, shared_pair: Pair) -> None:
        """Text of each width arrives, wherever its first wide character is."""
        for size in 0, 1, 7, 8, 31, 32, 33, 100, 4093, 4096, 8200:
            for wide in "é", "€", "😀", "é€😀" * 50:
                for text in "x" * size + wide, wide + "x" * size, "x" * size + wide + "x" * size:
                    self.assert_same(shared_pair, frame(TEXT, text.encode()), 2**20)

    @pytest.mark.parametrize("wrong", WRONG)
    def test_not_utf8(self, shared_pair: Pair, wrong: bytes) -> None:
        """Invalid text is passed on unchanged, wherever its error is."""
        for size in *range(20), 31, 32, 33, 64, 69:
            for at in range(size + 1):
                payload = b"x" * at + wrong + b"x" * (size - at)
                self.assert_same(shared_pair, frame(TEXT, payload), 1000)
        for at in 4090, 4093, 4096, 8191, 65530, 65536:
            payload = b"x" * at + wrong + "é".encode()
            self.assert_same(shared_pair, frame(TEXT, payload), 2**20)

    def test_first_bytes(self, shared_pair: Pair) -> None:
        """Only the first two bytes of a plain message are accepted: FIN, opcode, mask."""
        for first in range(256):
            for second in 0x05, 0x85:
                self.assert_same(shared_pair, bytes((first, second)) + MASK + b"Hello", 1000)
                self.assert_same(shared_pair, bytes((first, second)) + b"Hello", 1000)

    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65535])
    @pytest.mark.parametrize("form", [2, 8])
    def test_longer_forms(self, shared_pair: Pair, size: int, form: int) -> None:
        """A length that is not in its shortest form is not accepted."""
        second = b"\xfe" if form == 2 else b"\xff"
        data = b"\x82" + second + size.to_bytes(form, "big") + MASK + bytes(size)
        self.assert_same(shared_pair, data, 2**20)

    @pytest.mark.parametrize("length", [2**63, 2**63 + 1, 2**64 - 1, 2**64 - 14, 2**62])
    def test_absurd_lengths(self, shared_pair: Pair, length: int) -> None:
        """An impossible length is not either."""
        for rest in b"", MASK, MASK + b"x":
            data = b"\x82\xff" + length.to_bytes(8, "big") + rest
            self.assert_same(shared_pair, data, 2**63 - 1)

    @pytest.mark.parametrize("size", [0, 1, 125, 126, 300, 65536])
    def test_cut(self, shared_pair: Pair, size: int) -> None:
        """A frame whose head is not whole, or that is not alone, is passed on unchanged."""
        data = frame(BINARY, b"x" * size)
        for stop in {*range(1, min(len(data), 16)), len(data) - 1}:
            self.assert_same(shared_pair, data[:stop], 2**20)
        for more in b"\x81", b"\0", frame(TEXT, b"x"), frame(PING), data:
            self.assert_same(shared_pair, data + more, 2**20)

    def test_part_for_an_intercepting_view(self, pair: Pair) -> None:
        """Parts are left to Python if messages of groups may wait for the view."""
        ours, peers = pair
        link, data = new(ours.fileno()), frame(BINARY, b"x" * 300)
        link._is_intercepting = True
        peers.sendall(data[:200])
        compiled.readable(link)
        assert (link.messages, link._transport.calls) == ([], [data[:200]])
        peers.sendall(data)
        compiled.readable(link)
        assert link.messages == [b"x" * 300]

    @pytest.mark.parametrize("limit", [-1, -(2**70), 0, 2**63 - 1, 2**63, 2**70])
    def test_limits(self, shared_pair: Pair, limit: int) -> None:
        """Any number is a limit; below 0 Python reads, even an empty message."""
        for payload in b"", b"x":
            self.assert_same(shared_pair, frame(TEXT, payload), limit)

    @quick
    @given(
        opcode=st.sampled_from([TEXT, TEXT, BINARY, BINARY, CONTINUATION, CLOSE, PING, PONG, 3]),
        payload=st.binary(max_size=300)
        | st.text(max_size=200).map(str.encode)
        | st.sampled_from(SIZES).map(bytes),
        mask=st.binary(min_size=4, max_size=4),
        fin=st.sampled_from([True, True, True, False]),
        more=st.just(b"") | st.binary(max_size=8),
        short=st.just(0) | st.integers(0, 20),
        limit=st.sampled_from([0, 1, 125, 126, 300, 65535, 65536, 2**20]),
    )
    def test_differential(
        self,
        shared_pair: Pair,
        opcode: int,
        payload: bytes,
        mask: bytes,
        fin: bool,
        more: bytes,
        short: int,
        limit: int,
    ) -> None:
        """The C code agrees with the codec on all frames, cut and with bytes behind them."""
        data = frame(opcode, payload, fin=fin, mask=mask) + more
        self.assert_same(shared_pair, data[: max(len(data) - short, 1)], limit)

    @quick
    @given(data=st.binary(min_size=1, max_size=40), limit=st.integers(-1, 40))
    def test_noise(self, shared_pair: Pair, data: bytes, limit: int) -> None:
        """The C code agrees with the codec on bytes of any kind."""
        self.assert_same(shared_pair, data, limit)

    def test_reads_no_more_than_fits(self, pair: Pair) -> None:
        """Bytes that do not fit into the buffer stay in the socket."""
        ours, peers = pair
        data = frame(CONTINUATION, bytes(len(arrived)))
        sender = threading.Thread(target=peers.sendall, args=(data,))
        sender.start()
        link, found = new(ours.fileno()), b""
        while len(found) < len(data):
            compiled.readable(link)
            found = b"".join(link._transport.calls)
        sender.join()
        assert found == data
        assert max(map(len, link._transport.calls)) <= len(arrived)

    def test_end_of_stream(self, pair: Pair) -> None:
        """The end of the stream is passed on as no bytes."""
        ours, peers = pair
        peers.close()
        link = new(ours.fileno())
        compiled.readable(link)
        assert link._transport.calls == [b""]

    def test_nothing_there(self, pair: Pair) -> None:
        """The call never waits, on a blocking or non-blocking socket, and calls nothing."""
        ours, _ = pair
        link = new(ours.fileno())
        for blocks in False, True:
            ours.setblocking(blocks)
            compiled.readable(link)
        assert (link.messages, link._transport.calls) == ([], [])

    def test_lost(self, pair: Pair) -> None:
        """A reset, a closed descriptor, and one that is no socket close the connection."""
        ours, peers = tcp_pair()
        peers.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
        peers.close()
        with ours, open(__file__) as file:
            pair[0].close()
            for descriptor in ours.fileno(), file.fileno(), 2**31 - 1:
                link = new(descriptor)
                compiled.readable(link)
                assert link._transport.calls == ["closed"]

    def test_event_view(self, pair: Pair) -> None:
        """A message for an idle event view starts its turn; others are queued."""
        ours, peers = pair
        link = new(ours.fileno())
        link.is_event_driven = True
        for _ in range(2):
            peers.sendall(frame(TEXT, b"x"))
            compiled.readable(link)
        assert (link._transport.calls, link.messages) == ([("turn", "x")], ["x"])
        link._is_busy, link._inbox = False, ["waits"]
        peers.sendall(frame(TEXT, b"y"))
        compiled.readable(link)
        assert link.messages == ["x", "y"]

    @pytest.mark.parametrize("is_raised_by", ["limit", "number", "inbox", "queue", "turn"])
    def test_errors(self, pair: Pair, is_raised_by: str) -> None:
        """What Python code raises goes to the transport, with its traceback."""
        ours, peers = pair

        class Wrong:
            @property
            def max_single_frame(self) -> int:
                raise ValueError("limit")

            def __index__(self) -> int:
                raise ValueError("number")

            def __len__(self) -> int:
                raise ValueError("inbox")

        def fail(*args: object) -> None:
            raise ValueError(is_raised_by)

        link = new(ours.fileno())
        if is_raised_by == "limit":
            link.codec = Wrong()
        elif is_raised_by == "number":
            link.codec = Limit(Wrong())
        elif is_raised_by == "inbox":
            link._inbox = Wrong()
        elif is_raised_by == "queue":
            link.message_received = fail
        else:
            link.is_event_driven, link._transport._start_turn = True, fail
        peers.sendall(frame(TEXT, b"x"))
        compiled.readable(link)
        [error] = link._transport.calls
        assert (type(error), str(error)) == (ValueError, is_raised_by)
        assert error.__traceback__ is not None

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_what_ends_the_process(self, pair: Pair, kind: type[BaseException]) -> None:
        """What ends the process is not caught, nor what the report of an error raises."""
        ours, peers = pair
        link = new(ours.fileno())

        def fail(*args: object) -> None:
            raise kind

        link.message_received = fail
        peers.sendall(frame(TEXT, b"x"))
        with pytest.raises(kind):
            compiled.readable(link)
        link.codec, link._transport._fail = Limit("none"), fail
        with pytest.raises(kind):
            compiled.readable(link)
        assert link._transport.calls == []


class TestParts:
    """A plain message that arrives in parts."""

    def arrive(self, link: Any, peers: socket.socket, *parts: bytes) -> None:
        """Let parts arrive, each in one read."""
        for part in parts:
            peers.sendall(part)
            compiled.readable(link)

    @quick
    @given(
        payload=st.binary(max_size=3000)
        | st.text(max_size=600).map(str.encode)
        | st.text("abc", max_size=3000).map(str.encode)
        | st.tuples(st.integers(0, 2000), st.sampled_from([*WRONG, "é".encode()])).map(
            lambda each: b"x" * each[0] + each[1] + b"y" * 9
        ),
        opcode=st.sampled_from([TEXT, BINARY]),
        mask=st.binary(min_size=4, max_size=4),
        cuts=st.lists(st.integers(0, 3000), max_size=6),
    )
    def test_differential(
        self, shared_pair: Pair, payload: bytes, opcode: int, mask: bytes, cuts: list[int]
    ) -> None:
        """The message is that of the codec, however it was cut; what C cannot keep comes back."""
        ours, peers = shared_pair
        data, link = frame(opcode, payload, mask=mask), new(ours.fileno())
        stops = sorted({*(min(cut, len(data)) for cut in cuts), len(data)} - {0})
        parts = [data[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
        arrived_before = b""
        for number, part in enumerate(parts):
            self.arrive(link, peers, part)
            is_last = number == len(parts) - 1
            if link._transport.calls:
                # The codec gets all that came, and this part from the transport.
                assert link._transport.calls == [part]
                assert link.codec.received == arrived_before
                assert link.messages == []
                assert is_last or not is_kept(arrived_before + part, 2**20)
                return
            arrived_before += part
            assert link._bytes_in == len(arrived_before)
            if not is_last:
                assert is_kept(arrived_before, 2**20)
                assert link.messages == []
        expected = single(data, 2**20)
        assert link.messages == [expected]
        assert type(link.messages[0]) is type(expected)

    def test_more(self, pair: Pair) -> None:
        """If more than the rest arrives, the codec gets all."""
        ours, peers = pair
        link, data = new(ours.fileno()), frame(TEXT, b"x" * 100)
        self.arrive(link, peers, data[:50], data[50:] + b"\x81")
        assert (link._transport.calls, link.codec.received) == ([data[50:] + b"\x81"], data[:50])
        assert link.messages == []

    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    def test_large(self, pair: Pair, opcode: int) -> None:
        """A message larger than the buffer arrives; bytes do not take the next one along."""
        ours, peers = pair
        payload = bytes(range(128)) * 9000
        link, data = new(ours.fileno(), 2**21), frame(opcode, payload, mask=b"\xff\0\x80\x7f")
        following = [frame(TEXT, b"next")] if opcode == BINARY else []
        sender = threading.Thread(target=peers.sendall, args=(b"".join([data, *following]),))
        sender.start()
        while len(link.messages) < 1 + len(following):
            select([ours], [], [])
            compiled.readable(link)
        sender.join()
        assert link.messages[0] == (payload.decode() if opcode == TEXT else payload)
        assert link.messages[1:] == ["next"] * len(following)
        assert link._bytes_in == len(data) + len(b"".join(following))
        assert link._transport.calls == []

    def test_memory(self, pair: Pair) -> None:
        """An announced message takes at most four times the memory of what has arrived."""
        ours, peers = pair
        link = new(ours.fileno(), 2**30)
        data = header(BINARY, 2**29) + MASK + bytes(2**17)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for size in 14, 100, 5000, 2**16, 2**17:
                self.arrive(link, peers, data[link._bytes_in : size])
                held = tracemalloc.get_traced_memory()[0] - before
                assert held < 4 * size + 8000
            assert link.messages == []
            del link
            assert tracemalloc.get_traced_memory()[0] - before < 8000
        finally:
            tracemalloc.stop()

    def test_ends(self, pair: Pair) -> None:
        """The end of the stream, and a reset, are what they are elsewhere."""
        ours, peers = tcp_pair()
        with ours:
            link = new(ours.fileno())
            self.arrive(link, peers, frame(TEXT, b"x" * 100)[:50])
            peers.close()
            select([ours], [], [])
            compiled.readable(link)
            assert (link._transport.calls, link.messages) == ([b""], [])
            link._descriptor = 2**31 - 1
            compiled.readable(link)
            assert link._transport.calls == [b"", "closed"]

    def test_nothing_yet(self, pair: Pair) -> None:
        """An event without bytes changes nothing."""
        ours, peers = pair
        link, data = new(ours.fileno()), frame(BINARY, b"x" * 100)
        self.arrive(link, peers, data[:50])
        compiled.readable(link)
        self.arrive(link, peers, data[50:])
        assert (link.messages, link._bytes_in) == ([b"x" * 100], len(data))

    def test_owed(self, pair: Pair) -> None:
        """If the socket is owed a message of a group, Python goes on."""
        ours, peers = pair
        link, data = new(ours.fileno()), frame(TEXT, b"x" * 100)
        self.arrive(link, peers, data[:50])
        link._owed = 1
        self.arrive(link, peers, data[50:])
        assert (link._transport.calls, link.codec.received) == (["readable"], data[:50])
        assert ours.recv(200) == data[50:]

    @pytest.mark.parametrize("state", [CONNECTING, CLOSED])
    def test_not_open(self, pair: Pair, state: int) -> None:
        """C begins no message of a socket that is not open."""
        ours, peers = pair
        link, data = new(ours.fileno()), frame(TEXT, b"x" * 100)
        link._state = state
        self.arrive(link, peers, data[:50])
        assert link._transport.calls == [data[:50]]

    @pytest.mark.parametrize("is_raised_by", ["large", "codec", "no codec"])
    def test_errors(self, pair: Pair, is_raised_by: str) -> None:
        """What Python code raises goes to the transport."""
        ours, peers = pair

        def fail(*args: object) -> None:
            raise ValueError(is_raised_by)

        link, data = new(ours.fileno()), frame(TEXT, b"x" * 70_000 + b"\xff")
        if is_raised_by == "large":
            link._expect_large = fail
        self.arrive(link, peers, data[:70_000])
        if is_raised_by == "codec":
            link.codec.receive = fail
        elif is_raised_by == "no codec":
            del link.codec
            with pytest.raises(AttributeError):
                link._give_back()
            return
        self.arrive(link, peers, data[70_000:])
        error = link._transport.calls[0]
        assert (type(error), str(error)) == (ValueError, is_raised_by)


class TestSending:
    """One call to encode and send."""

    def assert_sent(self, pair: Pair, message: Message) -> None:
        """Assert that the frame that arrives is the one that Python makes."""
        ours, peers = pair
        is_text = isinstance(message, str)
        expected = encode(*((TEXT, message.encode()) if is_text else (BINARY, message)))  # type: ignore[union-attr]
        link = new(ours.fileno())
        assert link.send(message) is None
        assert (link._messages_out, link._bytes_out, link.rest) == (1, len(expected), [])
        assert received(peers, len(expected)) == expected
        assert_silent(peers)

    def test_sizes(self, shared_pair: Pair) -> None:
        """A message of any size and kind arrives."""
        for size in SIZES:
            self.assert_sent(shared_pair, bytes(range(256)) * (size // 256) + b"x")
            self.assert_sent(shared_pair, "x" * size)
            self.assert_sent(shared_pair, "é" * (size // 2))

    @quick
    @given(message=st.text() | st.binary() | st.sampled_from(SIZES).map(bytes))
    def test_differential(self, shared_pair: Pair, message: Message) -> None:
        """So do messages that hypothesis finds."""
        self.assert_sent(shared_pair, message)

    @pytest.mark.parametrize("size", [100, 8193])
    def test_wide_text(self, shared_pair: Pair, size: int) -> None:
        """Sending text does not make it larger in memory."""
        for character in "é", "€", "😀":
            text = character * size
            before = sys.getsizeof(text)
            self.assert_sent(shared_pair, text)
            assert sys.getsizeof(text) == before

    def test_lone_surrogates(self, pair: Pair) -> None:
        """Text that has no UTF-8 is refused, and nothing of it is sent or counted."""
        ours, peers = pair
        link = new(ours.fileno())
        for text in "\ud800", "x" * 9000 + "\udfff":
            with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
                link.send(text)
        assert_silent(peers)
        assert (link._messages_out, link._bytes_out, link.rest) == (0, 0, [])

    @pytest.mark.parametrize("message", [b"x" * 100, b"x" * 10_000, "x" * 300_000, "é" * 300_000])
    def test_full(self, pair: Pair, message: Message) -> None:
        """Python learns how many bytes C has sent, which may be none; they all arrive."""
        ours, peers = pair
        payload = message.encode() if isinstance(message, str) else message
        opcode = TEXT if isinstance(message, str) else BINARY
        expected, link, total = encode(opcode, payload), new(ours.fileno()), 0
        while not link.rest:
            link.send(message)
        [(same, kind, part)] = link.rest
        assert (same, kind) == (message, opcode)
        assert same is message
        assert 0 <= part < len(expected)
        total = link._bytes_out + part
        assert link._bytes_out == link._messages_out * len(expected)
        if part == 0:
            link.send(message)
            assert link.rest[1] == (message, opcode, 0)
        ours.close()
        found = b"".join(iter(lambda: peers.recv(2**20), b""))
        assert len(found) == total
        assert found == (expected * (total // len(expected) + 1))[:total]

    def test_part(self) -> None:
        """A stream takes a part of a large frame."""
        ours, peers = tcp_pair()
        with ours, peers:
            message, link = bytes(range(256)) * 2**16, new(ours.fileno())
            link.send(message)
            [(_, _, part)] = link.rest
            assert 0 < part < len(message) + 10
            assert received(peers, part) == encode(BINARY, message)[:part]

    def test_lost(self, pair: Pair) -> None:
        """Python learns that the connection is lost, also from a closed descriptor."""
        ours, peers = pair
        peers.close()
        descriptors = [ours.fileno(), 2**31 - 1]
        with open(__file__) as file:
            for descriptor in (*descriptors, file.fileno()):
                for message in "x", b"x" * 10_000:
                    link = new(descriptor)
                    link.send(message)
                    [(same, _, sent)] = link.rest
                    assert same is message
                    assert sent < 0
                    assert (link._messages_out, link._bytes_out) == (0, 0)

    def test_no_signal(self) -> None:
        """A peer that is gone causes no SIGPIPE, which would kill the process."""
        program = (
            "import signal\n"
            "from tests.connection.test_reactor import *\n"
            "compiled.adopt(getcurrent(), arrived, MARK, PLAIN)\n"
            "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
            "ours, peers = new_pair()\n"
            "peers.close()\n"
            "for message in 'x', 'x' * 10_000:\n"
            "    link = new(ours.fileno())\n"
            "    link.send(message)\n"
            "    print(link.rest[0][2] < 0)\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
        )
        assert said.stdout.split() == ["True", "True"]

    def test_what_python_sends(self, pair: Pair) -> None:
        """C leaves to Python what is not common; nothing is sent before that."""
        ours, peers = pair
        link = new(ours.fileno())
        wrapper: Any = Link.send
        message: Any
        for message in (
            *(None, 1, [], bytearray(b"x"), memoryview(b"x")),
            *(type("Text", (str,), {})("x"), type("Bytes", (bytes,), {})(b"x")),
        ):
            assert link.send(message) == FALLBACK
        for arguments in ({"binary": True}, {"binary": None}):
            assert link.send("x", **arguments) == FALLBACK
        assert link.send("x", True) == FALLBACK
        assert link.send(message="x") == FALLBACK
        with pytest.raises(TypeError):
            link.send()
        with pytest.raises(TypeError):
            wrapper()
        assert wrapper(link, b"x") is None
        assert received(peers, 3) == b"\x82\x01x"
        for name, value in {"_state": CLOSED, "_direct": -1, "_framing": object()}.items():
            other = new(ours.fileno())
            setattr(other, name, value)
            assert other.send("x") == FALLBACK
        del other._framing
        assert other.send("x") == FALLBACK
        compiled.forget()
        assert link.send("x") == FALLBACK
        assert_silent(peers)

    def test_other_thread(self, pair: Pair) -> None:
        """Another thread than that of adopt() does not send in C."""
        ours, peers = pair
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(new(ours.fileno()).send("x")))
        thread.start()
        thread.join()
        assert found == [FALLBACK]
        assert_silent(peers)

    def test_errors(self, pair: Pair) -> None:
        """What the rest in Python raises is raised, and a missing method is an error."""
        ours, peers = pair
        peers.close()
        link = new(ours.fileno())

        def fail(*args: object) -> None:
            raise ValueError("rest")

        link._finish_send = fail
        with pytest.raises(ValueError, match="rest"):
            link.send("x")

        class Bare(compiled.Link):  # type: ignore[name-defined,misc]
            send = Link.send

        bare = Bare()
        bare._state, bare._direct, bare._framing = OPEN, ours.fileno(), PLAIN
        with pytest.raises(AttributeError, match="_finish_send"):
            bare.send("x")


def view_of(link: Any, found: list[object], *, iterates: bool = False) -> greenlet:
    """Return a greenlet that notes the messages of a link, or what it raises; it waits."""

    def view() -> None:
        try:
            if iterates:
                found.extend(link)
            while not iterates:
                found.append(link.receive())
        except BaseException as error:
            found.append(type(error))

    running = greenlet(view)
    running.switch()
    return running


class TestReceiving:
    """A view's greenlet waits in C, and continues with the message."""

    @pytest.mark.parametrize("iterates", [False, True])
    def test_waiting(self, pair: Pair, iterates: bool) -> None:
        """Each message that comes alone goes to the view at once."""
        ours, peers = pair
        link, found = new(ours.fileno()), list[object]()
        running = view_of(link, found, iterates=iterates)
        assert link._waiter is running
        for number in range(3):
            peers.sendall(frame(TEXT, b"%d" % number))
            compiled.readable(link)
            assert link._waiter is running
        assert (link._messages_in, link.messages) == (3, [])
        del running, link
        gc.collect()
        if not iterates:
            assert found[:3] == ["0", "1", "2"]

    @pytest.mark.parametrize("value", [None, False, 7, (), "text"])
    def test_woken_by_others(self, pair: Pair, value: object) -> None:
        """What others switch with is passed on, as in Python; True is news, for Python to see."""
        link, found = new(pair[0].fileno()), list[object]()
        running = greenlet(lambda: found.append(link.receive()))
        running.switch()
        running.switch(value)
        assert found == [value]
        assert link._waiter is None
        again = greenlet(lambda: found.append(link.receive()))
        again.switch()
        again.switch(True)
        assert found == [value, FALLBACK]
        assert link._messages_in == 1

    def test_killed(self, pair: Pair) -> None:
        """A greenlet that is killed while it waits is no waiter any more; messages are queued."""
        ours, peers = pair
        link, found = new(ours.fileno()), list[object]()
        running = view_of(link, found)
        peers.sendall(frame(TEXT, b"lost?"))
        running.throw(KeyError)
        assert (found, link._waiter, running.dead) == ([KeyError], None, True)
        compiled.readable(link)
        assert (link.messages, link._messages_in) == (["lost?"], 0)

    def test_dies_of_the_message(self, pair: Pair) -> None:
        """A view's error that reaches the hub goes to the transport, not to other sockets."""
        ours, peers = pair
        link = new(ours.fileno())

        def view() -> None:
            link.receive()
            raise ValueError("view")

        greenlet(view).switch()
        peers.sendall(frame(TEXT, b"x"))
        compiled.readable(link)
        [error] = link._transport.calls
        assert str(error) == "view"

    def test_not_a_greenlet(self, pair: Pair) -> None:
        """A waiter that is no greenlet is an error of this socket."""
        ours, peers = pair
        link = new(ours.fileno())
        link._waiter = "view"
        peers.sendall(frame(TEXT, b"x"))
        compiled.readable(link)
        assert [type(error) for error in link._transport.calls] == [TypeError]

    def test_what_python_decides(self, pair: Pair) -> None:
        """Python decides where waiting may be wrong."""
        wrong = {
            "_state": CONNECTING,
            "is_event_driven": True,
            "_is_paused": True,
            "_is_watched": False,
            "_waiter": "another",
            "_inbox": ["waits"],
        }
        for name, value in wrong.items():
            link, found = new(), list[object]()
            setattr(link, name, value)
            greenlet(lambda: found.append(link.receive())).switch()  # noqa: B023
            assert found == [FALLBACK], name
        link = new()
        assert link.receive() == FALLBACK  # in the hub
        found = []

        def call(mark: bool, *args: object, **options: object) -> None:
            if mark:
                setattr(getcurrent(), MARK, True)
            found.append(link.receive(*args, **options))

        greenlet(call).switch(True)
        greenlet(call).switch(False, 1)
        greenlet(call).switch(False, timeout=None)
        thread = threading.Thread(target=call, args=(False,))
        thread.start()
        thread.join()
        compiled.forget()
        greenlet(call).switch(False)
        assert found == [FALLBACK] * 5

    def test_errors(self) -> None:
        """What a look at the inbox raises is raised."""

        class Wrong:
            def __len__(self) -> int:
                raise ValueError("inbox")

        link, found = new(), list[object]()
        link._inbox = Wrong()
        view_of(link, found)
        view_of(link, found, iterates=True)
        assert found == [ValueError, ValueError]

    def test_iteration_ends(self) -> None:
        """Iteration ends with the first None, and stays at its end."""
        link = new()
        link._state = CLOSED
        each = iter(link)
        assert iter(each) is each
        assert list(each) == []
        assert next(each, "end") == "end"

    def test_iteration_of_a_derived_class(self) -> None:
        """Iteration calls the receive() that a derived class has, or that was put in its place."""

        class Derived(Link):
            def receive(self, timeout: float | None = None) -> str | None:
                self.messages.append("own")
                return "own" if len(self.messages) == 1 else None

        assert list(Derived()) == ["own"]
        link = new()
        values = iter(["one", None])
        link.receive = lambda: next(values)
        assert list(link) == ["one"]

    def test_of_the_class(self) -> None:
        """The wrapper looks like the method that it wraps."""
        assert Link.receive.__name__ == "receive"
        assert Link.receive.__doc__ == "Return that C has passed the call on; None when closed."
        assert Link.receive is Link.__dict__["receive"]
        assert new().receive.__self__.__class__ is Link


class TestArguments:
    """Wrong arguments are errors."""

    def test_functions(self) -> None:
        """No function of the module takes what it does not know."""
        hub = getcurrent()
        for arguments in (
            (),
            (hub, bytearray(9), MARK),
            (None, bytearray(9), MARK, PLAIN),
            (hub, b"123456789", MARK, PLAIN),
            (hub, bytearray(9), b"mark", PLAIN),
            (hub, bytearray(9), MARK, PLAIN, 1),
        ):
            with pytest.raises(TypeError):
                compiled.adopt(*arguments)
        with pytest.raises(ValueError, match="needs a buffer"):
            compiled.adopt(hub, bytearray(), MARK, PLAIN)
        for wrong in None, object(), link_module._Link():
            for function in compiled.readable, compiled.messages:
                with pytest.raises(TypeError):
                    function(wrong)
        for kind in compiled.receive, compiled.send:
            with pytest.raises(TypeError):
                kind()
            with pytest.raises(TypeError, match="not callable"):
                kind(1)()

    def test_bare_link(self) -> None:
        """A Link without a transport, codec, or framing does nothing, or raises."""
        link = compiled.Link()
        compiled.readable(link)
        link._descriptor, link._transport = 2**31 - 1, Carrier()
        compiled.readable(link)
        assert link._transport.calls == ["readable"]
        link.codec = Limit(1)
        compiled.readable(link)
        assert link._transport.calls == ["readable", "closed"]
        link._transport = None
        with pytest.raises(AttributeError, match="_fail"):
            compiled.readable(link)
        with pytest.raises(AttributeError, match="receive"):
            compiled.messages(link)
        for name in "codec", "hooks", "options", "_transport", "_framing":
            with suppress(AttributeError):
                delattr(link, name)
            with pytest.raises(AttributeError):
                getattr(link, name)
        for name in "_inbox", "_held", "_readiness", "_waiter":
            delattr(link, name)
            assert getattr(link, name) is None
        for name in "_state", "_direct", "_messages_in", "_is_alive":
            for wrong in "x", None:
                with pytest.raises(TypeError):
                    setattr(link, name, wrong)
            with pytest.raises(TypeError):
                delattr(link, name)

    def test_before_adopt(self) -> None:
        """Without adopt(), Python does all."""
        program = (
            "from django_wsmux.connection import _reactor\n"
            "from tests.connection.test_reactor import new_pair\n"
            "from django_wsmux.protocol.codec import Codec\n"
            "class Carrier:\n"
            "    def _readable(self):\n"
            "        print('readable')\n"
            "ours, peers = new_pair()\n"
            "link = _reactor.Link()\n"
            "link._transport, link.codec = Carrier(), Codec(9)\n"
            "link._descriptor, link._state, link._is_watched = ours.fileno(), 1, True\n"
            "_reactor.forget()\n"
            "_reactor.readable(link)\n"
            "send = _reactor.send(print)\n"
            "send(link, 'x')\n"
            "_reactor.receive(lambda link: print('receive'))(link)\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
        )
        assert said.stdout.split()[0] == "readable"
        assert said.stdout.split()[-2:] == ["x", "receive"]

    def test_once(self) -> None:
        """A second copy of the package, and a subinterpreter, use the code in Python."""
        program = (
            "import sys\n"
            "from django_wsmux.connection import link\n"
            "assert link.is_compiled\n"
            "for name in [each for each in sys.modules if each.startswith('django_wsmux')]:\n"
            "    del sys.modules[name]\n"
            "from django_wsmux.connection import link as other\n"
            "assert other is not link\n"
            "assert (link.is_compiled, other.is_compiled) == (True, False)\n"
            "print(other.WHY_NOT)\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
        )
        assert said.stdout == "it cannot be loaded: this process has loaded it before\n"


@pytest.mark.parametrize("is_waited_for", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"x" * 100),
        frame(TEXT, "é".encode() * 100),
        frame(TEXT, b"\xff" * 100),
        frame(BINARY, b"x" * 100),
        frame(BINARY, b"x" * 1001),
        frame(TEXT),
        header(BINARY, 1000),
        frame(BINARY, b"x" * 100)[:50],
        frame(TEXT, b"x" * 100)[:50],
        frame(TEXT, b"x" * 50 + "é".encode() * 50)[:100],
    ],
)
def test_reading_leaks_nothing(pair: Pair, data: bytes, is_waited_for: bool) -> None:
    """Memory and references are as before, on every path through the code."""
    ours, peers = pair
    link, lost, failing = new(ours.fileno(), 1000), new(2**31 - 1), new(ours.fileno(), "none")
    found: list[object] = []
    waiter = view_of(link, found) if is_waited_for else None
    limits = {each: each.codec.max_single_frame for each in (link, lost, failing)}
    before = references(link, getcurrent(), waiter, link._transport, lost, failing, arrived)

    def call() -> None:
        peers.send(data)
        for each in link, link, lost, failing:
            compiled.readable(each)
            each._give_back()
            each.codec.max_single_frame, each.codec.received = limits[each], b""
            each.messages.clear()
            each._transport.calls.clear()
        if waiter is not None:
            waiter.switch(True)
            found.clear()

    assert leaked(call, 1000) < 4000
    after = references(link, getcurrent(), waiter, link._transport, lost, failing, arrived)
    assert after < before + 500


@pytest.mark.parametrize(
    "message",
    ["x" * 100, "é" * 100, "\ud800", b"x" * 100, bytearray(b"x"), b"x" * 9000],
    ids=["ascii", "wide", "surrogate", "bytes", "bytearray", "long"],
)
def test_writing_leaks_nothing(pair: Pair, message: Message) -> None:
    """The same holds for sending."""
    ours, peers = pair
    link, lost = new(ours.fileno()), new(2**31 - 1)
    scratch = bytearray(2**14)
    before = references(message, link, lost, Link.send)

    def call() -> None:
        with suppress(UnicodeEncodeError):
            if link.send(message) != FALLBACK:
                peers.recv_into(scratch)
            lost.send(message)
            lost.rest.clear()

    assert leaked(call, 1000) < 4000
    assert references(message, link, lost, Link.send) < before + 500


def test_objects_are_freed() -> None:
    """Links, iterators, wrappers and greenlets that have waited are freed, also in cycles."""

    class Kept(Link):
        pass

    def work() -> None:
        for ends_with in (KeyError, GreenletExit) * 50:
            link: Any = Kept()
            each = iter(link)
            link.hooks, link.codec = each, link
            running = greenlet(each.__next__)
            running.switch()
            with suppress(KeyError):
                running.throw(ends_with)
            wrapper = compiled.send(Link.send)
            wrapper.itself, wrapper.link = wrapper, link

    assert leaked(work, 10) < 20_000
    gc.collect()
    assert not any(type(each) is Kept for each in gc.get_objects())
