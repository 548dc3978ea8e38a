"""The admin's page in a project with users of its own; run it with ``python -m``.

Prints "done" at the end.
"""

from __future__ import annotations

import re
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command

__all__ = ["urlpatterns"]

settings.configure(
    ALLOWED_HOSTS=["testserver"],
    AUTH_USER_MODEL="people.Person",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        "django_wsmux",
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "tests.monitoring.people",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="x",
    STATIC_URL="static/",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    USE_TZ=True,
    WEBSOCKET_BACKEND="memory://",
    WEBSOCKET_URLCONF=__name__,
)
django.setup()

from django.contrib import admin  # noqa: E402
from django.contrib.auth import get_user_model  # noqa: E402
from django.contrib.messages import get_messages  # noqa: E402
from django.db import connection  # noqa: E402
from django.http import HttpRequest  # noqa: E402
from django.test import override_settings  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402
from django.urls import path  # noqa: E402

from django_wsmux.auth import authentication, bearer  # noqa: E402
from django_wsmux.decorators import websocket  # noqa: E402
from django_wsmux.exceptions import HandshakeRefused  # noqa: E402
from django_wsmux.groups import Group  # noqa: E402
from django_wsmux.monitoring.page import LiveOverview  # noqa: E402
from django_wsmux.test import ClientWebSocket, WebSocketClient  # noqa: E402
from django_wsmux.views import WebSocketView  # noqa: E402
from django_wsmux.websocket import WebSocket  # noqa: E402

PAGE = "/admin/django_wsmux/socket/"
STRICT = "tests.monitoring.people.strict"
GROUP = """<i>"room"&'1'*[x]"""

#: The keys of sessions.
keys: dict[ClientWebSocket, str] = {}


class Service:
    """A user that is not stored."""

    pk = "service:1"
    is_authenticated = is_active = True


@authentication(bearer({"token": Service()}.get))
@websocket
def room(request: HttpRequest, websocket: WebSocket) -> None:
    """Wait in a group."""
    Group(GROUP).join(websocket)
    websocket.send("joined")
    websocket.receive()


class Quiet(WebSocketView):
    """Keeps no request."""

    keep_request = False

    def connect(self, request: HttpRequest) -> None:
        """Greet."""
        self.send("joined")


urlpatterns = [
    path("admin/", admin.site.urls),
    path("room/", room),
    path("quiet/", Quiet.as_view()),
    path("tables/", LiveOverview.as_view()),
]


def person(name: str, **fields: Any) -> Any:
    """Return a new user."""
    email = f"{len(get_user_model().objects.all())}@example.com"
    model: Any = get_user_model()  # the plugin of mypy has settings with other users
    return model.objects.create(email=email, name=name, **fields)


def enter(user: Any = None, path: str = "/room/", **options: Any) -> ClientWebSocket:
    """Open a socket of a user, who is signed in."""
    client = WebSocketClient()
    if user is not None:
        client.force_login(user)
    websocket = client.websocket(path, **options)
    assert websocket.receive() == "joined"
    if user is not None:
        keys[websocket] = str(client.session.session_key)
    return websocket


def show(operator: WebSocketClient, query: str = "") -> str:
    """Return the page."""
    answer = operator.get(PAGE + query)
    assert answer.status_code == 200
    text: str = answer.content.decode()
    return text


def sign_out(operator: WebSocketClient, user_id: object) -> list[str]:
    """Sign a user out; return what the page says."""
    operator.cookies.pop("messages", None)  # the earlier ones
    answer = operator.post(PAGE, {"sign_out": str(user_id), "confirmed": "1"})
    return [str(each) for each in get_messages(answer.wsgi_request)]


