"""The C extension does the same as the code in Python, byte for byte."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec, module_from_spec
from itertools import product
from select import select
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_wsmux.protocol import masking
from django_wsmux.protocol.codec import Codec
from django_wsmux.protocol.events import Control
from django_wsmux.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, encode
from tests.gauges import allocated

from .test_codec import MASK, Message, frame, header

speedups = pytest.importorskip(
    "django_wsmux.protocol._speedups", reason="there was no compiler when the package was installed"
)

quick = settings(deadline=None, max_examples=300, database=None)

Pair = tuple[socket.socket, socket.socket]

#: Sizes of payloads around each change of form: of the length, of the loops, of sending.
SIZES = (
    *range(72),
    *(124, 125, 126, 127, 255, 256, 4095, 4096, 4097, 4099, 8191, 8192, 8193),
    *(65534, 65535, 65536, 65537, 100_000),
)

#: Invalid UTF-8: truncated, overlong, surrogates, beyond Unicode.
WRONG = (
    *(b"\xff", b"\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc0\xaf", b"\xe0\x80\x80"),
    *(b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80"),
)


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
    """Yield two ends of a connection."""
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


def outcome(function: Callable[..., object], *arguments: object) -> tuple[object, object]:
    """Return the result of a function, or the error in its text."""
    try:
        return function(*arguments), None
    except UnicodeDecodeError as error:
        return None, error.args


def alone(data: bytes, limit: int) -> Message | None:
    """Return the codec's message if the first bytes of a new connection are exactly one frame."""
    messages, controls = list[Message](), list[Control]()
    if limit >= 0:
        controls = Codec(limit).receive(data, messages)
    if len(messages) != 1 or controls or data[0] not in (0x80 | TEXT, 0x80 | BINARY):
        return None
    message = messages[0]
    payload = message.encode() if isinstance(message, str) else message
    return message if len(data) == len(frame(TEXT, payload)) else None


class TestReadMessage:
    """One call for the usual case."""

    def assert_same(self, pair: Pair, data: bytes, limit: int) -> None:
        """Assert that the codec finds the same in these bytes."""
        ours, peers = pair
        peers.sendall(data)
        buffer = bytearray(b"\xaa" * (len(data) + 3))
        message, size = speedups.read_message(ours.fileno(), buffer, limit)
        expected = alone(data, limit)
        assert (message, size) == (expected, len(data))
        assert type(message) is type(expected)
        assert buffer[size:] == b"\xaa\xaa\xaa"
        if message is None:
            assert buffer[:size] == data

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
        """Invalid text is returned unchanged, wherever its error is."""
        for size in range(70):
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
        """A frame that is not whole, or not alone, is returned unchanged."""
        data = frame(BINARY, b"x" * size)
        for stop in {*range(1, min(len(data), 16)), len(data) - 1}:
            self.assert_same(shared_pair, data[:stop], 2**20)
        for more in b"\x81", b"\0", frame(TEXT, b"x"), frame(PING), data:
            self.assert_same(shared_pair, data + more, 2**20)

    @pytest.mark.parametrize("limit", [-1, -(2**70), 0, 2**63 - 1, 2**63, 2**70])
    def test_limits(self, shared_pair: Pair, limit: int) -> None:
        """Any number is a limit; below 0 nothing is accepted, not even an empty message."""
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
        data = frame(TEXT, b"Hello")
        peers.sendall(data)
        buffer = bytearray(4)
        assert speedups.read_message(ours.fileno(), buffer, 100) == (None, 4)
        assert buffer == data[:4]
        buffer = bytearray(100)
        assert speedups.read_message(ours.fileno(), buffer, 100) == (None, len(data) - 4)
        assert buffer[: len(data) - 4] == data[4:]

    def test_end_of_stream(self, pair: Pair) -> None:
        """The end of the stream is no bytes and no message."""
        ours, peers = pair
        peers.close()
        assert speedups.read_message(ours.fileno(), bytearray(9), 100) == (None, 0)

    def test_nothing_there(self, pair: Pair) -> None:
        """The call never waits, on a blocking or non-blocking socket."""
        ours, _ = pair
        for blocks in False, True:
            ours.setblocking(blocks)
            with pytest.raises(BlockingIOError):
                speedups.read_message(ours.fileno(), bytearray(9), 100)

    def test_reset(self) -> None:
        """A peer that resets the connection is an error."""
        ours, peers = tcp_pair()
        with ours:
            peers.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
            peers.close()
            with pytest.raises(ConnectionResetError):
                speedups.read_message(ours.fileno(), bytearray(9), 100)

    def test_not_open(self, pair: Pair) -> None:
        """A descriptor that is closed, or no socket, is an error."""
        ours, _ = pair
        fd = ours.fileno()
        ours.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            speedups.read_message(fd, bytearray(9), 100)
        with open(__file__) as file, pytest.raises(OSError, match="on non-socket"):
            speedups.read_message(file.fileno(), bytearray(9), 100)

    def test_arguments(self, pair: Pair) -> None:
        """Wrong arguments are refused before anything is read."""
        ours, peers = pair
        peers.sendall(b"x")
        fd = ours.fileno()
        for arguments in (
            (),
            (fd, bytearray(9)),
            (fd, bytearray(9), 1, 1),
            ("fd", bytearray(9), 1),
            (fd, b"123456789", 1),
            (fd, memoryview(bytearray(9)), 1),
            (fd, bytearray(9), "1"),
            (fd, bytearray(9), None),
        ):
            with pytest.raises(TypeError):
                speedups.read_message(*arguments)
        for number in -1, -2:
            with pytest.raises(ValueError, match="file descriptor"):
                speedups.read_message(number, bytearray(9), 1)
        with pytest.raises(ValueError, match="empty buffer"):
            speedups.read_message(fd, bytearray(), 1)
        for number in 2**31, 2**70:
            with pytest.raises(OverflowError):
                speedups.read_message(number, bytearray(9), 1)
        assert speedups.read_message(ours.fileno(), bytearray(9), 1) == (None, 1)


