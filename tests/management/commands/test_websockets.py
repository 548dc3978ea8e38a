"""``manage.py websockets``: lists sockets, sends messages and closes sockets of all workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from django_wsmux.groups.pubsub import pubsub
from tests.functional.test_conversation import closing, signed_in
from tests.gauges import wait_until
from tests.monitoring.conftest import Site, both, site, start_site
from tests.support import ROOT, TIMEOUT, Server

__all__ = ["both", "site"]

StartServer = Callable[..., Server]


def test_list(both: Site) -> None:
    """Sockets of both workers are listed; the number of omitted sockets is shown."""
    with (
        signed_in(both.server, "ann") as headers,
        both.server.connect("/events/private/", additional_headers=headers) as websocket,
    ):
        websocket.send("hello")
        websocket.recv(timeout=TIMEOUT)
        found = both.sockets()["/events/private/"]
        user = str(found["user_id"])
        assert user.isdigit()
        assert (found["address"], found["messages_in"]) == ("127.0.0.1", 1)
        assert str(found["worker"]).endswith(tuple(f":{pid}" for pid in both.server.workers))
        text = both.command()
        assert re.search(rf"^/events/private/ +{user} +127\.0\.0\.1 +0:00:0\d +1 ", text, re.M)
        limited = json.loads(both.command("--json", "--limit", "1"))
        # One from each worker.
        assert len(limited["sockets"]) == 2
        assert len({each["worker"] for each in limited["sockets"]}) == 2
        # Each worker has a socket at /echo/, and one of them has this one, too.
        omitted = both.counters()["open"] - 2
        assert limited["omitted"] == omitted >= 1
        assert f"and {omitted:g} more" in both.command("--limit", "1")


def test_filters(both: Site) -> None:
    """Group, user, path and age select sockets together."""
    with (
        signed_in(both.server, "ann") as headers,
        both.server.connect("/events/room/lobby/", additional_headers=headers) as websocket,
        both.server.connect("/events/room/lobby/") as other,
    ):
        for each in (websocket, other):
            each.recv(timeout=TIMEOUT)
        for options, count in (
            (("--group", "lobby"), 2),
            (("--group", "lob*"), 2),
            (("--group", "l"), 0),
            (("--path", "ROOM", "--younger-than", "2h"), 2),
            (("--older-than", "1d"), 0),
        ):
            found = both.all_sockets(*options)
            assert len(found) == count, options
            assert all(each["groups"] == ["lobby"] for each in found)
        more = ("--group", "lobby", "--user", "ann", "--json")
        result = subprocess.run(
            [sys.executable, "-m", "django", "websockets", *more],
            env={**os.environ, **both.env},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        (only,) = json.loads(result.stdout)["sockets"]
        assert only["user_id"] is not None
    for wrong in ("x", "-1", "nan", "5w"):
        with pytest.raises(CommandError, match=r"is not a time|expected one argument"):
            both.command("--older-than", wrong)


def test_send(both: Site) -> None:
    """A message goes to the members of a group; an invalid name is refused."""
    with both.server.connect("/events/room/lobby/") as websocket:
        websocket.recv(timeout=TIMEOUT)
        assert both.command("send", "lobby", "from afar") == "sent to 1 sockets\n"
        assert websocket.recv(timeout=TIMEOUT) == "from afar"
    with pytest.raises(CommandError, match="group name '@x'"):
        both.command("send", "@x", "message")


def test_disconnect(both: Site) -> None:
    """A user's sockets are closed by name or by primary key, also as a separate command."""
    for by_id in (False, True):
        with (
            signed_in(both.server, "bob") as headers,
            both.server.connect("/events/private/", additional_headers=headers) as websocket,
        ):
            websocket.send("hello")
            websocket.recv(timeout=TIMEOUT)
            if by_id:
                user = str(both.sockets()["/events/private/"]["user_id"])
                assert "1 sockets" in both.command("disconnect", "--id", user)
            else:
                command = [sys.executable, "-m", "django", "websockets", "disconnect", "bob"]
                env = {**os.environ, **both.env}
                result = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
                assert result.stdout == "1 sockets of bob closed\n", result.stderr
            assert closing(websocket) == (4401, "disconnected")


def test_runserver(environment: dict[str, str]) -> None:
    """The development server answers too."""
    site = start_site("runserver", environment)
    try:
        with site.server.connect("/echo/") as websocket:
            websocket.send("x")
            websocket.recv(timeout=TIMEOUT)
            assert site.sockets()["/echo/"]["messages_in"] == 1
            assert site.series("django_wsmux_open_sockets").popitem()[1] == 1
    finally:
        site.server.stop()
        pubsub.backend()


def test_before_the_first_handshake(environment: dict[str, str]) -> None:
    """A worker of ours appears before its first socket, also after a reload: a new generation."""
    site = start_site("own", environment, "-w", "2")

    def generations() -> set[int]:
        return set(json.loads(site.command("stats", "--json"))["generations"].values())

    def processes() -> set[int]:
        found = json.loads(site.command("stats", "--json"))["workers"]
        return {int(name.rpartition(":")[2]) for name in found}

    try:
        wait_until(lambda: processes() == {*site.server.workers}, "both workers")
        before = processes()
        row = re.compile(r"^generation +1 +1 +-$", re.MULTILINE)
        wait_until(lambda: row.search(site.command("stats")), "the first generation")
        site.server.signal(signal.SIGHUP)
        wait_until(
            lambda: len(processes() - before) == 2 and processes() == {*site.server.workers},
            "their successors",
        )
        wait_until(lambda: generations() == {2}, "the second generation")
    finally:
        site.server.stop()
        pubsub.backend()


def test_alone() -> None:
    """Without a backend a process cannot ask others, and says so."""
    with pytest.raises(CommandError, match="WEBSOCKET_BACKEND is memory://"):
        call_command("websockets")


def test_broker_away() -> None:
    """The command reports that the broker cannot be reached."""
    with (
        override_settings(WEBSOCKET_BACKEND="redis://127.0.0.1:1/0"),
        pytest.raises(CommandError, match=r"redis://127\.0\.0\.1:1"),
    ):
        call_command("websockets")
    pubsub.backend()
