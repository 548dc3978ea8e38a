"""A page that sends to a group, and does something while nearly all members wait for it."""

import os
import signal
import time

from django.http import HttpRequest, JsonResponse
from django.urls import path

from django_wsmux.connection import fanout
from django_wsmux.groups import Group


def live_as_child(group: Group, key: str) -> None:
    """Send this process's id to a group, then wait, in a way that lets others run, for a file."""
    group.send(str(os.getpid()))
    deadline = time.monotonic() + 60
    while not os.path.exists(key) and time.monotonic() < deadline:
        time.sleep(0.01)


def put_off(request: HttpRequest, what: str) -> JsonResponse:
    """Send numbers to a group; return what is left to be sent, and the child if there is one."""
    # Each turn of the hub serves one member.
    fanout._FEW, fanout._STEP, fanout._SLICE = 0, 1, 0.0
    group = Group(request.GET["group"])
    for number in range(int(request.GET["count"])):
        group.send(str(number))
    left = sum(len(each.members) - each.at for each in fanout._pending)
    child = None
    if what == "fork":
        # Only servers with gevent are asked for it.
        from gevent.monkey import get_original

        child = get_original("os", "fork")()
        if not child:
            try:
                live_as_child(group, request.GET["key"])
            finally:
                os._exit(0)
    else:
        process = int(request.GET.get("pid", os.getpid()))
        os.kill(process, signal.Signals[what])
    return JsonResponse({"left": left, "child": child})


urlpatterns = [path("put-off/<what>/", put_off)]
