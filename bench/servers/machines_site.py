"""The site of ``machines.py``: rooms with a history, whose messages come from other processes."""

from __future__ import annotations

import os
import select
import sys
import time

from django_site import APPS, configure

configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": os.environ["BENCH_HOST"],
            "PORT": os.environ["BENCH_PORT"],
            "NAME": "postgres",
            "USER": "postgres",
        }
    },
    INSTALLED_APPS=["django_wsmux", *APPS],
    MIDDLEWARE=[],
    ROOT_URLCONF="django_pages",
    WEBSOCKET_URLCONF="machines_site",
    WEBSOCKET_BACKEND=os.environ["BENCH_BACKEND"],
    WEBSOCKET_HISTORY={"room.*": {"messages": 20_000, "seconds": 3600, "bytes": 2**24}},
    WEBSOCKET_HISTORY_LIMIT=5000,
    # Clients notice soon that a machine is gone, and the other way round.
    WEBSOCKET_PING_INTERVAL=2.0,
    WEBSOCKET_PING_TIMEOUT=4.0,
)

from django.core.management import call_command  # noqa: E402
from django.urls import path  # noqa: E402

from django_wsmux.exceptions import BackendUnavailable  # noqa: E402
from django_wsmux.groups import Group  # noqa: E402
from django_wsmux.views import WebSocketView  # noqa: E402
from django_wsmux.wsgi import get_wsgi_application  # noqa: E402

__all__ = ["Room", "application", "migrate", "speak", "urlpatterns"]


class Room(WebSocketView):
    """Receive the messages of a room."""

    def get_groups(self) -> list[str]:
        """Return the room."""
        return [f"room.{self.kwargs['number']}"]


def migrate() -> None:
    """Create the tables of PostgreSQL."""
    call_command("migrate", verbosity=0)


def speak(name: str, rooms: int, rate: float) -> None:
    """Send numbers to each room until the input ends; print the last one.

    A message that could not be sent is sent again, with the same key.
    """
    number = 0
    while not select.select([sys.stdin], [], [], 1 / rate)[0]:
        number += 1
        for room in range(rooms):
            while True:
                try:
                    Group(f"room.{room}").send(f"{name} {number}", key=f"{name}-{number}")
                except BackendUnavailable:
                    time.sleep(0.2)
                else:
                    break
    print(number)


urlpatterns = [path("room/<int:number>/", Room.as_view())]
application = get_wsgi_application()
