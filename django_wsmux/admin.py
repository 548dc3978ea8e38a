"""A page in Django's admin that shows the open sockets of all processes.

It needs only ``django.contrib.admin``. To update itself it opens a socket of its own, whose URL the
project mounts::

    path("admin/sockets/", include("django_wsmux.monitoring.page"))     # in WEBSOCKET_URLCONF
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path

from .exceptions import BackendUnavailable
from .groups.group import Group
from .groups.users import disconnect
from .models import Socket
from .monitoring import page
from .urls import websocket_url

__all__ = ["SocketAdmin"]


@admin.register(Socket)
class SocketAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # no generic when it runs
    """The page, for users with the permission to view sockets."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return ``False``: sockets cannot be added here."""
        return False

    has_change_permission = has_delete_permission = has_add_permission

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may see the page."""
        return page.is_permitted(request.user)

    def get_urls(self) -> list[URLPattern]:
        """Return the URL of the only page."""
        view = self.admin_site.admin_view(self.changelist_view)
        return [path("", view, name="django_wsmux_socket_changelist")]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the page, or close the sockets of a user."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            return self._disconnect(request, request.POST.get("user", ""))
        try:
            url = websocket_url(f"{page.NAMESPACE}:overview", request=request)
        except NoReverseMatch:
            url = ""
        group = request.GET.get("group", "")
        context = {
            **self.admin_site.each_context(request),
            **page.context(group, request.user),
            "title": "Sockets",
            "opts": self.opts,
            "url": url,
            **(extra_context or {}),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "admin/django_wsmux/overview.html", context)

    def _disconnect(self, request: HttpRequest, user_id: str) -> HttpResponse:
        """Close the sockets of a user in all processes, and log who did so."""
        if not page.may_close(request.user):
            raise PermissionDenied
        try:
            count = Group.for_user(user_id).count()
            disconnect(user_id)
        except (ValueError, BackendUnavailable) as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            self._note(request, user_id, f"{count} WebSockets closed")
        return redirect(request.get_full_path())

    def _note(self, request: HttpRequest, user_id: str, what: str) -> None:
        try:
            user = get_user_model()._default_manager.filter(pk=user_id).first()
        except (TypeError, ValueError, ValidationError):
            user = None  # as in overview_page
        if user is not None:
            self.log_change(request, user, what)
        self.message_user(request, f"{user or user_id}: {what}", messages.SUCCESS)
