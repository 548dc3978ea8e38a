"""Masking undone (RFC 6455 section 5.3): in C where that is built, else with what websockets has.

Both do the same. The extension makes text of masked bytes in one step, where Python makes bytes of
them first.
"""

from __future__ import annotations

from typing import Final

from websockets.frames import apply_mask  # type: ignore[attr-defined]  # C where it is built

__all__ = ["IS_COMPILED", "apply_mask", "unmask", "unmask_ascii"]


def _unmask(data: bytes | bytearray, start: int, stop: int, text: bool, /) -> str | bytes:
    # A view cuts out a large payload without a copy; for a small one a slice is cheaper.
    source = data[start:stop] if stop - start < 4096 else memoryview(data)[start:stop]
    payload: bytes = apply_mask(source, data[start - 4 : start])
    return payload.decode() if text else payload


def _unmask_ascii(data: bytes | bytearray, start: int, stop: int, mask: bytes, /) -> str | None:
    # Python makes bytes first in any case, which are then as well decoded with what came before.
    return None


try:
    from ._speedups import unmask, unmask_ascii
except ImportError:
    unmask, unmask_ascii = _unmask, _unmask_ascii

#: Whether the codec's extension in C is there.
IS_COMPILED: Final = unmask is not _unmask
