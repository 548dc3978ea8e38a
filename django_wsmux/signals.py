"""Signals that tell of sockets, in the way of ``django.core.signals``.

Receivers are called where the view runs, with the database at hand; what they raise is logged by
Django and hurts nobody.
"""

from __future__ import annotations

from typing import Final

from django.dispatch import Signal

__all__ = ["backend_gap", "websocket_closed", "websocket_opened"]

#: Sent when a socket is open. Arguments: ``websocket`` and ``request``, the handshake.
websocket_opened: Final = Signal()

#: Sent once for each of these when the view is done with the socket. Arguments: ``websocket``;
#: ``request``, or ``None`` when the view did not keep it; ``code`` and ``reason`` of the close;
#: ``duration`` in seconds; ``traffic``, see ``server.traffic.Traffic``.
websocket_closed: Final = Signal()

#: Sent when messages of other processes to groups may have been missed, once it works again: show
#: the clients what they cannot know. Arguments: ``reason``, ``seconds``, ``missed`` or ``None``.
backend_gap: Final = Signal()
