"""The site on Django Channels, set up as in its documentation, with both kinds of consumers.

``BENCH_REDIS`` names the broker of the channel layer; without it the layer is in memory.
"""

from __future__ import annotations

import os
from typing import Any

from django_site import APPS, block, configure

redis = os.environ.get("BENCH_REDIS")
configure(
    INSTALLED_APPS=["channels", *APPS],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [redis]},
        }
        if redis
        else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    },
)

from django.core.asgi import get_asgi_application  # noqa: E402

pages = get_asgi_application()

from asgiref.sync import async_to_sync  # noqa: E402
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.db import database_sync_to_async  # noqa: E402
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import path  # noqa: E402

__all__ = ["application"]


class SyncConsumer(WebsocketConsumer):
    """A consumer for signed-in users."""

    def connect(self) -> None:
        """Refuse anonymous clients."""
        if self.scope["user"].is_authenticated:
            self.accept()
        else:
            self.close()


class SyncEcho(SyncConsumer):
    """Send back every message."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Send back a message."""
        self.send(text_data=text_data, bytes_data=bytes_data)


class SyncRoom(SyncConsumer):
    """Receive the messages of the room."""

    groups = ("room",)

    def said(self, event: dict[str, Any]) -> None:
        """Pass on a message."""
        self.send(text_data=event["text"])


class SyncSpeaker(SyncConsumer):
    """Send each message to the room."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Send a message to all members."""
        event = {"type": "said", "text": text_data}
        async_to_sync(self.channel_layer.group_send)("room", event)


class SyncSleeper(SyncConsumer):
    """Answer after the database has answered."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Wait for the database."""
        block()
        self.send(text_data=text_data)


class AsyncConsumer(AsyncWebsocketConsumer):
    """A consumer for signed-in users."""

    async def connect(self) -> None:
        """Refuse anonymous clients."""
        if self.scope["user"].is_authenticated:
            await self.accept()
        else:
            await self.close()


class AsyncEcho(AsyncConsumer):
    """Send back every message."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Send back a message."""
        await self.send(text_data=text_data, bytes_data=bytes_data)


class AsyncRoom(AsyncConsumer):
    """Receive the messages of the room."""

    groups = ("room",)

    async def said(self, event: dict[str, Any]) -> None:
        """Pass on a message."""
        await self.send(text_data=event["text"])


class AsyncSpeaker(AsyncConsumer):
    """Send each message to the room."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Send a message to all members."""
        await self.channel_layer.group_send("room", {"type": "said", "text": text_data})


class AsyncSleeper(AsyncConsumer):
    """Answer after the database has answered."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Wait for the database, as the documentation recommends."""
        await database_sync_to_async(block)()
        await self.send(text_data=text_data)


sockets = [
    path("sync/echo/", SyncEcho.as_asgi()),
    path("sync/room/", SyncRoom.as_asgi()),
    path("sync/speaker/", SyncSpeaker.as_asgi()),
    path("sync/sleep/", SyncSleeper.as_asgi()),
    path("async/echo/", AsyncEcho.as_asgi()),
    path("async/room/", AsyncRoom.as_asgi()),
    path("async/speaker/", AsyncSpeaker.as_asgi()),
    path("async/sleep/", AsyncSleeper.as_asgi()),
]
application = ProtocolTypeRouter(
    {
        "http": pages,
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(sockets))),
    }
)
