"""The tables of the admin's page, and the socket over which it asks for new ones.

The page asks, every two seconds while somebody looks at it, and gets HTML, so there is one template
for the first time and all others, and nothing here runs while nobody looks.
"""

from __future__ import annotations

from typing import Any, Final

from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponseBase
from django.template.loader import render_to_string

from .overview import look
from .protocol.frames import CloseCode
from .views import WebSocketView

__all__ = ["NAMESPACE", "LiveOverview", "context", "is_permitted", "may_close"]

#: Of the URL of the page's socket.
NAMESPACE: Final = "django_wsmux"

#: Sockets and groups that each process names.
_LIMIT: Final = 100

#: Characters that a group's name has at most.
_LONGEST_NAME: Final = 200


def is_permitted(user: Any) -> bool:
    """Say whether a user may see the page: staff with the permission to view sockets."""
    return bool(user.is_active and user.is_staff and user.has_perm("django_wsmux.view_socket"))


def may_close(user: Any) -> bool:
    """Return whether a user who may see the page may close sockets, too."""
    return bool(user.has_perm("django_wsmux.close_socket"))


def context(group: str, user: Any) -> dict[str, Any]:
    """Return what the tables show.

    Args:
        group: whose members to show, by its name, with all prefixes; ``""`` for all sockets.
        user: who looks at them.
    """
    group = group[:_LONGEST_NAME]
    overview = look(_LIMIT, group or None)
    return {
        "group": group,
        "overview": overview,
        "names": _names({each.user_id for each in overview.sockets if not each.prefix} - {None}),
        "may_close": may_close(user),
    }


def _names(user_ids: set[Any]) -> dict[str, str]:
    """Return the names of users by primary key; a user who is gone has none."""
    users = get_user_model()._default_manager.all()
    try:
        return {str(user.pk): user.get_username() for user in users.filter(pk__in=user_ids)}
    except (TypeError, ValueError, ValidationError):
        return {}  # an authenticator of the project has users of another kind


class LiveOverview(WebSocketView):
    """Answers the name of a group, or an empty message for all sockets, with the tables."""

    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase | None:
        """Let those in who may see the page."""
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
