"""Django middleware that changes responses and URLconfs, as a header of the request says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

GetResponse = Callable[[HttpRequest], Any]


def choosing(get_response: GetResponse) -> GetResponse:
    """Do what the header ``X-Meddle`` says."""

    def middleware(request: HttpRequest) -> Any:
        how = request.headers.get("X-Meddle", "")
        if how == "replaced":
            return get_response(WSGIRequest(dict(request.META)))
        before, after = HOW.get(how, (nothing, same))
        before(request)
        return after(get_response(request))

    return middleware


def nothing(request: Any) -> None:
    """Leave the request alone."""


def same(response: Any) -> Any:
    """Leave the response alone."""
    return response


def copied(response: Any) -> HttpResponse:
    """Return a new response, as middleware does that rewrites bodies."""
    headers = {**response.headers, "X-Copied": "yes"}
    return HttpResponse(response.content, status=response.status_code, headers=headers)


def streamed(response: Any) -> StreamingHttpResponse:
    """Return the body as a stream."""
    return StreamingHttpResponse(
        iter([response.content]), status=response.status_code, headers=response.headers
    )


def refused(response: Any) -> Any:
    """Refuse by changing the status alone."""
    response.status_code = 403
    return response


def switched(response: Any) -> HttpResponse:
    """Return a status that only a socket may have."""
    return HttpResponse(status=101)


def as_page(request: Any) -> None:
    """Choose the site's pages, as middleware for several hosts does."""
    request.urlconf = settings.ROOT_URLCONF


def as_tenant(request: Any) -> None:
    """Choose the pages of a tenant."""
    request.urlconf = "tests.compat.tenant"


def as_other_sockets(request: Any) -> None:
    """Choose the sockets of a tenant."""
    request.websocket_urlconf = "tests.compat.tenant"


def as_default(request: Any) -> None:
    """Choose the default."""
    request.urlconf = None


def forget(request: Any) -> None:
    """Delete the choice."""
    del request.urlconf


def bare(request: Any) -> None:
    """Remove the server's own values from META, as middleware does that logs or copies it."""
    request.META = {key: each for key, each in request.META.items() if "." not in key}


HOW: dict[str, tuple[Callable[[Any], None], Callable[[Any], Any]]] = {
    "copied": (nothing, copied),
    "streamed": (nothing, streamed),
    "refused": (nothing, refused),
    "switched": (nothing, switched),
    "bare": (bare, same),
    "page": (as_page, same),
    "tenant": (as_tenant, same),
    "sockets": (as_other_sockets, same),
    "default": (as_default, same),
    "forgotten": (forget, same),
}
