"""The pages around the sockets."""

import socket
from importlib.util import find_spec
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST
from django.views.generic import TemplateView

from django_wsmux.decorators import resumable
from django_wsmux.groups import Group

from .forms import NotificationForm, SignInForm

__all__ = ["Page", "chat_page", "notify", "notify_page", "sign_in"]


class Page(TemplateView):
    """A page that only needs a template."""


@resumable("chat")
def chat_page(request: HttpRequest, socket_name: str) -> HttpResponse:
    """Show the chat, over groups or over Redis.

    The page contains the position of the group, so its socket gets all later lines.
    """
    missing = what_redis_lacks() if socket_name == "redis-chat" else ""
    context = {"socket": socket_name, "missing": missing, "redis_url": settings.REDIS_URL}
    return render(request, "sample_site/chat.html", context)


@resumable("@user")
def notify_page(request: HttpRequest, sign_in_form: SignInForm | None = None) -> HttpResponse:
    """Show the user's notifications and a form to send some, or a form to sign in.

    The page contains the position of the user's group, so its socket gets all later notifications.
    """
    form = NotificationForm(initial={"to": request.user.get_username()})
    context = {"form": form, "sign_in_form": sign_in_form or SignInForm()}
    return render(request, "sample_site/notify.html", context)


@require_POST
@login_required
def notify(request: HttpRequest) -> HttpResponse:
    """Send a line to one user: to all of the user's windows, on any worker.

    The windows of a browser share a socket, so the reply counts browsers.
    """
    form = NotificationForm(request.POST)
    if not form.is_valid():
        return JsonResponse({"errors": form.errors.get_json_data()}, status=400)
    group = Group.for_user(form.cleaned_data["to"])
    group.send(f"{request.user.get_username()}: {form.cleaned_data['text']}")
    return JsonResponse({"browsers": group.count()})


@require_POST
def sign_in(request: HttpRequest) -> HttpResponse:
    """Sign in the visitor under the given name, without a password."""
    form = SignInForm(request.POST)
    if not form.is_valid():
        page: HttpResponse = notify_page(request, form)
        return page
    login(request, form.get_user())
    return redirect("notify")


def what_redis_lacks() -> str:
    """Return what is missing for the chat over Redis: "package", "server", or "" for nothing."""
    if find_spec("redis") is None:
        return "package"
    url = urlsplit(settings.REDIS_URL)
    try:
        socket.create_connection((url.hostname, url.port or 6379), timeout=0.5).close()
    except OSError:
        return "server"
    return ""
