"""Django middleware that treats responses and URLconfs as it likes; a request chooses which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

GetResponse = Callable[[HttpRequest], Any]


def choosing(get_response: GetResponse) -> GetResponse:
    """Do what the header ``X-Meddle`` says."""

    def middleware(request: HttpRequest) -> Any:
        how = request.headers.get("X-Meddle", "")
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
    """Return a response of one's own, as those do that rewrite bodies."""
    headers = {**response.headers, "X-Copied": "yes"}
    return HttpResponse(response.content, status=response.status_code, headers=headers)


def streamed(response: Any) -> StreamingHttpResponse:
    """Return the body piece by piece."""
    return StreamingHttpResponse(
        iter([response.content]), status=response.status_code, headers=response.headers
    )


def refused(response: Any) -> Any:
    """Say no by the status alone."""
    response.status_code = 403
    return response


def switched(response: Any) -> HttpResponse:
    """Have a status that only a socket may have."""
    return HttpResponse(status=101)


def as_page(request: Any) -> None:
    """Choose the site's pages, as middleware for sites by host does."""
    request.urlconf = settings.ROOT_URLCONF


def as_tenant(request: Any) -> None:
    """Choose the pages of a tenant."""
    request.urlconf = "tests.compat.tenant"


def as_other_sockets(request: Any) -> None:
    """Choose sockets."""
    request.websocket_urlconf = "tests.compat.tenant"


def as_default(request: Any) -> None:
    """Choose what there is."""
    request.urlconf = None


def forget(request: Any) -> None:
    """Delete what there is."""
    del request.urlconf


HOW: dict[str, tuple[Callable[[Any], None], Callable[[Any], Any]]] = {
    "copied": (nothing, copied),
    "streamed": (nothing, streamed),
    "refused": (nothing, refused),
    "switched": (nothing, switched),
    "page": (as_page, same),
    "tenant": (as_tenant, same),
    "sockets": (as_other_sockets, same),
    "default": (as_default, same),
    "forgotten": (forget, same),
}
