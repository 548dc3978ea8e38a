"""The pages around the sockets."""

import socket
import subprocess
import sys
from datetime import timedelta
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST
from django.views.generic import TemplateView

from django_wsmux.decorators import resumable
from django_wsmux.groups import Group
from django_wsmux.monitoring.overview import collect

from .forms import BidForm, CardForm, LotForm, MoveForm, NotificationForm, SignInForm
from .models import Bid, Card, Lot
from .sockets import CROWD

__all__ = [
    "Page",
    "auction",
    "board",
    "card",
    "chat_page",
    "crowd",
    "delete_card",
    "let_crowd_come",
    "let_crowd_go",
    "lot",
    "move_card",
    "notify",
    "notify_page",
    "send_number",
    "sign_in",
    "workers",
]

#: Tells Turbo that a form has errors: it then shows the page instead of following a redirect.
UNPROCESSABLE = 422

#: How long the auction shows lots that have ended.
SHOWN = timedelta(hours=1)


class Page(TemplateView):
    """A page that only needs a template."""


@resumable("chat")
def chat_page(request: HttpRequest, socket_name: str) -> HttpResponse:
    """Show the chat, over groups or over Redis.

    The page contains the position of the group, so its socket gets all later lines.
    """
    missing = what_redis_lacks() if socket_name == "redis-chat" else ""
    context = {"socket": socket_name, "missing": missing, "redis_url": settings.REDIS_URL}
    return render(request, "sample_site/chat.html", context)


@resumable("crowd")
def crowd(request: HttpRequest) -> HttpResponse:
    """Show what thousands of clients receive, and what is left of it when a worker ends."""
    context = {"count": settings.CROWD_SIZE, "may_end": settings.DEBUG}
    return render(request, "sample_site/crowd.html", context)


@require_POST
def let_crowd_come(request: HttpRequest) -> HttpResponse:
    """Start the clients, in a process of their own, unless they are there."""
    if not settings.DEBUG:
        raise PermissionDenied
    if not any(person.info["open"] for person in CROWD.present()):
        scheme = "wss" if request.is_secure() else "ws"
        url = f"{scheme}://{request.get_host()}{reverse('crowd')}"
        command = [sys.executable, "-m", "sample_site.crowd", url, str(settings.CROWD_SIZE)]
        subprocess.Popen(command, cwd=settings.BASE_DIR.parent)  # noqa: S603
    return HttpResponse(status=204)


@require_POST
def let_crowd_go(request: HttpRequest) -> HttpResponse:
    """Tell the clients to leave."""
    CROWD.send_json({"type": "leave"})
    return HttpResponse(status=204)


@require_POST
def send_number(request: HttpRequest, sender: UUID, number: int) -> HttpResponse:
    """Send a number to all clients, once, even if the page asks for it again."""
    message = {"type": "number", "sender": str(sender), "number": number}
    CROWD.send_json(message, key=f"{sender}-{number}")
    return HttpResponse(status=204)


def workers(request: HttpRequest) -> HttpResponse:
    """Return the sockets and the memory of all workers, as far as the system tells it."""
    found = [
        {
            "pid": each.pid,
            "sockets": each.counters["open"],
            "delivered": each.counters["group_deliveries"],
            "memory": memory_of(each.pid),
        }
        for each in collect().processes
    ]
    return JsonResponse({"workers": found})


def memory_of(pid: int) -> int | None:
    """Return the bytes of memory that a process uses; ``None`` if the system does not tell."""
    command = ["ps", "-o", "rss=", "-p", str(pid)]
    try:
        answer = subprocess.run(command, capture_output=True, check=True)  # noqa: S603
        return int(answer.stdout) * 1024
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


@resumable("@user")
def notify_page(request: HttpRequest, sign_in_form: SignInForm | None = None) -> HttpResponse:
    """Show the user's notifications and a form to send some, or a form to sign in.

    The page contains the position of the user's group, so its socket gets all later notifications.
    """
    form = NotificationForm(initial={"to": request.user.get_username()})
    context = {"form": form, "sign_in_form": sign_in_form or SignInForm()}
    return render(request, "sample_site/notify.html", context)


