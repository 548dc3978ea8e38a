"""The history of a group: positions, messages, errors."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_wsmux.groups import Group
from django_wsmux.protocol.positions import epoch_of

from .peers import Peer

pytestmark = pytest.mark.usefixtures("history")


def test_history() -> None:
    """The history contains the messages with their positions and times."""
    group = Group("room.1")
    start = group.position()
    assert group.history().messages == group.history(since=start).messages == []
    group.send("text")
    group.send(b"binary")
    group.send_json({"n": 1})
    found = group.history()
    assert [each.data for each in found.messages] == ["text", b"binary", '{"n": 1}']
    assert found.complete
    assert found.position == found.messages[-1].position == group.position()
    assert all(each.sent.tzinfo for each in found.messages)
    assert len(group.history(since=found.messages[0].position).messages) == 2
    assert group.history(since=start).complete
    newest = group.history(limit=1)
    assert [json.loads(each.data) for each in newest.messages] == [{"n": 1}]
    assert not newest.complete
    with pytest.raises(ValueError, match="position"):
        group.history(since="x")
    with pytest.raises(ValueError, match="limit"):
        group.history(limit=0)


def test_no_history(connect: Callable[[], Peer]) -> None:
    """Without a pattern, all methods of histories raise an error that names the setting."""
    group = Group("other")
    for function in (
        group.position,
        group.history,
        group.forget,
        lambda: group.send("1", key="k"),
        lambda: group.join(connect().websocket, since=f"{epoch_of('a', 1)}-1"),
    ):
        with pytest.raises(ImproperlyConfigured, match="WEBSOCKET_HISTORY"):
            function()
