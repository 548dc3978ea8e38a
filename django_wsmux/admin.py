"""A page in Django's admin that shows the open sockets of all processes, and acts on them.

It needs only ``django.contrib.admin``. To update itself it opens a socket of its own, whose URL the
project mounts::

    path("admin/sockets/", include("django_wsmux.monitoring.page"))     # in WEBSOCKET_URLCONF
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Final, NamedTuple

from django.contrib import admin, messages
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse

from .exceptions import BackendUnavailable
from .models import Socket
from .monitoring import page
from .monitoring.actions import Outcome, close, sign_out
from .monitoring.filters import Filter
from .monitoring.forms import FilterForm, SendForm, user_of
from .monitoring.overview import survey
from .urls import websocket_url

__all__ = ["SocketAdmin"]

#: Sockets that are listed before an action is confirmed.
_SHOWN: Final = 10

#: Close codes that an operator may choose, with their reasons and what clients do.
_CODES: Final = {
    "1008": ("closed by an operator", "Clients stay away until their page is loaded again (1008)."),
    "1012": ("please reconnect", "Clients reconnect at once (1012)."),
}

#: The name of the boxes that select sockets.
_SELECTED: Final = "_selected_action"

#: Seconds after which a confirmation is about the sockets of now.
_LONGEST_WAIT: Final = 3600

#: Characters of a message that the log shows.
_LOGGED: Final = 200


class _Action(NamedTuple):
    """An action on sockets that an operator asks for.

    Attributes:
        fields: names and values of the form that asks for it.
        wanted: the sockets.
        target: what the page and the log call them.
        signs_out: whether their user is signed out.
        user: that user; ``None`` if the user is deleted.
    """

    fields: list[tuple[str, str]]
    wanted: Filter
    target: str
    signs_out: bool = False
    user: Any = None


@admin.register(Socket)
class SocketAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # no generic when it runs
    """The page, for users with the permission to view sockets; each action has its own."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return ``False``: sockets cannot be added here."""
        return False

    has_change_permission = has_delete_permission = has_add_permission

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may see the page."""
        return page.is_permitted(request.user)

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the page and of the form for messages."""
        wrap, name = self.admin_site.admin_view, "django_wsmux_socket"
        return [
            path("", wrap(self.changelist_view), name=f"{name}_changelist"),
            path("send/", wrap(self.send_view), name=f"{name}_send"),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the page; or ask to confirm an action, or act."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            return self._act(request)
        try:
            url = websocket_url(f"{page.NAMESPACE}:overview", request=request)
        except NoReverseMatch:
            url = ""
        query = request.GET.copy()
        query[page.SITE] = self.admin_site.name
        context = {
            **page.context(request.GET, request, self.admin_site),
            "title": "Sockets",
            "url": url,
            "query": query.urlencode(),
            **(extra_context or {}),
        }
        return self._render(request, "overview", context)

    def send_view(self, request: HttpRequest) -> HttpResponse:
        """Show the form for a message to a group, or send it."""
        self._require(request, page.SEND)
        if request.method == "POST":
            form = SendForm(request.POST)
            if form.is_valid() and self._send(request, form):
                return redirect(self._url())
        else:
            form = SendForm(initial=request.GET.dict())
        context = {"title": "Send a message to a group", "form": form, "back": self._url()}
        return self._render(request, "send", context)

    def _render(self, request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
        context = {**self.admin_site.each_context(request), "opts": self.opts, **context}
        request.current_app = self.admin_site.name
        return TemplateResponse(request, f"admin/django_wsmux/{name}.html", context)

    def _url(self) -> str:
        return reverse("admin:django_wsmux_socket_changelist", current_app=self.admin_site.name)

    def _require(self, request: HttpRequest, permission: str) -> None:
        if not (self.has_view_permission(request) and page.may(request.user, permission)):
            raise PermissionDenied

    # Messages to groups

    def _send(self, request: HttpRequest, form: SendForm) -> bool:
        """Send a message, and say so; return whether it was sent."""
        try:
            group = form.target()
            found = group.members()
            form.send(group)
        except (BackendUnavailable, ImproperlyConfigured) as error:
            form.add_error(None, str(error))
            return False
        kind = "JSON" if form.cleaned_data["kind"] == "json" else "text"
        how = f"Sent as {kind} to {_count(len(found), 'socket')}"
        kept = " It is kept in the history of the group." if group.has_history else ""
        text = form.cleaned_data["message"][:_LOGGED]
        self._log(request, f"group {group.name}", f"{how}: {text}")
        self.message_user(request, f"{how} of {group.name}.{kept}", messages.SUCCESS)
        self._warn(request, Outcome(0, missing=found.missing))
        return True

    # Actions on sockets

    def _act(self, request: HttpRequest) -> HttpResponse:
        """Ask to confirm an action; or act, and say what has happened."""
        action = self._action(request)
        if action is None:
            self.message_user(request, "Select the sockets to close.", messages.WARNING)
        elif "confirmed" not in request.POST:
            return self._confirm(request, action)
        elif action.signs_out:
            self._sign_out(request, action)
        else:
            self._close(request, action)
        return redirect(request.get_full_path())

    def _confirm(self, request: HttpRequest, action: _Action) -> HttpResponse:
        found = survey(action.wanted, _SHOWN)
        context = {
            "title": f"Sign {action.target} out?" if action.signs_out else "Close sockets?",
            "action": action,
            "overview": found,
            "rows": page.rows_of(found.sockets[:_SHOWN], request, self.admin_site),
            "codes": [(code, what) for code, (_, what) in _CODES.items()],
            "asked_at": time.time(),
            "back": request.get_full_path(),
        }
        return self._render(request, "confirm", context)

    def _action(self, request: HttpRequest) -> _Action | None:
        """Return what an operator asks for; ``None`` if that is no socket.

        Raises:
            PermissionDenied: the operator may not do that, or it is no action.
        """
        post = request.POST
        if "sign_out" in post:
            self._require(request, page.SIGN_OUT)
            user_id = post["sign_out"]
            user = user_of(user_id)
            wanted = Filter(user_id=user_id, prefix="")
            return _Action([("sign_out", user_id)], wanted, str(user or user_id), True, user)
        self._require(request, page.CLOSE)
        if "close_matching" in post:
            form = FilterForm(request.GET)
            if not form.is_valid():
                return None
            target = f"sockets with {form.summary()}" if form.summary() else "all sockets"
            wanted = replace(form.filter(), ago=_seconds_since(post.get("asked_at", "")))
            return _Action([("close_matching", "1")], wanted, target)
        if "close" in post:
            ids = [post["close"]]
        elif "close_selected" in post:
            ids = post.getlist(_SELECTED)
        else:
            raise PermissionDenied
        if not ids:
            return None
        target = f"socket {ids[0]}" if len(ids) == 1 else f"{len(ids)} selected sockets"
        fields = [("close_selected", "1"), *((_SELECTED, each) for each in ids)]
        return _Action(fields, Filter(ids=ids), target)

    def _close(self, request: HttpRequest, action: _Action) -> None:
        code = request.POST.get("code", "")
        if code not in _CODES:
            raise PermissionDenied
        found = survey(action.wanted, 1)
        target = action.target
        if found.total == 1 and found.sockets:
            (row,) = page.rows_of(found.sockets, request, None)
            target = f"{row.socket.path} of {row.user}" if row.user else row.socket.path
        outcome = close(action.wanted, int(code), _CODES[code][0])
        what = f"{_count(outcome.sockets, 'socket')} closed with {code}"
        self._log(request, target, what)
        self._tell(request, f"{what}: {target}.", outcome)

    def _sign_out(self, request: HttpRequest, action: _Action) -> None:
        (_, user_id), *_ = action.fields
        outcome = sign_out(user_id)
        what = f"{_count(outcome.sockets, 'socket')} closed with 4401"
        what += f", {_count(outcome.ended, 'session')} ended"
        if action.user is not None:
            self.log_change(request, action.user, f"Signed out: {what}")
        else:
            self._log(request, f"user {user_id}", f"Signed out: {what}")
        self._tell(request, f"Signed {action.target} out: {what}.", outcome)

    def _tell(self, request: HttpRequest, what: str, outcome: Outcome) -> None:
        level = messages.SUCCESS if outcome.sockets else messages.WARNING
        self.message_user(request, what, level)
        self._warn(request, outcome)

    def _warn(self, request: HttpRequest, outcome: Outcome) -> None:
        """Say what the numbers leave out."""
        if outcome.kept:
            text = f"{_count(outcome.kept, 'session')} could not be ended: see the documentation."
            self.message_user(request, text, messages.WARNING)
        if outcome.problem:
            text = f"Other processes could not be reached: {outcome.problem}"
            self.message_user(request, text, messages.ERROR)
        if outcome.missing:
            text = f"{_count(outcome.missing, 'process', 'es')} did not answer in time, so what "
            text += "happens there is not counted."
            self.message_user(request, text, messages.WARNING)

    def _log(self, request: HttpRequest, target: str, what: str) -> None:
        """Add an entry about sockets to the log of the admin."""
        entry = Socket()
        entry.label = target
        self.log_change(request, entry, what)


def _count(number: int, noun: str, ending: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else ending}"


def _seconds_since(asked_at: str) -> float:
    """Return how long ago an action was to be confirmed; 0 if that is not known."""
    try:
        found = time.time() - float(asked_at)
    except ValueError:
        return 0.0
    return found if 0 < found < _LONGEST_WAIT else 0.0
