"""The pages around the sockets."""

import socket
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.generic import TemplateView

__all__ = ["Page", "chat_page"]


class Page(TemplateView):
    """A page that is all template."""


def chat_page(request: HttpRequest, socket_name: str) -> HttpResponse:
    """Show the chat, over this process or over Redis."""
    context = {
        "socket": socket_name,
        "missing": socket_name == "redis-chat" and not redis_answers(),
    }
    return render(request, "sample_site/chat.html", context)


def redis_answers() -> bool:
    """Say whether a Redis listens where the settings say."""
    url = urlsplit(settings.REDIS_URL)
    try:
        socket.create_connection((url.hostname, url.port or 6379), timeout=0.5).close()
    except OSError:
        return False
    return True