@require_POST
@login_required
def notify(request: HttpRequest) -> HttpResponse:
    """Send a line to one user: to all of the user's windows, on any worker.

    The windows of a browser share a socket, so the reply counts browsers.
    """
    form = NotificationForm(request.POST)
    if not form.is_valid():
        return JsonResponse({"errors": form.errors.get_json_data()}, status=400)
    group = Group.for_user(form.cleaned_data["to"])
    group.send(f"{request.user.get_username()}: {form.cleaned_data['text']}")
    return JsonResponse({"browsers": group.count()})


@require_POST
def sign_in(request: HttpRequest) -> HttpResponse:
    """Sign in the visitor under the given name, without a password."""
    form = SignInForm(request.POST)
    if not form.is_valid():
        page: HttpResponse = notify_page(request, form)
        return page
    login(request, form.get_user())
    return redirect("notify")


def what_redis_lacks() -> str:
    """Return what is missing for the chat over Redis: "package", "server", or "" for nothing."""
    if find_spec("redis") is None:
        return "package"
    url = urlsplit(settings.REDIS_URL)
    try:
        socket.create_connection((url.hostname, url.port or 6379), timeout=0.5).close()
    except OSError:
        return "server"
    return ""


@resumable("board")
def board(request: HttpRequest) -> HttpResponse:
    """Show all cards, or add one."""
    form = CardForm(request.POST or None)
    if form.is_valid():
        form.save()
        return redirect("board")
    cards = list(Card.objects.all())
    columns = [
        (column, [card for card in cards if card.column == column]) for column in Card.Column
    ]
    return render_form(request, "sample_site/board.html", form, columns=columns)


def card(request: HttpRequest, pk: int) -> HttpResponse:
    """Show one card with a form to rename it."""
    with transaction.atomic():
        card = get_object_or_404(Card.objects.select_for_update(), pk=pk)
        form = CardForm(request.POST or None, instance=card)
        if form.is_valid():
            form.save()
            return redirect("board")
    return render_form(request, "sample_site/card_form.html", form)


@require_POST
def move_card(request: HttpRequest, pk: int) -> HttpResponse:
    """Move a card to the end of a column, if someone else has not deleted it."""
    with transaction.atomic():
        card = Card.objects.select_for_update().filter(pk=pk).first()
        form = MoveForm(request.POST)
        if card is not None and form.is_valid():
            card.move_to(form.cleaned_data["column"])
    return redirect("board")


@require_POST
def delete_card(request: HttpRequest, pk: int) -> HttpResponse:
    """Delete a card, if someone else has not done so."""
    Card.objects.filter(pk=pk).delete()
    return redirect("board")


@resumable("auction")
def auction(request: HttpRequest) -> HttpResponse:
    """Show what is sold, or offer something."""
    form = LotForm(request.POST or None)
    if form.is_valid():
        form.save()
        return redirect("auction")
    lots = Lot.objects.filter(ends__gt=timezone.now() - SHOWN)
    return render_form(request, "sample_site/auction.html", form, lots=lots)


@resumable("auction", "auction.{pk}")
def lot(request: HttpRequest, pk: int) -> HttpResponse:
    """Show one lot, or bid for it without JavaScript."""
    lot = get_object_or_404(Lot, pk=pk)
    form = BidForm(request.POST or None, instance=Bid(lot=lot))
    if form.is_valid():
        if form.instance.place():
            return redirect("lot", pk)
        form.add_error("amount", form.overtaken)
    return render_form(request, "sample_site/lot_page.html", form, lot=lot)


def render_form(
    request: HttpRequest, template: str, form: BaseForm, **context: Any
) -> HttpResponse:
    """Render a page with a form, which may have errors."""
    status = UNPROCESSABLE if form.errors else 200
    return render(request, template, {"form": form, **context}, status=status)
