"""Sockets that move from one process to another with their groups."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import override_settings

from django_wsmux.groups import Group, moving
from django_wsmux.groups.members import Key
from django_wsmux.groups.pubsub import channel_of, members, pubsub
from django_wsmux.protocol.events import CannotMove

from . import peers
from .peers import Peer


class Hooks(peers.Hooks):
    """A framework whose socket belongs to a user."""

    def __init__(self, *groups: Key) -> None:
        super().__init__()
        self.groups = groups

    def leave(self, websocket: Any) -> None:
        """Leave the groups of the user."""
        for key in self.groups:
            pubsub.discard(key, websocket)


@override_settings(WEBSOCKET_BACKEND="memory://")
def test_memberships() -> None:
    """A socket is in the same groups again, with the same infos, and leaves them when it closes."""
    keys: list[Key] = ["@user:1", ("blue", "room"), "room"]
    old, new = Peer(), Peer()
    old.websocket.hooks = new.websocket.hooks = Hooks("@user:1")
    old.open()
    pubsub.add("@user:1", old.websocket)
    Group("room").join(old.websocket, {"name": "Ann"})
    with override_settings(WEBSOCKET_GROUP_PREFIX="tests.groups.test_moving.prefix"):
        Group("room").join(old.websocket)
    assert moving.request([old.websocket])["channels"] == sorted(map(channel_of, keys))
    record = json.loads(json.dumps(moving.memberships(old.websocket)))
    assert moving.people(record) == ("@user:1",)
    moving.rejoin(new.websocket, record)
    for key in keys:
        assert members.of(key) == [old.websocket, new.websocket]
    assert members.info("room", new.websocket) == {"name": "Ann"}
    assert members.info(("blue", "room"), new.websocket) is None
    old.websocket.connection_lost()
    new.websocket.abandon()
    assert not any(map(members.of, keys))


def prefix() -> str:
    """Return the prefix of groups."""
    return "blue"


@override_settings(WEBSOCKET_BACKEND="memory://")
def test_held() -> None:
    """A socket that is joining a group cannot move now."""
    peer = Peer().open()
    peer.websocket.hold()
    with pytest.raises(CannotMove, match="held back"):
        moving.memberships(peer.websocket)
    peer.websocket.connection_lost()
