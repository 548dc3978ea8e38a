"""The C extension does the same as the code in Python, byte for byte."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec, module_from_spec
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_wsmux.protocol import masking
from django_wsmux.protocol.frames import TEXT
from tests.gauges import allocated
from tests.support import TIMES

from .test_codec import MASK, frame

speedups = pytest.importorskip(
    "django_wsmux.protocol._speedups", reason="there was no compiler when the package was installed"
)

quick = settings(deadline=None, max_examples=100 * TIMES, database=None)

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


def outcome(function: Callable[..., object], *arguments: object) -> tuple[object, object]:
    """Return the result of a function, or the error in its text."""
    try:
        return function(*arguments), None
    except UnicodeDecodeError as error:
        return None, error.args


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
