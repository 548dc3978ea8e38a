"""Data that a client sends with its handshake, before any view is called."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from django_wsmux.groups import clients
from django_wsmux.handlers import resume
from django_wsmux.protocol.v1 import BROUGHT_KEY, PREFIX


def handshake(**brought: Any) -> dict[str, Any]:
    """Return the environ of a client's handshake after it was read."""
    entry = PREFIX + base64.urlsafe_b64encode(json.dumps(brought).encode()).decode()
    environ = {"HTTP_SEC_WEBSOCKET_PROTOCOL": f"wsmux.v1, {entry}"}
    resume.read(environ)
    assert environ["HTTP_SEC_WEBSOCKET_PROTOCOL"] == "wsmux.v1"
    return environ


def test_nothing() -> None:
    """The environ of a client that sends nothing stays the same."""
    environ = {"HTTP_SEC_WEBSOCKET_PROTOCOL": f"a, {PREFIX}!", "QUERY_STRING": "at=x&format=1"}
    resume.read(environ)
    assert environ == {"HTTP_SEC_WEBSOCKET_PROTOCOL": "a", "QUERY_STRING": "at=x&format=1"}
    assert resume.check(environ, ()) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [("{}", "someone"), ("{}A", None), ("A{}", None)],
)
def test_id(change: str, expected: str | None) -> None:
    """Only an id with the right signature is kept, without its page."""
    signed = clients.sign("someone")
    for each in (signed, signed.replace("~", ".page~")):
        assert handshake(c=change.format(each))[BROUGHT_KEY].client_id == expected


def test_identity() -> None:
    """The user of the handshake must be that of the page, and is checked once."""
    groups = ("@user:12", "@session:x")
    environ = handshake(u="somebody")
    assert resume.check(environ, groups) == (4401, "another user")
    assert resume.check(environ, groups) is None
    assert resume.check(handshake(u=clients.ANONYMOUS), groups) == (4401, "another user")
    assert resume.check(handshake(u=clients.ANONYMOUS), ()) is None
    assert resume.check(handshake(g={}), groups) is None
