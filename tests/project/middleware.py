"""Middleware that adds headers to the 101."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from . import state


def trace(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """Count the requests in progress, and mark each response."""

    def middleware(request: HttpRequest) -> HttpResponse:
        state.inside += 1
        try:
            response = get_response(request)
        finally:
            state.inside -= 1
        if "X-Refuse-Late" in request.headers:
            return HttpResponse(status=503)
        response.headers["X-Mixed-Case"] = "KeepMyCase"
        response.set_cookie("flavour", "Chocolate")
        response.set_cookie("second", "Too")
        return response

    return middleware
