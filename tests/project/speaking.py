"""Senders and members of a group, for ``tests/backends/endurance.py``.

A sender is a socket in a worker, or this module as a program: another process of the project,
which takes orders on its standard input.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

from django.http import HttpRequest

from django_wsmux.backends import BackendUnavailable
from django_wsmux.groups import Group
from django_wsmux.signals import backend_gap
from django_wsmux.views import JSONWebSocketView, WebSocketView

#: Bytes of each message.
SIZE = 128

logger = logging.getLogger(__name__)


def line(speaker: str, number: int) -> str:
    """Return a message that consists of its sender's letter and its number."""
    return f"{speaker}{number:07d}".ljust(SIZE, ".")


def speak(
    name: str, speaker: str, first: int, count: int, pause: float
) -> list[tuple[float, bool]]:
    """Send messages to a group; return the time of each, and whether it was published."""
    group = Group(name)
    sent = []
    for number in range(first, first + count):
        # All processes of a machine share CLOCK_MONOTONIC.
        when = time.monotonic()
        try:
            group.send(line(speaker, number))
        except BackendUnavailable:
            sent.append((when, False))
        else:
            sent.append((when, True))
        if pause:
            time.sleep(pause)
    return sent


class Seat(WebSocketView):
    """A member that sends its process id, and with a query more than its peer reads."""

    def connect(self, request: HttpRequest, name: str) -> None:
        Group(name).join(self.websocket)
        self.send(f"{os.getpid():7d}")

    def receive(self, message: str | bytes) -> None:
        # The kernel's buffers are full once bytes are left over here.
        transport = self.websocket._transport
        while not transport.unsent and not self.websocket.closed:
            self.send(bytes(4096))


class Speaker(JSONWebSocketView):
    """Sends what its peer orders."""

    def connect(self, request: HttpRequest, name: str) -> None:
        self.name = name
        self.send(f"{os.getpid():7d}")

    def receive_json(self, value: dict[str, Any]) -> None:
        self.send_json(speak(self.name, **value))


def _report_gap(seconds: float, reason: str, missed: int | None, **kwargs: object) -> None:
    now = time.monotonic()
    gap = {"worker": os.getpid(), "began": now - seconds, "ended": now, "missed": missed}
    logger.warning("gap %s", json.dumps(gap))


backend_gap.connect(_report_gap)

if __name__ == "__main__":
    import django

    django.setup()
    for order in sys.stdin:
        print(json.dumps(speak(sys.argv[1], **json.loads(order))), flush=True)
