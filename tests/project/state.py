"""State of the views between requests, within one process."""

from django.http import HttpRequest

from django_wsmux.connection.inbox import Traffic
from django_wsmux.signals import websocket_closed, websocket_opened

#: Requests that are inside the middleware chain right now.
inside = 0

#: Children of this process, by process id, so that they are not collected as garbage.
children: dict[int, object] = {}

#: Reports of sockets at their end, by key.
reports: dict[str, str] = {}


def _opened(request: HttpRequest, **kwargs: object) -> None:
    if "key" in request.GET:
        reports[request.GET["key"]] = "opened;"


def _closed(
    request: HttpRequest | None,
    code: int,
    reason: str,
    duration: float,
    traffic: Traffic,
    **kwargs: object,
) -> None:
    if request is not None and "key" in request.GET:
        what = f"{code} {reason} {duration // 10} {tuple(traffic)}"
        reports[request.GET["key"]] += f"{what} closed;"


websocket_opened.connect(_opened)
websocket_closed.connect(_closed)
