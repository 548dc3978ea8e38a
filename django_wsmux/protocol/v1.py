"""The subprotocol ``wsmux.v1``: its frames, and the data that a client sends when it returns.

``docs/wire.rst`` describes it. The JSON of a message is inserted into its frame as bytes, and is
never parsed.
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote_plus

from .frames import BINARY, TEXT
from .positions import parse
from .prepared import BARE, CONTENT, JSON, OPCODE, SingleMessage

__all__ = [
    "BROUGHT_KEY",
    "CONNECTION",
    "PREFIX",
    "Brought",
    "brought_by",
    "bye",
    "gap",
    "joined",
    "left",
    "mark",
    "presence",
    "shown",
    "take_entry",
    "welcome",
    "wrap",
]

#: Key of the ``Brought`` in the environ of a handshake.
BROUGHT_KEY: Final = "django_wsmux.brought"

#: Prefix of the entry of a returning client in its list of subprotocols.
PREFIX: Final = "wsmux.at."

#: The most characters of that entry, or of a query string, that are read.
_MOST: Final = 4096

#: The most positions that are read.
_MOST_POSITIONS: Final = 64

#: The most characters of a group's name, and of an id with its signature.
_MOST_NAME: Final = 200

_KEYS: Final = {JSON: b'"data":', CONTENT: b'"content":', TEXT: b'"text":'}

# json.dumps() would create an encoder for each call.
_dump: Final = json.JSONEncoder(separators=(",", ":")).encode

#: For each group that a client joined: the position, and whether all missed messages are sent.
Groups = Mapping[str, tuple[str | None, bool | None]]


# Frames to the client


def wrap(message: SingleMessage, name: str, position: str) -> bytes:
    """Return a message as the payload of a frame.

    Args:
        message: the message.
        name: the name that the client knows the group by; ``""`` for a message to one socket.
        position: the position of a numbered message, else ``""``.

    Example:
        >>> wrap(SingleMessage(JSON, b'{"n": 1}'), "room", "a.1-2")
        b'{"at":"a.1-2","in":"room","data":{"n": 1}}'
    """
    kind, payload = message.kind, message.payload
    if kind == BARE:
        return payload
    if kind & OPCODE == BINARY:
        head = f"{position} {name}".encode(errors="surrogatepass") if name else b""
        return len(head).to_bytes(2, "big") + head + payload
    start = b"{"
    if name:
        at = f'"at":"{position}",' if position else ""
        start = f'{{{at}"in":{_dump(name)},'.encode()
    if message.pages:
        start += f'"not":{_dump(message.pages)},'.encode()
    if kind != JSON:
        payload = _dump(payload.decode()).encode()
    return b"%b%b%b}" % (start, _KEYS[kind], payload)


def welcome(client: str, ping: float, groups: Groups) -> str:
    """Return the first frame.

    Args:
        client: id and signature.
        ping: seconds between two heartbeats; 0 for none.
        groups: see ``joined()``.
    """
    fields = {"client": client, "ping": ping, "groups": _described(groups)}
    return _dump({"welcome": fields})


def joined(groups: Groups) -> str:
    """Return the frame about groups that were joined after the welcome.

    Args:
        groups: by name: the position of the newest message, ``None`` if it cannot be read yet; and
            whether all missed messages are sent, ``None`` if the client asked for none.
    """
    return _dump({"joined": _described(groups)})


def _described(groups: Groups) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, (position, recovered) in groups.items():
        if position is None:
            found[name] = {"recovered": None}
        elif recovered is None:
            found[name] = {"at": position}
        else:
            found[name] = {"at": position, "recovered": recovered}
    return found


def left(names: Iterable[str]) -> str:
    """Return the frame about groups that the socket left."""
    return _dump({"left": list(names)})


def gap(positions: Mapping[str, str]) -> str:
    """Return the frame about messages that were missed, up to these positions."""
    return _dump({"gap": dict(positions)})


def mark(name: str, position: str) -> str:
    """Return the frame about a message that the view has handled itself."""
    return _dump({"at": position, "in": name})


def presence(
    name: str, people: Iterable[tuple[str, str]], gone: Sequence[str] = (), *, is_whole: bool
) -> str:
    """Return the frame about who is present in a group.

    Args:
        name: the name that the client knows the group by.
        people: the keys that are present, or that have joined, with their ``info`` as JSON.
        gone: the keys that have left.
        is_whole: whether ``people`` are all who are present.

    Example:
        >>> presence("room", [("7", '{"name":"Ada"}')], ["8"], is_whole=False)
        '{"in":"room","presence":{"joined":{"7":{"name":"Ada"}},"left":["8"]}}'
    """
    described = ",".join([f"{_dump(key)}:{info}" for key, info in people])
    if is_whole:
        parts = f'"all":{{{described}}}'
    else:
        found = [f'"joined":{{{described}}}'] if described else []
        parts = ",".join([*found, f'"left":{_dump(list(gone))}'] if gone else found)
    return f'{{"in":{_dump(name)},"presence":{{{parts}}}}}'


def bye(after: float) -> str:
    """Return the frame before a close, which tells the client after how many seconds to return."""
    return _dump({"bye": {"after": after}})


#: Prefix of the names of groups that consist of one connection, before the id of its client.
CONNECTION: Final = "@connection:"


def shown(name: str) -> str:
    """Return the name that a client knows a group by: ids of users and sessions are left out.

    Example:
        >>> shown("@user:12"), shown("room.lobby")
        ('@user', 'room.lobby')
    """
    return name.partition(":")[0] if name[:1] == "@" else name


# Data from the client


class Brought:
    """The data that a client sent with its handshake.

    Attributes:
        client_id: its id; ``None`` if ``resume.read()`` found a wrong signature.
        identity: the user that the page was made for, as a hash; ``None`` if the client did not
            send it.
        recovered: for each group whose position was taken: whether nothing is missed; ``None``
            until that is known.
    """

    __slots__ = ("_first", "_positions", "client_id", "identity", "recovered")

    def __init__(self, client_id: str | None = None, identity: str | None = None) -> None:
        self.client_id = client_id
        self.identity = identity
        self.recovered: dict[str, bool | None] = {}
        self._positions: dict[str, str] = {}
        # For the first group that the view joins and that has no position of its own.
        self._first: str | None = None

    def add(self, name: str, position: str) -> None:
        """Add a position, unless the group has one.

        Args:
            name: the group's name as the client knows it; ``""`` for the first group that the view
                joins.
            position: the position, which is not checked.
        """
        if not name:
            self._first = self._first or position
        elif len(self._positions) < _MOST_POSITIONS:
            self._positions.setdefault(name, position)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the groups whose positions were not taken yet."""
        return tuple(self._positions)

    @property
    def is_taken(self) -> bool:
        """Whether neither positions nor an identity are left."""
        return not self._positions and self._first is None and self.identity is None

    def take(self, name: str) -> str | None:
        """Remove a group's position and return it.

        Args:
            name: the group's name as the client knows it.
        """
        position = self._positions.pop(name, None)
        if position is None:
            position, self._first = self._first, None
        if position is not None:
            self.recovered[name] = None
        return position

    def state(self) -> list[Any]:
        """Return all of this as values of JSON, for ``restored()``."""
        return [self.client_id, self.identity, self.recovered, self._positions, self._first]

    @classmethod
    def restored(cls, state: list[Any]) -> Brought:
        """Return what ``state()`` was called for."""
        brought = cls(state[0], state[1])
        brought.recovered, brought._positions, brought._first = state[2:]
        return brought

    def note(self, name: str, recovered: bool | None) -> None:
        """Note whether the client gets all that followed the position of a group."""
        if name in self.recovered:
            self.recovered[name] = recovered


