"""The request cycle of a handshake: settings, pages, signals."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_finished
from django.test import override_settings

from django_wsmux.test import WebSocketClient

pytestmark = pytest.mark.usefixtures("sockets")


@override_settings(WEBSOCKET_URLCONF="no.such.module")
def test_bad_settings(client: WebSocketClient) -> None:
    """A setting with which no server starts is the same error here."""
    with pytest.raises(ImproperlyConfigured, match="WEBSOCKET_URLCONF 'no"):
        client.websocket("/function/")


@pytest.mark.django_db
def test_plain_request(client: WebSocketClient) -> None:
    """Otherwise the client is Django's."""
    assert client.get("/login/").content == b"who are you"
    assert client.get("/function/").status_code == 404


def test_receiver_of_request_finished_raises(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """The socket is already open: the error is logged, and the view continues."""

    def fail(**kwargs: Any) -> None:
        raise RuntimeError("a receiver's bug")

    client = WebSocketClient(raise_request_exception=False)
    request_finished.connect(fail)
    try:
        ws = client.websocket(path)
    finally:
        request_finished.disconnect(fail)
    assert "a receiver's bug" in caplog.text
    with ws:
        ws.send("hello")
        assert ws.receive() == "hello"
