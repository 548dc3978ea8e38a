"""Names of other packages, and what to write instead: for errors."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["OF_SOCKETS", "missing"]

#: What the sockets of ASGI frameworks, ``websockets`` and browsers have.
OF_SOCKETS: Final = {
    "accept": "the handshake is accepted already, or will be when connect() returns None",
    "channel_layer": "use django_wsmux.groups.Group",
    "iter_bytes": "write: for message in websocket",
    "iter_json": "write: for message in websocket, and json.loads(message)",
    "iter_text": "write: for message in websocket",
    "on_message": "write: for message in websocket",
    "onmessage": "write: for message in websocket",
    "receive_bytes": "receive() returns bytes for a binary message",
    "receive_text": "receive() returns str for a text message",
    "recv": "write receive()",
    "request": "it is the first argument of the view, or self.request",
    "scope": "it is the first argument of the view, or self.request",
    "send_bytes": "send(bytes) sends a binary message",
    "send_text": "send(str) sends a text message",
    "user": "write request.user",
}


def missing(owner: Any, name: str, habits: dict[str, str]) -> Any:
    """Answer for ``__getattr__()``: say what to write instead of another package's name.

    Raises:
        AttributeError: always, unless a property of the owner has an answer by now.
    """
    if name in habits:
        text = f"{type(owner).__name__!r} object has no attribute {name!r}: {habits[name]}"
        raise AttributeError(text, name=name, obj=owner)
    # As Python would; and if a property has raised, its own error.
    return object.__getattribute__(owner, name)
