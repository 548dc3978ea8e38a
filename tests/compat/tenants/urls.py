"""Pages of each tenant."""

from __future__ import annotations

from django.contrib.auth import get_user_model, login, logout
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from django_wsmux.groups import Group

from .sockets import LOBBY, last_words, rows

__all__ = ["urlpatterns"]


def sign_in(request: HttpRequest) -> HttpResponse:
    """Sign in as the user with a primary key, and activate that user."""
    users = get_user_model().objects.filter(pk=request.GET["user"])
    users.update(is_active=True)
    login(request, users.get())
    return HttpResponse("signed in")


def sign_out(request: HttpRequest) -> HttpResponse:
    """Sign out."""
    logout(request)
    return HttpResponse("signed out")


def tell(request: HttpRequest) -> HttpResponse:
    """Send to the lobby or to a user; return the number of members."""
    user = request.GET.get("user")
    group = LOBBY if user is None else Group.for_user(user)
    group.send(request.GET["say"], on_commit="commit" in request.GET)
    return JsonResponse({"count": group.count()})


def deactivate(request: HttpRequest) -> HttpResponse:
    """Deactivate a user."""
    user = get_user_model().objects.get(pk=request.GET["user"])
    user.is_active = False
    user.save()
    return HttpResponse("not active")


def page(request: HttpRequest) -> HttpResponse:
    """Show the rows."""
    return HttpResponse(rows())


def show_last_words(request: HttpRequest, key: str) -> HttpResponse:
    """Show what a socket has read at its end."""
    return HttpResponse(last_words.get(key, ""))


urlpatterns = [
    path("rows/", page),
    path("last-words/<key>/", show_last_words),
    path("sign-in/", sign_in),
    path("sign-out/", sign_out),
    path("tell/", tell),
    path("deactivate/", deactivate),
]
