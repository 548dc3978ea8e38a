"""The URLs of a project whose admin asks for more than the permissions of staff."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.urls import path

from django_wsmux.admin import SocketAdmin
from django_wsmux.models import Socket

__all__ = ["StrictSite", "site", "urlpatterns"]


class StrictSite(AdminSite):
    """Lets in those who have a second factor, here in their name."""

    def has_permission(self, request: HttpRequest) -> bool:
        """Return whether the user has one."""
        user: Any = request.user
        return super().has_permission(request) and "verified" in user.name


site = StrictSite("strict")
site.register(Socket, SocketAdmin)
urlpatterns = [path("admin/", site.urls)]
