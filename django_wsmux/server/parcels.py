"""Messages between two workers: JSON, bytes and descriptors, each message sent as a whole.

The content of all but the smallest messages is in a sealed memfd, which is the first descriptor.
Count, sizes, seals and kinds are checked before anything of the content is read.
"""

from __future__ import annotations

import _socket
import fcntl
import json
import os
import stat
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from gevent import socket

__all__ = ["MOST_BYTES", "MOST_FDS", "Damaged", "Parcel", "close_fd", "receive", "send"]

#: The most descriptors in a message besides the memfd: Linux takes 253 together.
MOST_FDS: Final = 252

#: The largest content.
MOST_BYTES: Final = 2**30

#: The largest content that is sent without a memfd, and the largest message. Quotes and backslashes
#: are escaped twice in it.
_INLINE: Final = 2**12
_MOST_HEAD: Final = 2**15

_ORDER: Final = sys.byteorder

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Damaged(Exception):
    """A message does not have the form of this module; nothing of it is used."""


class Parcel(NamedTuple):
    """A message.

    Attributes:
        kind: a word.
        body: values of JSON.
        raw: bytes.
        fds: descriptors; the receiver must close them.
    """

    kind: str
    body: dict[str, Any]
    raw: bytes = b""
    fds: Sequence[int] = ()


def send(sock: Any, parcel: Parcel) -> None:
    """Send a message; it arrives as a whole or not at all.

    Args:
        sock: a unix socket of the kind ``SOCK_SEQPACKET``.
        parcel: the message; its descriptors stay open here.

    Raises:
        OSError: nothing was sent.
        ValueError: there are too many descriptors or bytes.
    """
    text = json.dumps(parcel.body, separators=(",", ":")).encode()
    if not parcel.raw and not parcel.fds and len(text) <= _INLINE:
        _send(sock, {"kind": parcel.kind, "text": text.decode()}, [])
        return
    size = len(text) + len(parcel.raw)
    if len(parcel.fds) > MOST_FDS or size > MOST_BYTES:
        raise ValueError(f"{len(parcel.fds)} descriptors and {size} bytes are too many")
    head = {"kind": parcel.kind, "text_size": len(text), "size": size, "fds": len(parcel.fds)}
    memory = os.memfd_create("wsmux", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(text)
            file.write(parcel.raw)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        _send(sock, head, [memory, *parcel.fds])
    finally:
        close_fd(memory)


def _send(sock: Any, head: dict[str, Any], fds: list[int]) -> None:
    data = json.dumps(head).encode()
    ancillary = []
    if fds:
        packed = b"".join(fd.to_bytes(4, _ORDER) for fd in fds)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)]
    # Without waiting: at most one message is under way in each direction.
    sock.sendmsg([data], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def receive(sock: Any) -> Parcel | None:
    """Wait for a message; return ``None`` if the other process has ended.

    Raises:
        Damaged: the message cannot be used; its descriptors are closed.
        TimeoutError: the socket's timeout has passed.
    """
    received = _receive(sock)
    if received is None:
        return None
    data, fds, flags = received
    try:
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            raise Damaged("it was cut off: this process has too few descriptors left")
        parcel = _read(data, fds)
    except BaseException:
        _close(fds)
        raise
    _close(fds[: len(fds) - len(parcel.fds)])
    return parcel


def _receive(sock: Any) -> tuple[bytes, list[int], int] | None:
    """Return bytes, descriptors and flags of the next message; ``None`` at the end."""
    space = socket.CMSG_SPACE(4 * (MOST_FDS + 1))
    while True:
        try:
            data, ancillary, flags, _ = sock.recvmsg(_MOST_HEAD, space, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # It has ended without reading everything. What it sent before comes afterwards.
            continue
        break
    fds = [
        int.from_bytes(packed[start : start + 4], _ORDER)
        for level, kind, packed in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for start in range(0, len(packed) - len(packed) % 4, 4)
    ]
    if not data:
        _close(fds)
        return None
    return data, fds, flags


def _read(data: bytes, fds: list[int]) -> Parcel:
    head = _loads(data)
    kind = head.get("kind")
    if not isinstance(kind, str):
        raise Damaged("its kind is missing")
    if "text" in head:
        if fds or not isinstance(head["text"], str):
            raise Damaged("it has descriptors, but no content for them")
        return Parcel(kind, _loads(head["text"]))
    text_size, size, count = (head.get(name) for name in ("text_size", "size", "fds"))
    if not (type(text_size) is type(size) is type(count) is int):
        raise Damaged("its sizes are missing")
    if count != len(fds) - 1 or not 0 <= text_size <= size <= MOST_BYTES:
        raise Damaged(f"it has {len(fds)} descriptors and {size} bytes")
    memory, *others = fds
    status = os.fstat(memory)
    if not stat.S_ISREG(status.st_mode) or status.st_size != size or not _is_sealed(memory):
        raise Damaged("its content may change")
    for fd in others:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise Damaged("a descriptor is no socket")
    content = os.pread(memory, size, 0)
    return Parcel(kind, _loads(content[:text_size]), content[text_size:], tuple(others))


def _is_sealed(memory: int) -> bool:
    try:
        return fcntl.fcntl(memory, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:  # a file of another kind
        return False


def _loads(text: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Damaged("it is not an object")
    return value


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        close_fd(fd)


def close_fd(fd: int) -> None:
    """Close a descriptor now; nothing in this process waits for it.

    gevent's ``os.close()`` leaves it open until its loop runs next.
    """
    _socket.close(fd)
