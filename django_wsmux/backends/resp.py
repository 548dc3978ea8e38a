"""Redis's wire format, RESP 2: only the part for publishing and subscribing.

redis-py makes and authenticates the connections; its own subscriber takes four times as long for
each publication (``bench/README.rst``).
"""

from __future__ import annotations

from typing import Final

__all__ = ["Replies", "RespError", "command"]

_MESSAGE: Final = b"*3\r\n$7\r\nmessage\r\n$"
_SHARDED_MESSAGE: Final = b"*3\r\n$8\r\nsmessage\r\n$"


class RespError(Exception):
    """An error reply of the server, such as ``NOPERM ...``."""


class _Incomplete(Exception):
    """The rest of a reply has not arrived yet."""


def command(*parts: bytes) -> bytes:
    """Return a command as bytes."""
    texts = [b"*%d\r\n" % len(parts)]
    texts += [b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]
    return b"".join(texts)


class Replies:
    """Parses a stream of replies."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = 0

    def feed(self, data: bytes) -> tuple[list[bytes], list[object]]:
        """Parse bytes; return the payloads of publications, and all other replies.

        Each other reply is ``bytes``, ``int``, ``None``, a ``RespError`` or a list of these.
        """
        messages: list[bytes] = []
        others: list[object] = []
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return messages, others
            data = bytes(self._rest)
            self._rest.clear()
        position = 0
        self._needed = 0
        try:
            while position < len(data):
                if data.startswith(_MESSAGE, position):
                    payload, position = self._message(data, position + len(_MESSAGE))
                    messages.append(payload)
                elif data.startswith(_SHARDED_MESSAGE, position):
                    payload, position = self._message(data, position + len(_SHARDED_MESSAGE))
                    messages.append(payload)
                else:
                    reply, position = self._reply(data, position)
                    others.append(reply)
        except _Incomplete:
            # Nothing of a large message is parsed again until all of it has arrived.
            self._needed = max(0, self._needed - position)
            self._rest += data[position:]
        return messages, others

    def _message(self, data: bytes, position: int) -> tuple[bytes, int]:
        """Parse ``<length> CRLF channel CRLF $<length> CRLF payload CRLF``."""
        end = data.find(b"\r\n", position)
        if end < 0:
            raise _Incomplete
        start = end + int(data[position:end]) + 5  # CRLF twice, and "$"
        end = data.find(b"\r\n", start)
        if end < 0:
            raise _Incomplete
        end += 2
        length = int(data[start : end - 2])
        if end + length + 2 > len(data):
            self._needed = end + length + 2
            raise _Incomplete
        return data[end : end + length], end + length + 2

    def _reply(self, data: bytes, position: int) -> tuple[object, int]:
        end = data.find(b"\r\n", position)
        if end < 0:
            raise _Incomplete
        kind, line = data[position : position + 1], data[position + 1 : end]
        end += 2
        if kind == b"+":
            return line, end
        if kind == b"-":
            return RespError(line.decode(errors="replace")), end
        if kind == b":":
            return int(line), end
        if kind == b"$":
            length = int(line)
            if length < 0:
                return None, end
            if end + length + 2 > len(data):
                raise _Incomplete
            return data[end : end + length], end + length + 2
        if kind == b"*":
            items = []
            for _ in range(int(line)):
                item, end = self._reply(data, end)
                items.append(item)
            return items, end
        raise ValueError(f"not RESP 2: {data[position : position + 40]!r}")
