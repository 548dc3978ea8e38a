def unmask(data: bytes | bytearray, start: int, stop: int, text: bool, /) -> str | bytes:
    """Unmask the payload ``data[start:stop]`` with the masking key in the four bytes before it.

    Args:
        data: the received bytes. In a ``bytearray`` valid text overwrites the payload.
        start: the start of the payload, at least 4.
        stop: the end of the payload.
        text: return ``str`` instead of ``bytes``.

    Raises:
        UnicodeDecodeError: the text is not UTF-8.
        ValueError: ``data`` has no such payload.
    """

def unmask_ascii(data: bytes | bytearray, start: int, stop: int, mask: bytes, /) -> str | None:
    """Unmask ``data[start:stop]``; return it as text, or ``None`` if it is not all ASCII.

    Args:
        data: the received bytes; never written to.
        start: the start of the part.
        stop: the end of the part.
        mask: the four bytes of the masking key, rotated to apply from ``start`` on.

    Raises:
        ValueError: ``data`` has no such part, or the key does not have four bytes.
    """
