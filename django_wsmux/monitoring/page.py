"""The tables of the admin's page, and the socket over which it requests updates.

The page asks every two seconds while it is visible, and gets HTML. So one template serves the page
and its updates, and nothing runs here while no one looks at the page.

The URL of the socket, for ``WEBSOCKET_URLCONF``::

    path("admin/sockets/", include("django_wsmux.monitoring.page"))
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.contrib.admin.sites import AdminSite, all_sites
from django.contrib.admin.utils import quote
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponseBase, QueryDict
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, path, resolve, reverse

from ..protocol.frames import CloseCode
from ..views import WebSocketView
from .forms import FilterForm
from .overview import OpenSocket, Overview, position, survey

__all__ = [
    "CLOSE",
    "NAMESPACE",
    "SEND",
    "SIGN_OUT",
    "SITE",
    "LiveOverview",
    "app_name",
    "context",
    "is_permitted",
    "may",
    "rows_of",
    "urlpatterns",
]

#: Namespace of the URL of the page's socket.
NAMESPACE: Final = "django_wsmux"

#: The permissions of the actions.
CLOSE: Final = "close_socket"
SIGN_OUT: Final = "sign_out_user"
SEND: Final = "send_to_group"

#: In the query that the page sends over its socket, the name of its ``AdminSite``.
SITE: Final = "_site"

#: Sockets on a page, and groups that each process lists.
_LIMIT: Final = 100

#: The columns that are numbers: the name of their order, and their heading.
_COLUMNS: Final = (
    ("age", "Open for"),
    ("messages_in", "Messages in"),
    ("messages_out", "out"),
    ("bytes_in", "Bytes in"),
    ("bytes_out", "out"),
    ("unread", "Unread"),
    ("unsent", "Unsent"),
)


def is_permitted(user: Any) -> bool:
    """Return whether a user may see the page: staff with the permission to view sockets."""
    return bool(user.is_active and user.is_staff and user.has_perm("django_wsmux.view_socket"))


def may(user: Any, permission: str) -> bool:
    """Return whether a user who may see the page has the permission of an action."""
    return bool(user.has_perm(f"django_wsmux.{permission}"))


class Row(NamedTuple):
    """A socket of the table.

    Attributes:
        socket: the socket.
        user: the name of its user; ``""`` without one.
        url: the page of the user in the admin, or ``""``.
        is_ours: whether the user is one of this site's: not of another tenant.
    """

    socket: OpenSocket
    user: str
    url: str
    is_ours: bool


class Column(NamedTuple):
    """A heading by which the table can be sorted.

    Attributes:
        label: its text.
        query: the query string that sorts by it, or reverses its order.
        sort: ``ascending``, ``descending`` or ``""``.
    """

    label: str
    query: str
    sort: str


class Part(NamedTuple):
    """The part of the sockets that the page shows.

    Attributes:
        first, last: numbers of its sockets, from 1.
        total: how many match the filter.
        start, previous, following: query strings of other parts; ``""`` if there is none.
    """

    first: int
    last: int
    total: int
    start: str
    previous: str
    following: str


def context(
    query: QueryDict, request: HttpRequest, site: AdminSite | None, urlconf: str | None = None
) -> dict[str, Any]:
    """Return the template context of the tables.

    Args:
        query: the query of the page's URL.
        request: the request of the user who sees the tables.
        site: the admin site of the page; ``None`` if it is unknown: then users have no links.
        urlconf: the URLconf of the site; ``None`` for that of the request.
    """
    form = FilterForm(query)
    order, after, before = form.order(), form.place("after"), form.place("before")
    if after is not None:
        before = None
    overview = survey(form.filter(), _LIMIT, order=order, after=after, before=before)
    cut = 0 if before is None else max(len(overview.sockets) - _LIMIT, 0)
    sockets = overview.sockets[cut : cut + _LIMIT]
    user: Any = request.user
    return {
        "form": form,
        "is_filtered": bool(form.summary()),
        "overview": overview,
        "rows": rows_of(sockets, request, site, urlconf),
        "columns": [_column(query, order, *each) for each in _COLUMNS],
        "part": _part(query, order, overview, sockets, cut),
        "may_close": may(user, CLOSE),
        "may_sign_out": may(user, SIGN_OUT),
        "may_send": may(user, SEND),
    }


def _with(query: QueryDict, **fields: str) -> str:
    """Return the query of another part or order; it begins with a question mark."""
    found = query.copy()
    for name in ("after", "before", SITE):
        found.pop(name, None)
    for name, value in fields.items():
        found[name] = value
    return f"?{found.urlencode()}"


def _column(query: QueryDict, order: str, name: str, label: str) -> Column:
    is_descending = order == f"-{name}"
    # What is large is looked for first.
    query_string = _with(query, o=name if is_descending else f"-{name}")
    sort = "descending" if is_descending else "ascending" if order == name else ""
    return Column(label, query_string, sort)


def _part(
    query: QueryDict, order: str, overview: Overview, sockets: Sequence[OpenSocket], cut: int
) -> Part:
    first = overview.preceding + cut + 1
    last = first + len(sockets) - 1
    start = previous = following = ""
    if first > 1:
        start = _with(query)
    if first > 1 and sockets:
        previous = _with(query, before=_text(sockets[0], order))
    if last < overview.total and sockets:
        following = _with(query, after=_text(sockets[-1], order))
    return Part(first, last, overview.total, start, previous, following)


def _text(socket: OpenSocket, order: str) -> str:
    return ",".join(map(str, position(socket, order)))


def rows_of(
    sockets: Sequence[OpenSocket],
    request: HttpRequest,
    site: AdminSite | None,
    urlconf: str | None = None,
) -> list[Row]:
    """Return rows of sockets with the names of their users, which need one query."""
    user_ids = {each.user_id for each in sockets if each.user_id is not None and not each.prefix}
    people = _people(user_ids)
    name = _name_of_page(request, site) if people else ""
    rows = []
    for each in sockets:
        user, url = each.user_id or "", ""
        is_ours = each.user_id is not None and not each.prefix
        if is_ours and user in people:
            user, key = people[user]
            url = _url(name, key, site, urlconf)
        elif each.prefix:
            user = f"{user} ({each.prefix})"  # perhaps a key of another tenant
        rows.append(Row(each, user, url, is_ours))
    return rows


def _people(user_ids: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return names and primary keys of users by the keys of sockets, without deleted users."""
    model = get_user_model()
    keys = set()
    for user_id in user_ids:
        try:
            keys.add(model._meta.pk.to_python(user_id))
        except (TypeError, ValueError, ValidationError):
            continue  # an authenticator of the project returns users of another kind
    try:
        users = list(model._default_manager.filter(pk__in=keys)) if keys else []
    except (OverflowError, TypeError, ValueError, ValidationError):
        return {}  # likewise: a number too large for the database
    people = {}
    for user in users:
        key = user._meta.pk.value_to_string(user)
        people[key] = people[str(user.pk)] = (str(user) or key, str(user.pk))
    return people


