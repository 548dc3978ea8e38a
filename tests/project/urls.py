"""Plain pages."""

import ctypes
import gc
import json
import logging
import multiprocessing
import os
import sys
import threading
import time
from contextlib import suppress
from weakref import WeakSet

from django.contrib.auth import get_user_model, login, logout
from django.contrib.sessions.models import Session
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import engines
from django.urls import path

from django_wsmux.auth import disconnect
from django_wsmux.connection import registry
from django_wsmux.groups import Group
from django_wsmux.monitoring import metrics
from django_wsmux.monitoring.prometheus import metrics_view
from django_wsmux.server import limits

from . import asked, htmx_pages, kept, present, put_off, shared_pages, state, streamed
from .put_off import live_as_child


def plain(request: HttpRequest) -> HttpResponse:
    """Answer with the process id."""
    return HttpResponse(f"plain {os.getpid()}", content_type="text/plain")


def environ(request: HttpRequest) -> JsonResponse:
    """Show the keys of the environ."""
    return JsonResponse({"keys": sorted(request.META), "upgrade": request.META.get("HTTP_UPGRADE")})


def sign_in(request: HttpRequest) -> HttpResponse:
    """Sign in a user; create it if necessary."""
    user, _ = get_user_model().objects.get_or_create(username=request.GET.get("user", "ann"))
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return HttpResponse("signed in")


def sign_out(request: HttpRequest) -> HttpResponse:
    """Sign out."""
    logout(request)
    return HttpResponse("signed out")


def change_user(request: HttpRequest, how: str) -> HttpResponse:
    """Change a user in one of the ways that end sessions, or without Django's knowledge."""
    users = get_user_model().objects.filter(username=request.GET["user"])
    if how == "behind":
        users.update(is_active=False)
        return HttpResponse("updated")
    user = users.get()
    if how == "deactivate":
        user.is_active = False
    elif how == "password":
        user.set_password("another")
    elif how == "sessions":
        for session in Session.objects.all():
            if session.get_decoded().get("_auth_user_id") == str(user.pk):
                session.delete()
    elif how == "disconnect":
        disconnect(user)
    user.save()
    return HttpResponse(how)


def flood_group(request: HttpRequest, name: str, count: int, size: int) -> HttpResponse:
    """Send this many messages of this size to a group."""
    for _ in range(count):
        Group(name).send(bytes(size))
    return HttpResponse("sent")


def tell(request: HttpRequest) -> HttpResponse:
    """Send to a group, a user or a session from a plain request; count the members."""
    to = request.GET
    if "user" in to:
        group = Group.for_user(get_user_model().objects.get(username=to["user"]))
    else:
        group = Group(to["group"])
    if "say" in to:
        with suppress(ZeroDivisionError), transaction.atomic():
            group.send(f"{os.getpid()} {to['say']}", on_commit="commit" in to or "rollback" in to)
            if "rollback" in to:
                raise ZeroDivisionError
    if "close" in to:
        group.close(4000, to["close"])
    found = sorted((member.user_id or "", str(member.info)) for member in group.members())
    return JsonResponse({"pid": os.getpid(), "members": found, "count": group.count()})


def page(request: HttpRequest) -> HttpResponse:
    """Render URLs of sockets."""
    template = engines["django"].from_string(
        "{% load websockets %}"
        "{% websocket_url 'echo' %} {% websocket_url 'rooms:room' slug='lobby' %}"
    )
    return HttpResponse(template.render({}, request))


def fork(request: HttpRequest, how: str) -> JsonResponse:
    """Fork a child that sends to a group, then waits until a file of this name exists."""
    key = request.GET["key"]
    if how == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(
            target=live_as_child, args=(Group("test"), key)
        )
        process.start()
        assert process.pid is not None
        pid = process.pid
        state.children[pid] = process
    else:
        # gevent has replaced os.fork.
        original = getattr(sys.modules.get("gevent.monkey"), "get_original", None)
        forking = original("os", "fork") if original and how == "original" else os.fork
        pid = forking()
        if not pid:
            try:
                live_as_child(Group("test"), key)
            finally:
                os._exit(0)
    return JsonResponse({"pid": pid})


def slow(request: HttpRequest) -> HttpResponse:
    """Take this many seconds."""
    time.sleep(float(request.GET["seconds"]))
    return HttpResponse("slow")


def last_page(request: HttpRequest, seconds: int) -> HttpResponse:
    """Wait until no socket is open, for at most this many seconds; return how many are."""
    deadline = time.monotonic() + seconds
    while registry.open_sockets and time.monotonic() < deadline:
        time.sleep(0.02)
    return HttpResponse(str(len(registry.open_sockets)))


