def read_message(fd: int, buffer: bytearray, limit: int, /) -> tuple[str | bytes | None, int]:
    """Read once from a socket, and return the message if what arrived is just one.

    That is one whole frame: text or binary, with FIN, without reserved bits, masked, its length in
    the shortest form, and nothing behind it.

    Args:
        fd: of the socket, which is not waited for.
        buffer: where to read to, at most to its end.
        limit: bytes of payload that a message may have; less than 0 to read only.

    Returns:
        The message, or ``None`` for anything else, be it right or wrong; and how many bytes
        arrived, 0 at the end of the stream. With ``None`` they are in ``buffer`` as they came;
        otherwise what is there is of no use any more.

    Raises:
        BlockingIOError: nothing has arrived.
        OSError: the socket cannot be read.
        ValueError: the buffer is empty, or ``fd`` is negative.
    """

def write_message(fd: int, message: str | bytes, opcode: int, /) -> tuple[int, int]:
    """Send a message in one frame, unmasked, as far as the system takes it.

    Args:
        fd: of the socket, which is not waited for.
        message: just ``str`` or ``bytes``, nothing derived from them.
        opcode: 1 or 2, whatever the message is.

    Returns:
        The size of the frame, and how many bytes of it were taken, 0 for a full socket.

    Raises:
        OSError: the socket cannot be written to.
        TypeError: the message is neither.
        UnicodeEncodeError: the text holds a lone surrogate.
        RuntimeError: the thread is another one than ``keep_to_thread()`` was called in.
        ValueError: another opcode, or ``fd`` is negative.
    """

def keep_to_thread() -> None:
    """Have ``write_message()`` refuse every other thread than this one, for all sockets."""

def unmask(data: bytes | bytearray, start: int, stop: int, text: bool, /) -> str | bytes:
    """Return the payload ``data[start:stop]``, whose masking key is the four bytes before it.

    Args:
        data: what has arrived. Of a ``bytearray`` text overwrites the payload, unless it is wrong.
        start: of the payload, at least 4.
        stop: its end.
        text: return ``str`` instead of ``bytes``.

    Raises:
        UnicodeDecodeError: the text is not UTF-8.
        ValueError: there is no such payload in ``data``.
    """

def unmask_ascii(data: bytes | bytearray, start: int, stop: int, mask: bytes, /) -> str | None:
    """Return ``data[start:stop]``, unmasked, as text if it is all ASCII.

    Args:
        data: what has arrived; it is not written to.
        start: of the part in question.
        stop: its end.
        mask: the masking key, four bytes, as it applies from ``start`` on.

    Raises:
        ValueError: there is no such part of ``data``, or the key is not of four bytes.
    """
