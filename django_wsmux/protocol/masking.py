"""Unmasking (RFC 6455 section 5.3): in C if the extension is built, else with ``websockets``.

Both do the same. The extension turns masked bytes into text in one step; Python makes bytes first.
"""

from __future__ import annotations

from typing import Final

from websockets.frames import apply_mask  # type: ignore[attr-defined]  # C where it is built

__all__ = ["IS_COMPILED", "apply_mask", "unmask", "unmask_ascii"]


def _unmask(data: bytes | bytearray, start: int, stop: int, text: bool, /) -> str | bytes:
    # A memoryview avoids a copy of a large payload; for a small one a slice is cheaper.
    source = data[start:stop] if stop - start < 4096 else memoryview(data)[start:stop]
    payload: bytes = apply_mask(source, data[start - 4 : start])
    return payload.decode() if text else payload


def _unmask_ascii(data: bytes | bytearray, start: int, stop: int, mask: bytes, /) -> str | None:
    # Python makes bytes first anyway, so the caller can decode them with what came before.
    return None


try:
    from ._speedups import unmask, unmask_ascii
except ImportError:
    unmask, unmask_ascii = _unmask, _unmask_ascii

#: Whether the C extension is built.
IS_COMPILED: Final = unmask is not _unmask
