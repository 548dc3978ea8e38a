"""The plain page that all Django servers serve."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

__all__ = ["page", "urlpatterns"]


def page(request: HttpRequest) -> HttpResponse:
    """Answer as a page does that knows its user."""
    return HttpResponse(f"hello {request.user}\n")


urlpatterns = [path("", page)]
