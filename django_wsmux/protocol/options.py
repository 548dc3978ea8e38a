"""The limits of a connection, as one immutable value.

Only ``conf.py`` reads Django's settings; every other layer gets one of these.
"""

from __future__ import annotations

from dataclasses import dataclass

from .deflate import Compression

__all__ = ["Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of one connection.

    Attributes:
        compression: the permessage-deflate that is offered; ``None`` offers none.
        max_message_size: largest message accepted from a peer, in bytes after reassembly and
            decompression; a larger one is closed with 1009 before its bytes are stored.
        max_frame_size: largest frame accepted, in bytes of payload on the wire; ``None`` is as
            large as a message may be.
        max_fragments: largest number of frames in a message; more are closed with 1009.
        max_unread_messages: messages that may wait for the view before reading stops, so that
            TCP pushes back on the peer.
        max_unread_bytes: the same in bytes, or characters of text; the message that exceeds the
            limit is kept.
        max_unsent_bytes: bytes that may wait for the peer. Beyond them a view's own ``send()``
            waits, and a group's message closes the socket with 1013.
        close_slow_clients: whether a socket that exceeds that limit by a group's messages is
            closed; otherwise it misses them until there is room.
        close_timeout: seconds that a peer has to answer a close frame, or to read what is still
            queued for it, before the descriptor is closed anyway.
        send_timeout: seconds during which a peer may read nothing of what is sent before it is
            dropped; 0 sets no limit.
        max_messages_per_second: messages and control frames that a peer may send in a second, on
            average; beyond them it is closed with 1013. ``None`` sets no limit.
        max_sockets: sockets that the process may have; further handshakes are refused.
        max_sockets_per_address: the same for one client address.
        max_sockets_per_user: the same for one user.
        trusted_proxies: number of reverse proxies that append to ``X-Forwarded-For``.
        handshake_timeout: seconds that a client has for its request, from the TCP connection on;
            0 sets no limit.
        blocked_warning: seconds that a view may compute without waiting before it is logged; 0
            logs nothing.
        handler_greenlets: largest number of messages of event views handled at the same time.
        ping_interval: seconds between two pings to a peer; 0 sends none.
        ping_timeout: seconds that a peer has to show a sign of life after a ping.
    """

    compression: Compression | None = None
    max_message_size: int = 2**20
    max_frame_size: int | None = None
    max_fragments: int = 2**16
    max_messages_per_second: int | None = None
    max_unread_messages: int = 64
    max_unread_bytes: int = 2**20
    max_unsent_bytes: int = 2**20
    close_slow_clients: bool = True
    close_timeout: float = 5.0
    send_timeout: float = 30.0
    max_sockets: int | None = None
    max_sockets_per_address: int | None = None
    max_sockets_per_user: int | None = None
    trusted_proxies: int = 0
    handshake_timeout: float = 10.0
    blocked_warning: float = 1.0
    handler_greenlets: int = 100
    ping_interval: float = 20.0
    ping_timeout: float = 20.0