def check_names(operator: WebSocketClient) -> None:
    """Names of all kinds of users are shown, with one query, and are escaped."""
    ann, bob, cy = person("<script>ann</script>"), person("bob"), person("cy")
    cy_id = str(cy.pk)
    sockets = [
        enter(ann),
        enter(ann),
        enter(bob),
        enter(cy),
        enter(),
        enter(HTTP_AUTHORIZATION="Bearer token"),
    ]
    with override_settings(WEBSOCKET_CLOSE_SIGNED_OUT=False):
        cy.delete()
    with CaptureQueriesContext(
        connection,
    ) as queries:
        text = show(operator)
    of_users = [each["sql"] for each in queries if " IN (" in each["sql"]]
    assert len(of_users) == 1, queries.captured_queries
    link = f'<a href="/admin/people/person/{ann.pk}/change/">'
    assert text.count(f"{link}&lt;script&gt;ann&lt;/script&gt;</a>") == 2
    assert "<script>ann" not in text
    assert f'<td class="wsmux-user">{cy_id} <button' in text
    assert '<td class="wsmux-user">service:1 <button' in text
    assert "<i>" not in text
    assert "&lt;i&gt;&quot;room&quot;&amp;&#x27;1&#x27;*[x]</a>" in text
    assert not any(key in text for key in keys.values())
    for query, total in (
        (f"?user={ann.email}", 2),
        (f"?user={ann.pk}", 2),
        (f"?user={cy_id}", 1),
        ("?user=service:1", 1),
        ("?user=bob", 0),
    ):
        assert f"Sockets that match: {total}<" in show(operator, query), query
    (of_group,) = set(re.findall(r'href="(\?group=[^"]+)"', text))
    assert "Sockets that match: 6<" in show(operator, of_group)
    said = sign_out(operator, "service:1")
    assert said == ["Signed service:1 out: 1 socket closed with 4401, 0 sessions ended."]
    said = sign_out(operator, cy_id)
    assert said == [f"Signed {cy_id} out: 1 socket closed with 4401, 1 session ended."]
    for each in sockets:
        each.close()


def check_engine(operator: WebSocketClient, engine: str) -> None:
    """Signing out ends the sessions that the server has, and says how many."""
    with override_settings(SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}"):
        # The operator of another engine has no session in this one.
        operator = WebSocketClient()
        operator.force_login(get_user_model().objects.get(is_superuser=True))
        user = person(engine)
        sockets = [enter(user), enter(user, "/quiet/")]
        said = sign_out(operator, user.pk)
        assert [each.close_code for each in sockets] == [4401, 4401]
        if engine == "signed_cookies":
            assert said[0] == f"Signed {engine} out: 2 sockets closed with 4401, 0 sessions ended."
            # What was signed in the same second is the same.
            assert said[1].partition(" ")[2].startswith("session")
            assert said[1].endswith(" could not be ended: see the documentation.")
            return
        assert said == [f"Signed {engine} out: 2 sockets closed with 4401, 2 sessions ended."]
        client = WebSocketClient()
        client.cookies["sessionid"] = keys[sockets[0]]
        assert client.get(PAGE).status_code == 302
        assert not client.session.exists(keys[sockets[0]])


def check_site(root: Any) -> None:
    """The socket of the page asks for what the mounted site of the admin asks for."""
    verified = person("verified root", is_staff=True, is_superuser=True)
    for urlconf, allowed in ((__name__, [root, verified]), (STRICT, [verified])):
        with override_settings(ROOT_URLCONF=urlconf):
            for user in (root, verified, person(f"visitor of {urlconf}")):
                client = WebSocketClient()
                client.force_login(user)
                try:
                    client.websocket("/tables/").close()
                except HandshakeRefused:
                    assert user not in allowed
                else:
                    assert user in allowed
    verified.is_superuser = False  # the only one is root
    verified.save()


def main() -> None:
    """Run all checks."""
    call_command("migrate", run_syncdb=True, verbosity=0)
    operator = WebSocketClient()
    root = person("root", is_staff=True, is_superuser=True)
    operator.force_login(root)
    check_names(operator)
    check_site(root)
    for engine in ("db", "cached_db", "cache", "file", "signed_cookies"):
        check_engine(operator, engine)
    print("done")


if __name__ == "__main__":
    main()
