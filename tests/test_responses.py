"""Responses to a handshake, and helpers for all responses."""

from __future__ import annotations

import pytest
from django.http import HttpResponse, StreamingHttpResponse

from django_wsmux.responses import (
    SwitchingProtocols,
    WebSocketResponse,
    add_length,
    refusal_reason,
)


def test_switching_protocols() -> None:
    """The response has status 101 and no header of a page."""
    response = WebSocketResponse(lambda websocket: None, subprotocols=["chat"], compression=False)
    assert isinstance(response, SwitchingProtocols)
    assert response.status_code == 101
    assert not response.headers
    assert (response.subprotocols, response.compression) == (["chat"], False)


@pytest.mark.parametrize(
    ("phrase", "reason"),
    [
        (None, "403 Forbidden"),
        ("x" * 200, "403 " + "x" * 119),
        ("\u00e9" * 100, "403 " + "\u00e9" * 59),
    ],
)
def test_refusal_reason(phrase: str | None, reason: str) -> None:
    """The reason has at most 123 bytes and no half of a character."""
    assert refusal_reason(HttpResponse(status=403, reason=phrase)) == reason


def test_add_length() -> None:
    """A page without a length gets one; other responses stay as they are."""
    page = HttpResponse("caf\u00e9")
    add_length(page)
    assert page.headers["Content-Length"] == "5"
    page.headers["Content-Length"] = "7"
    add_length(page)
    assert page.headers["Content-Length"] == "7"
    for other in (HttpResponse(status=204), SwitchingProtocols(), StreamingHttpResponse([b"x"])):
        add_length(other)
        assert not other.has_header("Content-Length")
