"""The plain pages that all Django servers serve."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

__all__ = ["bare", "page", "urlpatterns"]


def page(request: HttpRequest) -> HttpResponse:
    """Answer as a page does that knows its user."""
    return HttpResponse(f"hello {request.user}\n")


def bare(request: HttpRequest) -> HttpResponse:
    """Answer without asking the database, so that what is around it shows."""
    return HttpResponse("hello ann\n")


urlpatterns = [path("", page), path("bare/", bare)]