def _name_of_page(request: HttpRequest, site: AdminSite | None) -> str:
    """Return the name of users' pages in the admin for a viewer who may see them, or ``""``."""
    model = get_user_model()
    if site is None or not site.is_registered(model):
        return ""
    if not site.get_model_admin(model).has_view_or_change_permission(request):
        return ""
    return f"admin:{model._meta.app_label}_{model._meta.model_name}_change"


def _url(name: str, key: str, site: AdminSite | None, urlconf: str | None) -> str:
    if not name or site is None:
        return ""
    try:
        return reverse(name, urlconf, args=(quote(key),), current_app=site.name)
    except NoReverseMatch:
        return ""


def _may_enter(request: HttpRequest) -> bool:
    """Return whether a site of the admin that has the page lets a user in.

    A site may ask for more than the permissions of staff, such as a second factor. If the URLs of
    another host have the admin, only the permissions count.
    """
    name, urls = "admin:django_wsmux_socket_changelist", settings.ROOT_URLCONF
    try:
        reverse(name, urls)  # loads the sites, too
    except NoReverseMatch:
        return True
    for site in list(all_sites):
        # If a site is not mounted, this is the URL of another one.
        match = resolve(reverse(name, urls, current_app=site.name), urls)
        if match.namespace == site.name and site.has_permission(request):
            return True
    return False


class LiveOverview(WebSocketView):
    """Answers a message with the tables: the query string of the page that asks."""

    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase | None:
        """Accept users who may see the page, in a site of the admin that lets them in."""
        if not (is_permitted(request.user) and _may_enter(request)):
            raise PermissionDenied
        return None

    def receive_text(self, text: str) -> None:
        """Send the tables, as long as the user may see them."""
        self.websocket.refresh_user()
        if is_permitted(self.request.user):
            query = QueryDict(text)
            site = next((each for each in all_sites if each.name == query.get(SITE)), None)
            tables = context(query, self.request, site, settings.ROOT_URLCONF)
            template = "admin/django_wsmux/overview_tables.html"
            self.send(render_to_string(template, tables, self.request))
        else:
            self.close(CloseCode.POLICY_VIOLATION, "no permission")


#: For ``include()``.
app_name: Final = NAMESPACE

urlpatterns = [path("", LiveOverview.as_view(), name="overview")]
