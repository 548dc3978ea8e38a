"""A Django project in one file: the default middleware, a signed-in user, three kinds of echo.

``python idle_site.py`` makes the database with one user and prints the key of the user's session.
gunicorn serves ``idle_site``; the database is named by ``BENCH_DATABASE``.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
from pathlib import Path

from django.conf import settings

settings.configure(
    SECRET_KEY="bench",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "django_wsmux",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["BENCH_DATABASE"],
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
    ROOT_URLCONF="idle_site",
    WEBSOCKET_URLCONF="idle_sockets",
    WEBSOCKET_BACKEND=os.environ.get("BENCH_BACKEND", "local://"),
    WEBSOCKET_DRAIN_SECONDS=float(os.environ.get("BENCH_DRAIN_SECONDS", "5")),
)

from django.http import HttpRequest, HttpResponse, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

from django_wsmux import metrics  # noqa: E402
from django_wsmux.groups import Group  # noqa: E402
from django_wsmux.wsgi import get_wsgi_application  # noqa: E402


def page(request: HttpRequest) -> HttpResponse:
    """Answer as a page does that knows its user."""
    return HttpResponse(f"hello {request.user}\n")


def say(request: HttpRequest, number: int) -> HttpResponse:
    """Tell the room a number; see ``deploy.py``."""
    Group("room").send(str(number))
    return HttpResponse("said\n")


def gauge(request: HttpRequest) -> JsonResponse:
    """Collect all garbage and tell what is left; see ``soak.py``."""
    gc.collect()
    # glibc keeps what was freed to itself; it is to be told from what leaks.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return JsonResponse(
        {
            "objects": len(gc.get_objects()),
            "resident": pages * resource.getpagesize(),
            "sockets": metrics.snapshot()["open"],
        }
    )


urlpatterns = [path("", page), path("gauge/", gauge), path("say/<int:number>/", say)]

if __name__ == "__main__":
    import django

    django.setup()
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.models import User
    from django.contrib.sessions.backends.db import SessionStore
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    user = User.objects.create_user("ann", "ann@example.com", "secret")
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    print(session.session_key)
else:
    application = get_wsgi_application()
