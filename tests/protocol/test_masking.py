"""Unmasking, with the extension and without."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec

import pytest

from django_wsmux.protocol import masking
from django_wsmux.protocol.frames import BINARY, TEXT

from .test_codec import MASK, frame


def test_python_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the extension cannot be imported, nothing else changes."""
    monkeypatch.setitem(sys.modules, "django_wsmux.protocol._speedups", None)
    spec = find_spec("django_wsmux.protocol.masking")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.unmask is module._unmask
    assert module.unmask_ascii is module._unmask_ascii


def test_extension_is_used() -> None:
    """If it can be imported, it is used."""
    speedups = pytest.importorskip(
        "django_wsmux.protocol._speedups",
        reason="there was no compiler when the package was installed",
    )
    assert masking.unmask is speedups.unmask
    assert masking.unmask_ascii is speedups.unmask_ascii


@pytest.mark.parametrize("length", [0, 1, 3, 4, 4095, 4096, 4097, 65536])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_unmask(length: int, kind: type[bytes | bytearray]) -> None:
    """Python's version returns text and bytes for any data, and leaves the data unchanged."""
    payload = b"abcdefg" * (length // 7) + b"abcdefg"[: length % 7]
    for opcode, expected in (TEXT, payload.decode()), (BINARY, payload):
        data = frame(opcode, payload)
        start, given = len(data) - length, kind(b"before" + data + b"after")
        result = masking._unmask(given, 6 + start, 6 + len(data), opcode == TEXT)
        assert result == expected
        assert type(result) is type(expected)
        assert given == b"before" + data + b"after"


def test_not_utf8() -> None:
    """Invalid text is an error."""
    data = frame(TEXT, b"\xff")
    with pytest.raises(UnicodeDecodeError):
        masking._unmask(data, 6, 7, True)


def test_no_ascii() -> None:
    """Python's version never reports ASCII: pieces are decoded with what came before."""
    assert masking._unmask_ascii(frame(TEXT, b"x"), 6, 7, MASK) is None
