"""The tables of the admin's page, and the socket over which it requests updates.

The page asks every two seconds while it is visible, and gets HTML. So one template serves the page
and its updates, and nothing runs here while no one looks at the page.

The URL of the socket, for ``WEBSOCKET_URLCONF``::

    path("admin/sockets/", include("django_wsmux.monitoring.page"))
"""

from __future__ import annotations

from typing import Any, Final

from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponseBase
from django.template.loader import render_to_string
from django.urls import path

from ..protocol.frames import CloseCode
from ..views import WebSocketView
from .overview import collect

__all__ = [
    "NAMESPACE",
    "LiveOverview",
    "app_name",
    "context",
    "is_permitted",
    "may_close",
    "urlpatterns",
]

#: Namespace of the URL of the page's socket.
NAMESPACE: Final = "django_wsmux"

#: Sockets and groups that each process lists.
_LIMIT: Final = 100

#: Characters of a group's name at most.
_LONGEST_NAME: Final = 200


def is_permitted(user: Any) -> bool:
    """Return whether a user may see the page: staff with the permission to view sockets."""
    return bool(user.is_active and user.is_staff and user.has_perm("django_wsmux.view_socket"))


def may_close(user: Any) -> bool:
    """Return whether a user who may see the page may also close sockets."""
    return bool(user.has_perm("django_wsmux.close_socket"))


def context(group: str, user: Any) -> dict[str, Any]:
    """Return the template context of the tables.

    Args:
        group: name of the group whose members to show, with any prefix; ``""`` for all sockets.
        user: the user who sees the tables.
    """
    group = group[:_LONGEST_NAME]
    overview = collect(_LIMIT, group or None)
    return {
        "group": group,
        "overview": overview,
        "names": _names({each.user_id for each in overview.sockets if not each.prefix} - {None}),
        "may_close": may_close(user),
    }


def _names(user_ids: set[Any]) -> dict[str, str]:
    """Return the names of users by primary key, without deleted users."""
    users = get_user_model()._default_manager.all()
    try:
        return {str(user.pk): user.get_username() for user in users.filter(pk__in=user_ids)}
    except (TypeError, ValueError, ValidationError):
        return {}  # an authenticator of the project returns users of another kind


class LiveOverview(WebSocketView):
    """Answers a message with the tables: the name of a group, or ``""`` for all sockets."""

    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase | None:
        """Accept users who may see the page."""
        if not is_permitted(request.user):
            raise PermissionDenied
        return None

    def receive_text(self, text: str) -> None:
        """Send the tables, as long as the user may see them."""
        self.websocket.refresh_user()
        if is_permitted(self.request.user):
            tables = context(text, self.request.user)
            template = "admin/django_wsmux/overview_tables.html"
            self.send(render_to_string(template, tables, self.request))
        else:
            self.close(CloseCode.POLICY_VIOLATION, "no permission")


#: For ``include()``.
app_name: Final = NAMESPACE

urlpatterns = [path("", LiveOverview.as_view(), name="overview")]