def brought_by(environ: dict[str, Any]) -> Brought | None:
    """Return the data that the client sent; remove it from the list of subprotocols.

    Malformed parts count as absent.

    Args:
        environ: the environ of a handshake.
    """
    brought = None
    if PREFIX in environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", ""):
        brought = _parse_entry(take_entry(environ))
    query = environ.get("QUERY_STRING", "")
    if "at=" in query:
        found = list(_positions_in(query[:_MOST]))
        if len(query) > _MOST:
            found = found[:-1]  # the end of its number may be missing
        for name, position in found:
            brought = brought or Brought()
            brought.add(name, position)
    return brought


def take_entry(environ: dict[str, Any]) -> str:
    """Remove entries of returning clients from the list of subprotocols; return the first one.

    An entry contains an id that is as good as a password, so it must not be logged.
    """
    names = [name.strip() for name in environ["HTTP_SEC_WEBSOCKET_PROTOCOL"].split(",")]
    entries = [name for name in names if name.startswith(PREFIX)]
    others = [name for name in names if not name.startswith(PREFIX)]
    environ["HTTP_SEC_WEBSOCKET_PROTOCOL"] = ", ".join(others)
    if not others:
        del environ["HTTP_SEC_WEBSOCKET_PROTOCOL"]
    return entries[0].removeprefix(PREFIX) if entries else ""


def _parse_entry(entry: str) -> Brought | None:
    if not entry or len(entry) > _MOST:
        return None
    digits = entry.rstrip("=")
    try:
        value = json.loads(urlsafe_b64decode(digits + "=" * (-len(digits) % 4)))
    except (binascii.Error, RecursionError, ValueError):
        return None
    if not isinstance(value, dict):
        return None
    brought = Brought(_short_text(value.get("c")), _short_text(value.get("u")))
    groups = value.get("g")
    if not isinstance(groups, dict):
        return brought
    for name, position in list(groups.items())[:_MOST_POSITIONS]:
        is_name = name == "" or _short_text(name)
        if is_name and isinstance(position, str) and parse(position) is not None:
            brought.add(name, position)
    return brought


def _short_text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _MOST_NAME else None


def _positions_in(query: str) -> Iterator[tuple[str, str]]:
    """Yield names and positions of ``at=`` in a query string; ``""`` for no name."""
    for field in query.split("&"):
        key, _, value = field.partition("=")
        if key != "at":
            continue
        pending = ""
        # A name may contain a comma or an "@".
        for part in unquote_plus(value).split(",")[:_MOST_POSITIONS]:
            pending = f"{pending},{part}" if pending else part
            name, _, position = pending.rpartition("@")
            if parse(position) is not None:
                yield name, position
                pending = ""
            elif len(pending) > _MOST_NAME:
                pending = ""
