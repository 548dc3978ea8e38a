"""Signals that tell of sockets, in the way of ``django.core.signals``.

Receivers are called where the view runs, with the database at hand; what they raise is logged by
Django and hurts nobody.
"""

from __future__ import annotations

from typing import Final

from django.dispatch import Signal

__all__ = ["websocket_closed", "websocket_opened"]

#: Sent when a socket is open. Arguments: ``websocket`` and ``request``, the handshake.
websocket_opened: Final = Signal()

#: Sent once for each of these when the view is done with the socket. Arguments: ``websocket``;
#: ``request``, or ``None`` when the view did not keep it; ``code`` and ``reason`` of the close;
#: ``duration`` in seconds; ``traffic``, see ``server.traffic.Traffic``.
websocket_closed: Final = Signal()
