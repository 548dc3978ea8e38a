"""Private: the scripts of the JavaScript client, their URLs, and a view that serves them.

Pages load the scripts from the static files. A shared worker must come from the server of the
page, so a site whose static files are elsewhere serves the scripts itself:
``include("django_wsmux.urls")``.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from django.contrib.auth.decorators import login_not_required
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse
from django.views.decorators.http import condition, require_safe

__all__ = ["FILES", "NAMESPACE", "serve", "url_of"]

#: The files that ``serve()`` serves.
FILES: Final = tuple(
    name + end
    for name in ("client.js", "worker.js", "htmx.js", "stream.js")
    for end in ("", ".map")
)

#: Namespace of the URL patterns of ``serve()``, which are named after the files.
NAMESPACE: Final = "django_wsmux_client"

_DIRECTORY: Final = Path(__file__).parent / "static" / "django_wsmux"

#: What a browser may keep for a year, because another content has another URL.
_IMMUTABLE: Final = "public, max-age=31536000, immutable"


@cache
def _read(name: str) -> tuple[bytes, str]:
    """Return the content of a file and its version, a part of the content's hash."""
    content = (_DIRECTORY / name).read_bytes()
    return content, sha256(content).hexdigest()[:12]


def url_of(name: str) -> str:
    """Return the URL of a script: from the site itself if ``ROOT_URLCONF`` serves it.

    The URL has the version of the content, unless it has a query string already.
    """
    try:
        url = reverse(f"{NAMESPACE}:{name}")
    except NoReverseMatch:
        url = static(f"django_wsmux/{name}")
    return url if "?" in url else f"{url}?v={_read(name)[1]}"


def _etag(request: HttpRequest, name: str) -> str:
    return f'"{_read(name)[1]}"'


@login_not_required
@non_atomic_requests
@require_safe
@condition(etag_func=_etag)
def serve(request: HttpRequest, name: str) -> HttpResponse:
    """Return one of ``FILES``; with its version in the URL, caches keep it for a year.

    This reads no session and opens no database connection.
    """
    content, version = _read(name)
    is_current = request.GET.get("v") == version
    kind = "application/json" if name.endswith(".map") else "text/javascript; charset=utf-8"
    headers = {"Cache-Control": _IMMUTABLE if is_current else "no-cache"}
    return HttpResponse(content, content_type=kind, headers=headers)
