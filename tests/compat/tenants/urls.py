"""Pages of each tenant."""

from __future__ import annotations

from django.contrib.auth import get_user_model, login, logout
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from django_wsmux.groups import Group

from .sockets import LOBBY

__all__ = ["urlpatterns"]


def sign_in(request: HttpRequest) -> HttpResponse:
    """Sign in as the user with a primary key."""
    login(request, get_user_model().objects.get(pk=request.GET["user"]))
    return HttpResponse("signed in")


def sign_out(request: HttpRequest) -> HttpResponse:
    """Sign out."""
    logout(request)
    return HttpResponse("signed out")


def tell(request: HttpRequest) -> HttpResponse:
    """Send to the lobby or to a user; say how many members there are."""
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


urlpatterns = [
    path("sign-in/", sign_in),
    path("sign-out/", sign_out),
    path("tell/", tell),
    path("deactivate/", deactivate),
]
