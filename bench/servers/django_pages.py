"""The plain pages of all Django servers."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

__all__ = ["bare", "page", "urlpatterns"]


def page(request: HttpRequest) -> HttpResponse:
    """Answer with the name of the user."""
    return HttpResponse(f"hello {request.user}\n")


def bare(request: HttpRequest) -> HttpResponse:
    """Answer without the database, to show the overhead around it."""
    return HttpResponse("hello ann\n")


urlpatterns = [path("", page), path("bare/", bare)]
