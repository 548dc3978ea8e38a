"""Pages and sockets for the tests of the JavaScript client in browsers."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template import engines
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from django_wsmux.decorators import resumable
from django_wsmux.groups import Group
from django_wsmux.views import WebSocketView

#: ``got``: the messages that came. ``gaps``, ``states``, ``closes``: what the client told.
#: ``asked``: how often it asked for a token. ``violations``: of the Content Security Policy.
#: ``people``: who comes and goes.
PAGE = """<!doctype html>
{% load websockets %}
<title>{{ number }}</title>
<a id="next" href="../{{ next }}/{{ query }}">next</a>
{{ initial|json_script:"initial" }}
<script nonce="{{ csp_nonce }}{{ request.csp_nonce }}">
  Object.assign(window, {got: [], gaps: [], states: [], closes: [], people: []});
  Object.assign(window, {asked: [], violations: []});
  addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
  window.number = {{ number }};
</script>
{% websocket_client %}
<script type="module" nonce="{{ csp_nonce }}{{ request.csp_nonce }}">
  window.initial = JSON.parse(document.getElementById("initial").textContent);
  window.room = wsmux.connect("{{ socket }}", {
    {% if at %}at: "{{ at }}",{% endif %}
    {% if worker %}worker: "{{ worker }}",{% endif %}
    {% if auth %}auth: (refused) => void asked.push(refused),{% endif %}
    shared: true,
  });
  room.on("message", (message) => got.push(message));
  room.on("gap", (groups) => gaps.push(groups));
  room.on("presence", (event) => people.push(event));
  room.on("state", (state) => states.push(state));
  room.on("close", (event) => closes.push(event));
</script>
"""


def _offset(position: str) -> int:
    return int(position.rpartition("-")[2])


@resumable("{name}")
def page(request: HttpRequest, name: str, number: int) -> HttpResponse:
    """Render the messages of a group, and what follows them.

    Query: ``no-store``; ``at`` for a page that was rendered when this was the number of the newest
    message, or ``at=`` for one without a position; ``socket`` and ``worker``: other URLs; ``auth``.
    """
    query = request.GET
    position: str = request.websocket_positions[name]  # type: ignore[attr-defined]
    if query.get("at"):
        position = f"{position.rpartition('-')[0]}-{query['at']}"
    covered = _offset(position)
    messages = Group(name).history().messages
    context = {
        "number": number,
        "next": number + 1,
        "query": f"?{query.urlencode()}" if query else "",
        "socket": query.get("socket", f"/kept/member/{name}/"),
        "worker": query.get("worker"),
        "auth": "auth" in query,
        "at": position if query.get("at", "newest") else "",
        # Later ones come over the socket.
        "initial": [each.data for each in messages if _offset(each.position) <= covered],
    }
    response = HttpResponse(engines["django"].from_string(PAGE).render(context, request))
    if "no-store" in query:
        response.headers["Cache-Control"] = "no-store"
    if "no-workers" in query:
        response.headers["Content-Security-Policy"] = "worker-src 'none'"
    return response


@csrf_exempt
def say(request: HttpRequest, name: str) -> HttpResponse:
    """Send a text to a group, but not to the page that asks for this."""
    client: str | None = request.websocket_client  # type: ignore[attr-defined]
    Group(name).send(request.GET["text"], exclude=client)
    return HttpResponse(client or "")


def header(request: HttpRequest) -> JsonResponse:
    """Show the header that identifies a page, to other servers as well."""
    response = JsonResponse({"header": request.headers.get("X-WebSocket-Client")})
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Access-Control-Allow-Headers"] = "*"
    return response


def redirect(request: HttpRequest) -> HttpResponseRedirect:
    """Redirect to any URL."""
    return HttpResponseRedirect(request.GET["to"])


def old_worker(request: HttpRequest) -> HttpResponse:
    """Return a shared worker of another version."""
    script = 'onconnect = (event) => event.ports[0].postMessage({hello: "another version"});'
    return HttpResponse(script, content_type="text/javascript")


class Talk(WebSocketView):
    """Answers questions, and counts those who follow."""

    def connect(self, request: HttpRequest) -> None:
        self.send_json({"type": "hello"})

    def receive(self, message: str | bytes) -> None:
        value: dict[str, Any] = json.loads(message)
        if value["type"] == "close":
            return self.close(value["code"], "as asked")
        answer = {"type": value["type"], "ref": value.get("ref"), "reply": value}
        self.websocket.send_bare(json.dumps(answer))
        if value["type"] != "ask":
            self.send_json(value)
        return None


urlpatterns: list[Any] = [
    path("shared/say/<name>/", say),
    path("shared/header/", header),
    path("shared/redirect/", redirect),
    path("shared/old-worker.js", old_worker),
    path("shared/<name>/<int:number>/", page),
    path("wsmux/", include("django_wsmux.urls")),
]
websocket_urlpatterns = [path("shared/talk/", Talk.as_view())]
