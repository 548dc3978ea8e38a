"""The site that the test client opens sockets of, and its settings."""

from __future__ import annotations

from pathlib import Path

from django.test import override_settings

__all__ = ["SITE"]

TEMPLATES = {
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "DIRS": [Path(__file__).parent / "templates"],
}

SITE = override_settings(
    TEMPLATES=[TEMPLATES],
    WEBSOCKET_URLCONF="tests.site.sockets",
    ROOT_URLCONF="tests.site.pages",
    STATIC_URL="static/",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
)
