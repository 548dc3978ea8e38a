"""Pages whose views change rows."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import path

from django_wsmux.html import send_template

from .lines.models import Broken, Line, Room

__all__ = ["urlpatterns"]


def say(request: HttpRequest) -> HttpResponse:
    """Create a line, change it, or delete it if it gets no text."""
    room, _ = Room.objects.get_or_create(pk=1)
    line = Line.objects.filter(room=room).first() or Line(room=room)
    line.text = request.GET.get("text", "")
    line.sender = request.websocket_client  # type: ignore[attr-defined]
    if line.text:
        line.save()
    else:
        line.delete()
    return HttpResponse("said")


def fail(request: HttpRequest) -> HttpResponse:
    """Create a row whose template fails, and one more."""
    Broken.objects.create(text="a")
    send_template("room.1", "lines/broken.html", on_commit=True)
    return say(request)


urlpatterns = [path("say/", say), path("fail/", fail)]
