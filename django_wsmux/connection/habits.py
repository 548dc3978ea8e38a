"""Hints for names of other packages, shown in ``AttributeError``."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["OF_SOCKETS", "advise", "is_missing"]

#: Attributes of the sockets of ASGI frameworks, ``websockets`` and browsers.
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


class _Missing:
    """Stands for an attribute that a class does not have.

    A ``__getattr__()`` would make every attribute access slower.

    Args:
        owner: the class.
        name: the name of the attribute.
        advice: what to write instead.
    """

    def __init__(self, owner: type[Any], name: str, advice: str) -> None:
        self._owner = owner
        self._name = name
        self._advice = advice

    def __get__(self, instance: Any, kind: type[Any]) -> Any:
        """Return the attribute of a class further down the MRO.

        Raises:
            AttributeError: no such class has the attribute.
        """
        following = kind.__mro__[kind.__mro__.index(self._owner) + 1 :]
        if any(self._name in vars(each) for each in following):
            return getattr(super(self._owner, kind if instance is None else instance), self._name)
        text = f"{kind.__name__!r} object has no attribute {self._name!r}: {self._advice}"
        raise AttributeError(text, name=self._name, obj=kind if instance is None else instance)


def advise(owner: type[Any], habits: dict[str, str]) -> None:
    """Make ``AttributeError`` say what to write instead of another package's names.

    Args:
        owner: a class that has none of these names.
        habits: what to write instead, by name.
    """
    for name, advice in habits.items():
        setattr(owner, name, _Missing(owner, name, advice))


def is_missing(value: object) -> bool:
    """Return whether a value in a class's namespace stands for a missing attribute."""
    return type(value) is _Missing
