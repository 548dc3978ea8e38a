"""The chat of a well-known tutorial: rooms by name, here for members only."""

from __future__ import annotations

import json

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest
from django.urls import path

from django_wsmux.decorators import websocket
from django_wsmux.groups import Group
from django_wsmux.websocket import WebSocket


@login_required
@websocket
def chat(request: HttpRequest, websocket: WebSocket, room: str) -> None:
    group = Group(f"chat_{room}")
    with group.joined(websocket):
        for message in websocket:
            group.send_json({"message": json.loads(message)["message"]})


urlpatterns = [path("ws/chat/<slug:room>/", chat)]
