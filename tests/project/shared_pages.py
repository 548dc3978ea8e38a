"""Pages that share a socket, for ``tests/client/``."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.urls import include, path

from django_wsmux.decorators import resumable
from django_wsmux.groups import Group

#: ``got``: the messages that came. ``gaps``, ``states``, ``closes``: what the client told.
PAGE = """<!doctype html>
{% load websockets %}
<title>{{ number }}</title>
<a id="next" href="../{{ next }}/{{ query }}">next</a>
{{ initial|json_script:"initial" }}
{% websocket_client %}
<script type="module" nonce="{{ nonce }}">
  window.initial = JSON.parse(document.getElementById("initial").textContent);
  window.number = {{ number }};
  Object.assign(window, {got: [], gaps: [], states: [], closes: []});
  window.room = wsmux.connect("/kept/member/{{ name }}/", {
    {% if position %}at: "{% websocket_position %}",{% endif %}
    {% if not own %}shared: true,{% endif %}
  });
  room.on("message", (message) => got.push(message));
  room.on("gap", (groups) => gaps.push(groups));
  room.on("state", (state) => states.push(state));
  room.on("close", (event) => closes.push(event));
</script>
"""


def _offset(position: str) -> int:
    return int(position.rpartition("-")[2])


@resumable("{name}")
def page(request: HttpRequest, name: str, number: int) -> HttpResponse:
    """Render the messages of a group, and what follows them.

    Query: ``no-store``; ``no-position``; ``own`` for a socket of the page's own.
    """
    query = request.GET
    covered = _offset(request.websocket_positions[name])  # type: ignore[attr-defined]
    messages = Group(name).history().messages
    context = {
        "name": name,
        "number": number,
        "next": number + 1,
        "query": f"?{query.urlencode()}" if query else "",
        "own": "own" in query,
        "position": "no-position" not in query,
        # Later ones come over the socket.
        "initial": [each.data for each in messages if _offset(each.position) <= covered],
    }
    response = HttpResponse(engines["django"].from_string(PAGE).render(context, request))
    if "no-store" in query:
        response.headers["Cache-Control"] = "no-store"
    return response


urlpatterns: list[Any] = [
    path("shared/<name>/<int:number>/", page),
    path("wsmux/", include("django_wsmux.urls")),
]
