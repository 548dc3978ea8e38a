"""The project; its processes lose, duplicate and delay messages, and can print what they read."""

from __future__ import annotations

import os
import random
from typing import Any

import gevent

from django_wsmux.groups.envelope import NUMBERED
from django_wsmux.groups.pubsub import PubSub
from django_wsmux.history.sqlite import SQLiteStore
from django_wsmux.history.store import Reading, Stream

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


_read = SQLiteStore.read


def _read_and_tell(self: SQLiteStore, stream: Stream, *args: Any, **options: Any) -> Reading:
    print(f"reading {stream.name}", flush=True)
    return _read(self, stream, *args, **options)


if os.environ.get("TEST_READS"):
    SQLiteStore.read = _read_and_tell  # type: ignore[method-assign]
if _SHARE:
    PubSub._receive = _receive_perhaps  # type: ignore[method-assign]
