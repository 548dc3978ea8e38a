"""The frames of wsmux.v1, and the data that clients send."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_wsmux.protocol import v1
from django_wsmux.protocol.frames import BINARY, TEXT
from django_wsmux.protocol.prepared import (
    BARE,
    CONTENT,
    JSON,
    PagedMessage,
    PreparedMessage,
    SingleMessage,
)
from tests.support import ROOT

WIRE = ROOT / "docs" / "wire.rst"

AT = "k3v9q2mx.h8s1c0a2w4-42"


def entry(value: Any) -> str:
    """Return the entry of a client among its subprotocols."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return v1.PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


def brought(*entries: str, query: str = "") -> v1.Brought | None:
    """Return the data of a client with these subprotocols and this query string."""
    environ = {"QUERY_STRING": query}
    if entries:
        environ["HTTP_SEC_WEBSOCKET_PROTOCOL"] = ", ".join(entries)
    return v1.brought_by(environ)


class TestFrames:
    """Frames to the client."""

    @pytest.mark.parametrize(
        ("kind", "payload", "name", "position", "expected"),
        [
            (JSON, b'{"n": 1}', "room", AT, b'{"at":"%b","in":"room","data":{"n": 1}}'),
            (JSON, b"[]", "room", "", b'{"in":"room","data":[]}'),
            (JSON, b"null", "", "", b'{"data":null}'),
            (TEXT, b'a"b\n', "", "", rb'{"text":"a\"b\n"}'),
            (CONTENT, b"<p>", "room", AT, b'{"at":"%b","in":"room","content":"<p>"}'),
            (BARE, b'{"ref":1}', "", "", b'{"ref":1}'),
        ],
    )
    def test_text(
        self, kind: int, payload: bytes, name: str, position: str, expected: bytes
    ) -> None:
        """A message is a field of an object, with group and position."""
        frame = v1.wrap(SingleMessage(kind, payload), name, position)
        assert frame == expected.replace(b"%b", AT.encode())

    @given(st.text(), st.text(), st.booleans())
    def test_any_text(self, text: str, name: str, is_json: bool) -> None:
        """Every frame is JSON with the original values."""
        try:
            payload = json.dumps(text).encode() if is_json else text.encode()
        except UnicodeEncodeError:
            return
        frame = json.loads(v1.wrap(SingleMessage(JSON if is_json else TEXT, payload), name, ""))
        assert frame.pop("data" if is_json else "text") == text
        assert frame == ({"in": name} if name else {})

    def test_pages(self) -> None:
        """Excluded pages are named."""
        message = PagedMessage(PreparedMessage(JSON, b"1", "room", AT), ["p1", "p2"])
        frame = json.loads(v1.wrap(message, "room", AT))
        assert frame == {"at": AT, "in": "room", "not": ["p1", "p2"], "data": 1}

    @pytest.mark.parametrize(
        ("name", "position", "head"),
        [
            ("", "", b"\x00\x00"),
            ("room é", AT, b"\x00\x1e" + AT.encode() + " room é".encode()),
            ("room", "", b"\x00\x05 room"),
        ],
    )
    def test_binary(self, name: str, position: str, head: bytes) -> None:
        """A binary message follows its head, whose length is in its first two bytes."""
        assert v1.wrap(SingleMessage(BINARY, b"\x00{}"), name, position) == head + b"\x00{}"

    def test_others(self) -> None:
        """Every other frame is an object with one key."""
        groups = {"a": (AT, True), "b": (AT, False), "c": (AT, None), "d": (None, None)}
        described = {
            "a": {"at": AT, "recovered": True},
            "b": {"at": AT, "recovered": False},
            "c": {"at": AT},
            "d": {"recovered": None},
        }
        assert json.loads(v1.welcome("id~sig", 20, groups)) == {
            "welcome": {"client": "id~sig", "ping": 20, "groups": described}
        }
        assert json.loads(v1.joined(groups)) == {"joined": described}
        assert v1.left(["a"]) == '{"left":["a"]}'
        assert v1.gap({"a": AT}) == f'{{"gap":{{"a":"{AT}"}}}}'
        assert v1.mark("a", AT) == f'{{"at":"{AT}","in":"a"}}'
        assert v1.bye(1.5) == '{"bye":{"after":1.5}}'

    def test_names(self) -> None:
        """No id of a user or a session is shown."""
        shown = [v1.shown(name) for name in ("@user:12", "@session:ab", "a:b")]
        assert shown == ["@user", "@session", "a:b"]


