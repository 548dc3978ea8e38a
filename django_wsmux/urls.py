"""URLs of WebSockets, for pages and other clients.

``include("django_wsmux.urls")`` in ``ROOT_URLCONF`` serves the scripts of the JavaScript client
from the site itself. This is only needed if static files come from another host. Leave the URLs out
of ``i18n_patterns()``: browsers cache the scripts under their URL::

    urlpatterns = [path("wsmux/", include("django_wsmux.urls"))]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.urls import (
    NoReverseMatch,
    URLPattern,
    URLResolver,
    get_resolver,
    path,
    reverse,
)

from . import conf, scripts

__all__ = ["url_of", "websocket_url"]

app_name = scripts.NAMESPACE
urlpatterns = [path(name, scripts.serve, {"name": name}, name) for name in scripts.FILES]


def websocket_url(
    viewname: Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    request: HttpRequest | None = None,
    current_app: str | None = None,
) -> str:
    """Return the URL of a WebSocket view, reversed in ``WEBSOCKET_URLCONF``.

    The server is ``WEBSOCKET_SERVER`` if set, otherwise the host of ``request``; the scheme is
    ``wss`` if the request is secure (behind a proxy, according to ``SECURE_PROXY_SSL_HEADER``).
    With neither it is the path alone, which a browser's ``new WebSocket()`` completes itself.

    Args:
        viewname: name of the URL pattern, with its namespaces, or the view itself.
        args, kwargs: the URL's arguments.
        request: the request of the page that will connect.
        current_app: see ``django.urls.reverse``.

    Raises:
        NoReverseMatch: no pattern of ``WEBSOCKET_URLCONF`` matches; the message names that module.

    Example:
        >>> websocket_url("chat", kwargs={"room": "lobby"}, request=request)
        'wss://example.com/chat/lobby/'
    """
    urlconf = conf.get("WEBSOCKET_URLCONF")
    try:
        path = reverse(
            viewname,
            urlconf=urlconf,
            args=args,
            kwargs=dict(kwargs) if kwargs else None,
            current_app=current_app,
        )
    except NoReverseMatch as error:
        name = getattr(urlconf, "__name__", urlconf)
        error.args = (f"{error} Only WEBSOCKET_URLCONF ({name}) was searched, not ROOT_URLCONF.",)
        raise
    scheme = "wss" if request is not None and request.is_secure() else "ws"
    server: str = conf.get("WEBSOCKET_SERVER").rstrip("/")
    if not server and request is not None:
        server = request.get_host()
    if server and "://" not in server:
        server = f"{scheme}://{server}"
    return server + path


def url_of(view_class: type[Any]) -> str:
    """Return the URL of the only view of a class in ``WEBSOCKET_URLCONF``; for internal use.

    Args:
        view_class: the class; a view of a subclass counts.

    Raises:
        ImproperlyConfigured: there is no such view, or there are several; or its URL has arguments,
            or is in a namespace and has no name.
    """
    urlconf = conf.get("WEBSOCKET_URLCONF")
    found = [
        (pattern, namespaces)
        for pattern, namespaces in _patterns(get_resolver(urlconf), [])
        if issubclass(getattr(pattern.callback, "view_class", object), view_class)
    ]
    name = view_class.__name__
    module = getattr(urlconf, "__name__", urlconf)
    if not found:
        raise ImproperlyConfigured(
            f"WEBSOCKET_URLCONF ({module}) has no view of {name}: add one, such as "
            f'path("ws/streams/", {name}.as_view())'
        )
    if len(found) > 1:
        raise ImproperlyConfigured(
            f"WEBSOCKET_URLCONF ({module}) has {len(found)} views of {name}: only one can be used"
        )
    ((pattern, namespaces),) = found
    viewname = ":".join([*namespaces, pattern.name or ""]) if namespaces else pattern.callback
    try:
        return websocket_url(viewname)
    except NoReverseMatch as error:
        raise ImproperlyConfigured(
            f"The URL of {name} in WEBSOCKET_URLCONF ({module}) must have no arguments, and a name "
            f"if it is in a namespace: {error}"
        ) from error


def _patterns(
    resolver: URLResolver, namespaces: list[str]
) -> Iterator[tuple[URLPattern, list[str]]]:
    """Yield all patterns, with their namespaces."""
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            more = [] if pattern.namespace is None else [pattern.namespace]
            yield from _patterns(pattern, [*namespaces, *more])
        else:
            yield pattern, namespaces