class TestWriteMessage:
    """One call to encode and send."""

    def assert_sent(self, pair: Pair, message: Message, opcode: int) -> None:
        """Assert that the frame that arrives is the one that Python makes."""
        ours, peers = pair
        payload = message.encode() if isinstance(message, str) else message
        expected = encode(opcode, payload)
        size, taken = speedups.write_message(ours.fileno(), message, opcode)
        assert (size, taken) == (len(expected), len(expected))
        assert received(peers, size) == expected
        assert_silent(peers)

    def test_sizes(self, shared_pair: Pair) -> None:
        """A message of any size and kind arrives, with the given opcode."""
        for size in SIZES:
            for opcode in TEXT, BINARY:
                self.assert_sent(shared_pair, bytes(range(256)) * (size // 256) + b"x", opcode)
                self.assert_sent(shared_pair, "x" * size, opcode)
                self.assert_sent(shared_pair, "é" * (size // 2), opcode)

    @quick
    @given(
        message=st.text() | st.binary() | st.sampled_from(SIZES).map(bytes),
        opcode=st.sampled_from([TEXT, BINARY]),
    )
    def test_differential(self, shared_pair: Pair, message: Message, opcode: int) -> None:
        """So do messages that hypothesis finds."""
        self.assert_sent(shared_pair, message, opcode)

    @pytest.mark.parametrize("size", [100, 8193])
    def test_wide_text(self, shared_pair: Pair, size: int) -> None:
        """Sending text does not make it larger in memory."""
        for character in "é", "€", "😀":
            text = character * size
            before = sys.getsizeof(text)
            self.assert_sent(shared_pair, text, TEXT)
            assert sys.getsizeof(text) == before

    def test_lone_surrogates(self, pair: Pair) -> None:
        """Text that has no UTF-8 is refused, and nothing of it is sent."""
        ours, peers = pair
        for text in "\ud800", "x" * 9000 + "\udfff":
            with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
                speedups.write_message(ours.fileno(), text, TEXT)
        assert_silent(peers)

    @pytest.mark.parametrize("message", [b"x" * 100, b"x" * 10_000, "x" * 300_000, "é" * 300_000])
    def test_full(self, pair: Pair, message: Message) -> None:
        """The call returns how many bytes it has sent, in the end 0; all of them arrive."""
        ours, peers = pair
        payload = message.encode() if isinstance(message, str) else message
        expected, taken, total = encode(BINARY, payload), -1, 0
        while taken:
            size, taken = speedups.write_message(ours.fileno(), message, BINARY)
            assert size == len(expected)
            total += taken
            if taken < size:
                # Perhaps in mid-frame: other code sends the rest.
                break
        assert speedups.write_message(ours.fileno(), message, BINARY) == (size, 0)
        ours.close()
        arrived = b"".join(iter(lambda: peers.recv(2**20), b""))
        assert len(arrived) == total
        assert arrived == (expected * (total // len(expected) + 1))[:total]

    def test_part(self) -> None:
        """A stream takes a part of a large frame."""
        ours, peers = tcp_pair()
        with ours, peers:
            message = bytes(range(256)) * 2**16
            size, taken = speedups.write_message(ours.fileno(), message, BINARY)
            assert 0 < taken < size == len(message) + 10
            assert received(peers, taken) == encode(BINARY, message)[:taken]

    def test_peer_gone(self) -> None:
        """A peer that is gone is an error, and never a signal, which would kill the process."""
        program = (
            "import signal, socket\n"
            "from django_wsmux.protocol._speedups import write_message\n"
            "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
            "ours, peers = socket.socketpair()\n"
            "peers.close()\n"
            "for message in 'x', 'x' * 10_000:\n"
            "    try:\n"
            "        write_message(ours.fileno(), message, 1)\n"
            "    except BrokenPipeError:\n"
            "        print('broken')\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True
        )
        assert said.stdout.split() == ["broken", "broken"]

    def test_not_open(self, pair: Pair) -> None:
        """A closed descriptor is an error."""
        ours, _ = pair
        fd = ours.fileno()
        ours.close()
        for message in b"x", b"x" * 10_000:
            with pytest.raises(OSError, match="Bad file descriptor"):
                speedups.write_message(fd, message, BINARY)

    def test_arguments(self, pair: Pair) -> None:
        """Wrong arguments are refused, also of similar types, and nothing is sent."""
        ours, peers = pair
        fd = ours.fileno()
        for arguments in (
            (),
            (fd, "x"),
            (fd, "x", 1, 1),
            ("fd", "x", 1),
            (fd, "x", "1"),
            (fd, None, 1),
            (fd, bytearray(b"x"), 2),
            (fd, memoryview(b"x"), 2),
            (fd, type("Text", (str,), {})("x"), 1),
            (fd, type("Bytes", (bytes,), {})(b"x"), 2),
        ):
            with pytest.raises(TypeError):
                speedups.write_message(*arguments)
        for number in -1, -2:
            with pytest.raises(ValueError, match="file descriptor"):
                speedups.write_message(number, "x", TEXT)
        for opcode in CONTINUATION, CLOSE, PING, 0x81, -1, 2**31 + 1:
            with pytest.raises(ValueError, match="opcodes 1 and 2"):
                speedups.write_message(fd, "x", opcode)
        assert_silent(peers)


class TestUnmask:
    """Unmasking bytes in memory."""

    def assert_same(self, data: bytes, start: int, stop: int) -> None:
        """Assert that Python does the same, with bytes and bytearray, text and binary."""
        for text, kind in product((False, True), (bytes, bytearray)):
            source = kind(data)
            expected, error = outcome(masking._unmask, data, start, stop, text)
            result, same_error = outcome(speedups.unmask, source, start, stop, text)
            assert (result, type(result), same_error) == (expected, type(expected), error)
            # Bytes around the payload are unchanged; invalid text is masked again, as other code
            # reads it once more.
            assert source[:start] == data[:start]
            assert source[stop:] == data[stop:]
            if error or kind is bytes:
                assert source == data

    def test_sizes(self) -> None:
        """Payloads of any size, at any offset."""
        for size in SIZES:
            payload = (b"%06d " * (size // 7 + 1) % tuple(range(size // 7 + 1)))[:size]
            for before in b"", b"\x81", b"\x81\x82\x83":
                data = before + frame(TEXT, payload) + b"\xff\xff\xff"
                self.assert_same(data, len(data) - 3 - size, len(data) - 3)

    def test_not_utf8(self) -> None:
        """Invalid text, wherever its error is."""
        for wrong in WRONG:
            for size in *range(40), 4090, 4093, 4096, 4200, 70_000:
                for at in {0, size // 2, size - 1, size} & {*range(size + 1)}:
                    payload = b"x" * at + wrong + b"x" * (size - at)
                    data = frame(TEXT, payload)
                    self.assert_same(data, len(data) - len(payload), len(data))

    @quick
    @given(
        data=st.binary(min_size=4, max_size=200) | st.binary(min_size=4000, max_size=5000),
        start=st.integers(0, 300),
        size=st.integers(0, 5000),
    )
    def test_noise(self, data: bytes, start: int, size: int) -> None:
        """Bytes of any kind."""
        start = min(start + 4, len(data))
        self.assert_same(data, start, min(start + size, len(data)))

    @quick
    @given(text=st.text(max_size=5000), mask=st.binary(min_size=4, max_size=4))
    def test_text(self, text: str, mask: bytes) -> None:
        """Text of any kind."""
        payload = text.encode()
        data = frame(TEXT, payload, mask=mask)
        assert speedups.unmask(data, len(data) - len(payload), len(data), True) == text
        self.assert_same(data, len(data) - len(payload), len(data))

    @quick
    @given(
        payload=st.binary(max_size=40) | st.text(max_size=40).map(str.encode),
        size=st.sampled_from([0, 7, 33, 4090, 9000]),
        mask=st.binary(min_size=4, max_size=4),
    )
    def test_ascii(self, payload: bytes, size: int, mask: bytes) -> None:
        """A piece is text if it is ASCII, else None; the data stays unchanged."""
        payload = b"x" * size + payload
        data = bytes(masking.apply_mask(payload, mask))
        expected = payload.decode() if payload.isascii() else None
        for source in data, bytearray(data):
            assert speedups.unmask_ascii(source, 0, len(data), mask) == expected
            assert source == data
        around = b"\xff" + data + b"\xff"
        assert speedups.unmask_ascii(around, 1, len(data) + 1, mask) == expected

    @pytest.mark.parametrize(
        ("start", "stop"),
        [(3, 8), (0, 8), (-1, 8), (4, 9), (5, 4), (9, 9), (4, -1), (4, 2**64), (-(2**64), 4)],
    )
    def test_not_there(self, start: int, stop: int) -> None:
        """Offsets outside of the data are refused."""
        for data in bytes(8), bytearray(8):
            for text in False, True:
                with pytest.raises(ValueError, match=r"no payload|cannot fit"):
                    speedups.unmask(data, start, stop, text)
            if not (start >= 0 and start <= stop <= 8):
                with pytest.raises(ValueError, match=r"no payload|cannot fit"):
                    speedups.unmask_ascii(data, start, stop, MASK)

    def test_nothing_there(self) -> None:
        """An empty payload is valid."""
        for data in MASK, bytearray(MASK):
            assert speedups.unmask(data, 4, 4, False) == b""
            assert speedups.unmask(data, 4, 4, True) == ""
            assert speedups.unmask_ascii(data, 4, 4, MASK) == ""

    def test_arguments(self) -> None:
        """Wrong arguments are refused."""
        for function in speedups.unmask, speedups.unmask_ascii:
            for arguments in (
                (),
                (bytes(8), 4, 8),
                (bytes(8), 4, 8, MASK, 1),
                ("text", 4, 4, MASK),
                (memoryview(bytes(8)), 4, 8, MASK),
                (bytes(8), "4", 8, MASK),
                (bytes(8), 4, None, MASK),
            ):
                with pytest.raises(TypeError):
                    function(*arguments)
        for mask in b"", b"123", b"12345", bytearray(4), "1234", None:
            with pytest.raises(ValueError, match="masking key"):
                speedups.unmask_ascii(bytes(8), 4, 8, mask)

    def test_data_changed_meanwhile(self) -> None:
        """A number whose ``__index__()`` changes the data does not cause an invalid access."""

        class Number:
            def __index__(self) -> int:
                data.clear()
                return 1000

        data = bytearray(1000)
        for arguments in (data, Number(), 1000, MASK), (data, 4, Number(), MASK):
            data[:] = bytes(1000)
            with pytest.raises(ValueError, match="of 0 bytes"):
                speedups.unmask(*arguments)
            data[:] = bytes(1000)
            with pytest.raises(ValueError, match="of 0 bytes"):
                speedups.unmask_ascii(*arguments)


def test_import_again() -> None:
    """Every interpreter can import the module, also again."""
    spec = find_spec(speedups.__name__)
    assert spec is not None
    another = module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(another)
    assert another is not speedups
    assert another.unmask(MASK + b"x", 4, 5, False) == speedups.unmask(MASK + b"x", 4, 5, False)


def leaked(call: Callable[[], object], times: int) -> int:
    """Return how many bytes remain allocated after this many calls."""

    def work() -> None:
        for _ in range(times):
            call()

    return allocated(work)


def references(*values: object) -> int:
    """Return about how many references to these exist: other code uses some of the numbers."""
    return sum(map(sys.getrefcount, values))


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
    ],
)
def test_reading_leaks_nothing(pair: Pair, data: bytes) -> None:
    """Memory and references are as before, on every path through the code."""
    ours, peers = pair
    buffer, fd, limit = bytearray(2000), ours.fileno(), 1000
    before = references(buffer, fd, limit)

    def call() -> None:
        peers.send(data)
        speedups.read_message(fd, buffer, limit)
        with suppress(BlockingIOError):
            speedups.read_message(fd, buffer, limit)

    assert leaked(call, 2000) < 4000
    assert references(buffer, fd, limit) < before + 1000


@pytest.mark.parametrize(
    "message",
    ["x" * 100, "é" * 100, "\ud800", b"x" * 100, bytearray(b"x"), b"x" * 9000],
    ids=["ascii", "wide", "surrogate", "bytes", "bytearray", "long"],
)
def test_writing_leaks_nothing(pair: Pair, message: Message) -> None:
    """The same holds for sending."""
    ours, peers = pair
    fd = ours.fileno()
    before = references(message, fd)

    def call() -> None:
        with suppress(TypeError, UnicodeEncodeError):
            size, _ = speedups.write_message(fd, message, TEXT)
            peers.recv(size)
        with suppress(OSError):
            speedups.write_message(2**31 - 1, "x", TEXT)

    assert leaked(call, 2000) < 4000
    assert references(message, fd) < before + 1000


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize(
    "payload", [b"", b"x" * 100, "é".encode() * 50, b"\xff", b"x" * 9000, "é".encode() * 9000]
)
def test_unmasking_leaks_nothing(kind: type[bytes | bytearray], payload: bytes) -> None:
    """The same holds for unmasking."""
    data = frame(TEXT, payload)
    source, start, stop, mask = kind(data), len(data) - len(payload), len(data), bytes(4)
    before = references(source, start, stop, mask)

    def call() -> None:
        if isinstance(source, bytearray):
            source[start:stop] = data[start:stop]
        speedups.unmask(source, start, stop, False)
        speedups.unmask_ascii(source, start, stop, mask)
        with suppress(UnicodeDecodeError):
            speedups.unmask(source, start, stop, True)
        with suppress(ValueError):
            speedups.unmask(source, start, stop + 1, True)

    assert leaked(call, 2000) < 4000
    assert references(source, start, stop, mask) < before + 1000