class TestEntry:
    """The entry of a returning client."""

    def test_all(self) -> None:
        """Id, identity and positions are read; each position is taken once."""
        value = {"c": "id~sig", "u": "me", "g": {"a": AT, "b@c": AT}}
        found = brought("wsmux.v1", entry(value))
        assert found is not None
        assert (found.client_id, found.identity, found.names) == ("id~sig", "me", ("a", "b@c"))
        assert [found.take(name) for name in ("a", "a", "x", "b@c")] == [AT, None, None, AT]
        assert found.names == ()

    def test_padding(self) -> None:
        """The padding of base64 may be left out."""
        for name in ("x", "xy", "xyz"):
            data = json.dumps({"g": {name: AT}}).encode()
            for text in (base64.urlsafe_b64encode(data).decode(), entry(data)[len(v1.PREFIX) :]):
                found = brought(v1.PREFIX + text)
                assert found is not None
                assert found.names == (name,)

    def test_kept_from_logs(self) -> None:
        """The entries are removed from the list, wherever they are."""
        environ = {"HTTP_SEC_WEBSOCKET_PROTOCOL": f"{entry({})},wsmux.v1 ,{entry({})}, x"}
        v1.brought_by(environ)
        assert environ == {"HTTP_SEC_WEBSOCKET_PROTOCOL": "wsmux.v1, x"}
        environ = {"HTTP_SEC_WEBSOCKET_PROTOCOL": entry({})}
        v1.brought_by(environ)
        assert environ == {}

    def test_others_untouched(self) -> None:
        """A list without such an entry stays as it is."""
        environ = {"HTTP_SEC_WEBSOCKET_PROTOCOL": "a,b ,xwsmux.at.y", "QUERY_STRING": "format=1"}
        before = dict(environ)
        assert v1.brought_by(environ) is None
        assert environ["QUERY_STRING"] == before["QUERY_STRING"]
        assert v1.brought_by({}) is None

    @pytest.mark.parametrize(
        "bad",
        [
            v1.PREFIX,
            v1.PREFIX + "!",
            v1.PREFIX + "A",
            entry(b"{"),
            entry(b"\xff"),
            entry(b"[" * 2000),
            entry([]),
            entry("c"),
            entry({"c": "x" * 4096}),
        ],
    )
    def test_malformed(self, bad: str) -> None:
        """A malformed entry counts as absent."""
        assert brought("wsmux.v1", bad) is None

    def test_malformed_parts(self) -> None:
        """Each malformed part of an entry counts as absent."""
        groups = {"a": AT, "b": 1, "c": "1-2", "": "-", "x" * 201: AT, "d": AT.upper(), "e": None}
        found = brought(entry({"c": 1, "u": ["x"], "g": groups}))
        assert found is not None
        assert (found.client_id, found.identity, found.names) == (None, None, ("a",))
        values: list[dict[str, Any]] = [{"g": []}, {"c": "", "u": "y" * 201}]
        for value in values:
            found = brought(entry(value))
            assert found is not None
            assert (found.client_id, found.identity, found.names) == (None, None, ())

    def test_no_name(self) -> None:
        """A position without a name is for the first group that has no other."""
        found = brought(entry({"g": {"": AT, "a": "e.1-1"}}))
        assert found is not None
        assert found.names == ("a",)
        assert [found.take("a"), found.take("b"), found.take("c")] == ["e.1-1", AT, None]

    def test_bounds(self) -> None:
        """Only the first 64 positions are used, and only 4 KB are read."""
        found = brought(entry({"g": {str(number): "a.b-1" for number in range(80)}}))
        assert found is not None
        assert len(found.names) == 64
        assert brought(entry({"g": {str(number): "a.b-1" for number in range(10_000)}})) is None

    @given(st.text(max_size=200), st.binary(max_size=200), st.text(max_size=200))
    def test_never_raises(self, text: str, data: bytes, query: str) -> None:
        """No input raises."""
        brought("wsmux.v1", v1.PREFIX + text, query=f"at={query}")
        brought(entry(data), query=query)

    @given(st.recursive(st.none() | st.text() | st.integers(), st.lists) | st.text())
    def test_any_value(self, value: Any) -> None:
        """No JSON value raises."""
        brought(entry({"c": value, "u": value, "g": {"a": value}}))
        brought(entry({"g": value}))

    def test_manual(self) -> None:
        """The example of the manual contains a position."""
        (header,) = re.findall(r"Sec-WebSocket-Protocol: (.+,.+)", WIRE.read_text())
        found = v1.brought_by({"HTTP_SEC_WEBSOCKET_PROTOCOL": header})
        assert found is not None
        assert found.take("room.lobby") == "k3v9.h1-42"


class TestQuery:
    """Positions in the query string."""

    def test_first_group(self) -> None:
        """A position without a name is for the first group without a position of its own."""
        found = brought(query=f"x=1&at={AT}")
        assert found is not None
        assert found.names == ()
        assert [found.take("any"), found.take("other")] == [AT, None]

    @pytest.mark.parametrize(
        "query",
        [
            f"at=room.lobby@{AT},b%40c%2Cd@{AT}",
            f"at=room.lobby%40{AT}%2Cb%40c%2Cd%40{AT}",
            f"at=room.lobby@{AT}&at=b%40c%2Cd@{AT}",
        ],
    )
    def test_several(self, query: str) -> None:
        """The position follows the last "@", for any quoting of the value."""
        found = brought(query=query)
        assert found is not None
        assert found.names == ("room.lobby", "b@c,d")
        assert found.take("b@c,d") == AT

    @pytest.mark.parametrize("query", ["at=", "at=x", "at=room@", "cat=a@" + AT, "at=room@1-2"])
    def test_malformed(self, query: str) -> None:
        """A malformed position counts as absent."""
        assert brought(query=query) is None

    def test_entry_wins(self) -> None:
        """The entry's position of a group takes precedence."""
        found = brought(entry({"g": {"a": "e.1-1"}}), query=f"at=a@{AT},b@{AT}")
        assert found is not None
        assert [found.take("a"), found.take("b")] == ["e.1-1", AT]


def test_query_that_is_too_long() -> None:
    """A number whose end may be missing is not a position."""
    filler = "x" * (4096 - len("&at=a.1-23,b@a.1-45"))
    brought = v1.brought_by({"QUERY_STRING": f"{filler}&at=a.1-23,b@a.1-456"})
    assert brought is not None
    assert (brought.take("room"), brought.take("b")) == ("a.1-23", None)
