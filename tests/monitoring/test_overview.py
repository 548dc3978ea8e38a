"""The overview of sockets and groups."""

from __future__ import annotations

import pytest

from django_wsmux.groups.pubsub import pubsub
from django_wsmux.monitoring.overview import collect
from django_wsmux.test import WebSocketClient
from tests.groups.test_group import PREFIXED, active

pytestmark = pytest.mark.usefixtures("sockets")


@PREFIXED
def test_overview(client: WebSocketClient) -> None:
    """Operators see the groups of all tenants, with prefix and name."""
    pubsub.serve()
    with client.websocket("/lobby/"), active("b"), client.websocket("/lobby/"):
        seen = collect(10)
        assert sorted((each.prefix, each.name, each.members) for each in seen.groups) == [
            ("a", "lobby", 1),
            ("b", "lobby", 1),
        ]
        assert collect(10, "lobby").total == 2
        assert collect(10, "lobby", "b").total == 1
        assert collect(10, "lobby", "").total == 0
