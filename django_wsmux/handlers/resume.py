"""What a client sends with its handshake: its id, its identity, its positions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..groups import clients, users
from ..groups.members import Key
from ..protocol import v1
from ..protocol.v1 import BROUGHT_KEY, Brought

__all__ = ["check", "read"]


def read(environ: dict[str, Any]) -> None:
    """Read what the client sent; close its older socket in this process.

    Call it only if ``PREFIX`` is in the list of subprotocols, or ``at=`` in the query string.
    """
    brought = v1.brought_by(environ)
    if brought is None:
        return
    environ[BROUGHT_KEY] = brought
    if brought.client_id is not None:
        client_id = clients.verified(brought.client_id)
        # The page does not matter: all pages share the socket.
        brought.client_id = client_id and client_id.partition(".")[0]
        if brought.client_id:
            # At once, because the older socket counts towards the limits.
            clients.close_older(brought.client_id, time.time())


def check(environ: Mapping[str, Any], groups: tuple[Key, ...]) -> tuple[int, str] | None:
    """Return a close code and a reason if the client's page was made for another user.

    Args:
        environ: the environ of the handshake.
        groups: the groups of session and user.
    """
    brought: Brought | None = environ.get(BROUGHT_KEY)
    if brought is None or brought.identity is None:
        return None
    identity, brought.identity = brought.identity, None
    if clients.is_identity(identity, users.user_id(groups)):
        return None
    return users.SIGNED_OUT, "another user"