def report(request: HttpRequest, key: str) -> JsonResponse:
    """Show the report of a socket, and what is open."""
    return JsonResponse(
        {
            "report": state.reports.get(key),
            "open": len(registry.open_sockets),
            "running_views": len(registry.running_views),
            "inside": state.inside - 1,
        },
        json_dumps_params={"default": json.dumps},
    )


_connections: WeakSet[BaseDatabaseWrapper] = WeakSet()


def _remember(connection: BaseDatabaseWrapper, **kwargs: object) -> None:
    _connections.add(connection)


connection_created.connect(_remember)


def count_connections(request: HttpRequest) -> HttpResponse:
    """Show how many other connections to the database are open in this process."""
    others = _connections - {connections["default"]}
    return HttpResponse(str(sum(each.connection is not None for each in others)))


def show_metrics(request: HttpRequest) -> JsonResponse:
    """Show the counters of the process."""
    return JsonResponse(metrics.snapshot())


def places(request: HttpRequest) -> JsonResponse:
    """Show the places that are taken."""
    return JsonResponse([limits._count, limits._addresses, limits._users], safe=False)


def unread(request: HttpRequest) -> JsonResponse:
    """Show the sizes of the messages that wait for each socket's view."""
    return JsonResponse(
        [[len(message) for message in each._inbox or ()] for each in registry.open_sockets],
        safe=False,
    )


def too_large(request: HttpRequest, key: str) -> HttpResponse:
    """Open ten sockets in turn from a browser, send each too much, and report how they close."""
    return HttpResponse(
        f"""<!doctype html><script>
        const codes = [];
        function next() {{
            if (codes.length == 10) return fetch("/note/{key}/?what=" + codes);
            const websocket = new WebSocket(`wss://${{location.host}}/echo/`);
            websocket.onopen = () => websocket.send(new Uint8Array(8 * 2 ** 20));
            websocket.onclose = (event) => {{ codes.push(event.code); next(); }};
        }}
        next();
        </script>"""
    )


class _Raising(logging.Handler):
    """A logging handler that fails, like one whose server is down."""

    def emit(self, record: logging.LogRecord) -> None:
        raise ConnectionError("the server for logs is away")


def break_logging(request: HttpRequest) -> HttpResponse:
    """Make each line about a socket raise."""
    logging.getLogger("django_wsmux.connection").addHandler(_Raising())
    return HttpResponse("broken")


def note(request: HttpRequest, key: str) -> HttpResponse:
    """Store a report under a key."""
    state.reports[key] = request.GET["what"]
    return HttpResponse("noted")


def let_go(request: HttpRequest, key: str) -> HttpResponse:
    """Let a waiting view continue."""
    state.reports[key] = "go"
    return HttpResponse("gone")


def collect(request: HttpRequest) -> HttpResponse:
    """Free all memory that can be freed; answer with the process id."""
    gc.collect()
    # glibc keeps freed memory, which must not look like a leak.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return HttpResponse(str(os.getpid()), content_type="text/plain")


def threads(request: HttpRequest) -> JsonResponse:
    """Show the threads, without the one that answers."""
    current = threading.current_thread()
    return JsonResponse(
        [thread.name for thread in threading.enumerate() if thread is not current], safe=False
    )


def modules(request: HttpRequest) -> JsonResponse:
    """Show the loaded modules."""
    return JsonResponse(sorted(sys.modules), safe=False)


urlpatterns = [
    path("", plain),
    path("environ/", environ),
    path("login/", sign_in, name="login"),
    path("logout/", sign_out),
    path("change-user/<how>/", change_user),
    path("tell/", tell),
    path("flood-group/<name>/<int:count>/<int:size>/", flood_group),
    path("connections/", count_connections),
    path("page/", page),
    path("slow/", slow),
    path("fork/<how>/", fork),
    path("last-page/<int:seconds>/", last_page),
    path("report/<key>/", report),
    path("metrics/", show_metrics),
    path("places/", places),
    path("prometheus/", metrics_view),
    path("unread/", unread),
    path("break-logging/", break_logging),
    path("too-large/<key>/", too_large),
    path("note/<key>/", note),
    path("let-go/<key>/", let_go),
    path("collect/", collect),
    path("threads/", threads),
    path("modules/", modules),
    path("only-a-page/", plain, name="only-a-page"),
    *asked.urlpatterns,
    *kept.urlpatterns,
    *present.urlpatterns,
    *put_off.urlpatterns,
    *shared_pages.urlpatterns,
    *streamed.urlpatterns,
    *htmx_pages.urlpatterns,
]
