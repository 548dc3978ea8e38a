def read_message(fd: int, buffer: bytearray, limit: int, /) -> tuple[str | bytes | None, int]:
    """Read once from a socket, and return the message if exactly one has arrived.

    That means one complete frame: text or binary, with FIN, without reserved bits, masked, its
    length minimally encoded, and no bytes after it.

    Args:
        fd: the descriptor of the socket; the call never waits.
        buffer: the buffer to read into; its size is the most that is read.
        limit: largest payload of a message, in bytes; negative to read only.

    Returns:
        The message, or ``None`` for anything else, whether valid or invalid; and how many bytes
        arrived, 0 at the end of the stream. With ``None`` the bytes are in ``buffer`` unchanged;
        otherwise the contents of ``buffer`` are undefined.

    Raises:
        BlockingIOError: nothing has arrived.
        OSError: the socket cannot be read.
        ValueError: the buffer is empty, or ``fd`` is negative.
    """

def write_message(fd: int, message: str | bytes, opcode: int, /) -> tuple[int, int]:
    """Send a message in one unmasked frame, as much as the socket takes.

    Args:
        fd: the descriptor of the socket; the call never waits.
        message: exactly ``str`` or ``bytes``, no subclass.
        opcode: 1 or 2, independent of the type of the message.

    Returns:
        The size of the frame, and how many bytes were sent, 0 if the socket is full.

    Raises:
        OSError: the socket cannot be written to.
        TypeError: the message is neither ``str`` nor ``bytes``.
        UnicodeEncodeError: the text contains a lone surrogate.
        RuntimeError: ``keep_to_thread()`` was called in another thread.
        ValueError: the opcode is neither 1 nor 2, or ``fd`` is negative.
    """

def keep_to_thread() -> None:
    """Make ``write_message()`` refuse all other threads, for all sockets."""

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
