"""The project, with processes that lose, duplicate and delay each other's numbered messages."""

from __future__ import annotations

import os
import random

import gevent

from django_wsmux.groups.envelope import NUMBERED
from django_wsmux.groups.pubsub import PubSub

from .wsgi import application, websocket

__all__ = ["application", "websocket"]

_SHARE = float(os.environ.get("TEST_LOSSES", "0"))

_receive = PubSub._receive


def _receive_perhaps(self: PubSub, channel: str, payload: bytes) -> None:
    if payload[0] != NUMBERED or (luck := random.random() / _SHARE) >= 3:
        _receive(self, channel, payload)
    elif luck >= 2:
        gevent.spawn_later(random.random() / 50, _receive, self, channel, payload)
    elif luck >= 1:
        _receive(self, channel, payload)
        _receive(self, channel, payload)


if _SHARE:
    PubSub._receive = _receive_perhaps  # type: ignore[method-assign]
