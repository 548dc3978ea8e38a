"""OpenTelemetry's instrumentation: an open socket is a span with status 101, without an error."""

from __future__ import annotations

import re

import pytest

from tests.compat.conftest import StartServer, start_site
from tests.compat.test_wrappers import VIEWS, talk
from tests.support import SERVERS, Server


@pytest.mark.parametrize("is_around", [False, True], ids=["django", "wsgi"])
@pytest.mark.parametrize("worker", SERVERS)
def test_sockets(start_server: StartServer, worker: str, is_around: bool) -> None:
    """Sockets and refusals have spans; only the crash is an error."""
    more = {"OTEL_AROUND": "1"} if is_around else {}
    server = start_site(start_server, worker, COMPAT="opentelemetry_site", **more)
    for path in VIEWS:
        talk(server, path, {})
    assert server.refused("/nowhere/").status == 404
    assert server.refused("/crash-before/").status == 500
    server.wait_for_log(r"span .* 500 ERROR .*\n")
    # For Django, an undecorated view has returned an empty page after its conversation.
    others = 0 if is_around else 1
    assert len(spans(server, 101)) == len(VIEWS) - others
    assert {status for status, _ in spans(server, 101)} == {"UNSET"}
    assert not any(events for _, events in spans(server, 101))
    assert [status for status, _ in spans(server, 404)] == ["UNSET"]
    assert "StopIteration" not in server.log


def spans(server: Server, status: int) -> list[tuple[str, bool]]:
    """Return the statuses of the spans of a response status, and whether they have events."""
    found = re.findall(rf"^span .* {status} (\w+) (\[.*\])$", server.log, re.MULTILINE)
    return [(name, events != "[]") for name, events in found]
