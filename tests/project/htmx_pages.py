"""A chat for the tests of htmx, version 2 and version 4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import FileResponse, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from django_wsmux.decorators import resumable
from django_wsmux.groups import Group
from django_wsmux.html import send_template
from django_wsmux.views import FormWebSocketView

ROOT = Path(__file__).parents[2]

#: The scripts of each version, as npm has installed them.
SCRIPTS = {
    2: {"htmx2.js": "htmx2/dist/htmx.js", "ws.js": "htmx-ext-ws/ws.js"},
    4: {"htmx4.js": "htmx.org/dist/htmx.js", "hx-ws.js": "htmx.org/dist/ext/hx-ws.js"},
}

#: htmx 4 with its extensions in one file. If it is deferred alone, it may begin before them.
DEFERRED = {**SCRIPTS, 4: {"htmax.js": "htmx.org/dist/htmax.js"}}


class SayForm(forms.Form):
    """A line of the chat."""

    type = forms.CharField(initial="say", widget=forms.HiddenInput)
    text = forms.CharField(max_length=20)
    tags = forms.MultipleChoiceField(
        choices=[("a", "A"), ("b", "B")], required=False, widget=forms.CheckboxSelectMultiple
    )


class CloseForm(forms.Form):
    """The code of a close."""

    code = forms.IntegerField()


def say(name: str, text: str, tags: str = "") -> None:
    """Send a line to a room."""
    context = {"text": text, "tags": tags}
    send_template(name, "htmx/line.html", context, target="lines", swap="beforeend")


class Chat(FormWebSocketView):
    """A room."""

    forms = {"say": SayForm, "close": CloseForm}  # noqa: RUF012
    templates = {"say": "htmx/say_form.html"}  # noqa: RUF012

    def connect(self, request: HttpRequest, version: int, name: str) -> None:
        if name == "roomforbidden":
            raise PermissionDenied
        self.name = name
        self.version = version
        Group(name).join(self.websocket)

    def say_valid(self, form: SayForm) -> None:
        values = form.cleaned_data
        if values["text"] == "banned":
            raise ValidationError("No <b>such</b> words.")
        say(self.name, values["text"], " ".join(values["tags"]))
        self.send_form("say")

    def close_valid(self, form: CloseForm) -> None:
        self.close(form.cleaned_data["code"])


@resumable("{name}")
def page(request: HttpRequest, version: int, name: str) -> HttpResponse:
    """Render the room.

    Query: ``plain``: without the module of this package; ``shared``; ``old``: with the position
    before the first message.
    """
    query = request.GET
    position: str = request.websocket_positions[name]  # type: ignore[attr-defined]
    epoch, _, newest = position.rpartition("-")
    # Later ones come over the socket.
    messages = [
        each
        for each in Group(name).history().messages
        if int(each.position.rpartition("-")[2]) <= int(newest)
    ]
    context = {
        "name": name,
        "version": version,
        "form": SayForm(),
        "scripts": (DEFERRED if "defer" in query else SCRIPTS)[version],
        "defer": " defer" if "defer" in query else "",
        "plain": "plain" in query,
        "shared": "shared" in query,
        "config": query.get("config"),
        "other": query.get("other", ""),
        "socket": query.get("socket", f"/htmx/{version}/{name}/"),
        "at": f"{epoch}-0" if "old" in query else position,
        "lines": [] if "old" in query else [line_in(str(each.data)) for each in messages],
    }
    return render(request, "htmx/page.html", context)


def line_in(html: str) -> str:
    """Return the line in a message of the history."""
    return html[html.index("<li") : html.index("</li>") + len("</li>")]


@csrf_exempt
def send(request: HttpRequest, name: str) -> HttpResponse:
    """Send lines to a room."""
    for text in request.GET.getlist("text"):
        say(name, text)
    return HttpResponse("sent")


def script(request: HttpRequest, name: str) -> FileResponse:
    """Return a script of htmx."""
    (file,) = (files[name] for files in (*SCRIPTS.values(), DEFERRED[4]) if name in files)
    return FileResponse((ROOT / "client" / "node_modules" / file).open("rb"))


def nothing(request: HttpRequest) -> HttpResponse:
    """Return other HTML, without a socket."""
    return HttpResponse('<p id="nothing">nothing</p>')


urlpatterns: list[Any] = [
    path("htmx/scripts/<name>", script),
    path("htmx/send/<name>/", send),
    path("htmx/nothing/", nothing),
    path("htmx/<int:version>/<name>/", page),
]
websocket_urlpatterns = [path("htmx/<int:version>/<name>/", Chat.as_view())]
