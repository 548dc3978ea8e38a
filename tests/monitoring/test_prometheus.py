"""The series that Prometheus sees."""

from __future__ import annotations

import os
import signal

from tests.gauges import wait_until

from .conftest import Site


def test_prometheus(both: Site) -> None:
    """Any worker reports the series of both; a worker that dies takes its series along."""
    text = both.server.get("/prometheus/")
    assert "# TYPE django_wsmux_sockets_opened_total counter" in text
    assert "# TYPE django_wsmux_handler_seconds histogram" in text
    assert '_bucket{le="+Inf",worker="' in text
    opened = both.series("django_wsmux_sockets_opened_total")
    assert {int(name.rpartition(":")[2]) for name in opened} == set(both.server.workers)
    assert sum(opened.values()) == both.counters()["sockets_opened"]
    victim, *_ = both.server.workers
    os.kill(victim, signal.SIGKILL)
    name = next(name for name in opened if name.endswith(f":{victim}"))
    wait_until(lambda: name not in both.series("django_wsmux_sockets_opened_total"), "series gone")
    (left,) = opened.keys() - {name}
    assert both.series("django_wsmux_sockets_opened_total")[left] == opened[left]
