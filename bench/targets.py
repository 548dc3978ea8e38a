"""Our targets: bounds on the figures in the tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["verdict"]


@dataclass(frozen=True)
class Target:
    """A bound.

    Attributes:
        measure: name of the measure.
        load: beginning of the case's title.
        server: key of the row.
        least: how many times better ours should be, by the figure and by CPU time.
        most_cpu: how much more CPU time than ours (the function view) this row may need.
        most: maximum of the figure itself.
    """

    measure: str
    load: str
    server: str
    least: float | None = None
    most_cpu: float | None = None
    most: float | None = None


CHANNELS = tuple(
    f"{server}/{way}"
    for server in ("daphne", "uvicorn", "gunicorn-asgi")
    for way in ("sync", "async")
)

TARGETS = (
    Target("echo", "64 B", "gevent-websocket", least=3),
    Target("echo", "16 KiB", "gevent-websocket", least=100),
    Target("echo", "64 B", "c", least=0.55),
    Target("echo", "16 KiB", "c", least=0.5),
    Target("echo", "1 MiB", "c", least=0.5),
    Target("echo", "64 B", "picows", least=0.8),
    Target("echo", "16 KiB", "picows", least=0.9),
    Target("echo", "1 MiB", "picows", least=0.9),
    Target("echo", "64 B", "wsmux/event", most_cpu=1.15),
    Target("echo", "64 B", "wsmux/lean", most_cpu=1.15),
    Target("echo", "64 B", "ws", least=1),
    *(Target("echo", "64 B", server, least=10) for server in CHANNELS),
    *(Target("fanout", "500", server, least=0.95) for server in ("picows", "websockets", "ws")),
    *(Target("fanout", "500", server, least=25) for server in CHANNELS),
    *(Target("handshakes", "", server, least=2) for server in CHANNELS),
    Target("pages", "", "wsmux-plain", least=0.99),
    Target("pages", "", "gevent", least=1),
    *(Target("pages", "", server, least=5) for server in ("daphne", "uvicorn", "gunicorn-asgi")),
    # Seconds until 200 views that wait 50 ms each are done.
    *(Target("blocking", "", f"wsmux/{way}", most=0.3) for way in ("function", "event", "lean")),
    # KiB of resident memory for each socket of a signed-in user: what the project promises.
    Target("idle", "10,000", "wsmux/function", most=24.0),
    Target("idle", "10,000", "wsmux/event", most=8.0),
    Target("idle", "10,000", "wsmux/lean", most=1.5),
)


class Row(Protocol):
    """The part of a result that a target needs."""

    error: str | None

    @property
    def value(self) -> float:
        """The figure to compare."""

    @property
    def key(self) -> str:
        """The key of the server."""


def verdict(measure: str, case: str, row: Row, by_main: float | None, by_cpu: float | None) -> str:
    """Return the target of a row and whether it was reached, or "-"."""
    for target in TARGETS:
        if (target.measure, target.server) != (measure, row.key) or row.error:
            continue
        if not case.startswith(target.load):
            continue
        if target.most is not None:
            return f"{target.most:g}: {said(row.value <= target.most)}"
        if target.most_cpu is not None and by_cpu is not None:
            return f"{target.most_cpu:g} of the CPU: {said(by_cpu <= target.most_cpu)}"
        if target.least is not None and by_main is not None and by_cpu is not None:
            main, cpu = by_main >= target.least, by_cpu >= target.least
            if main == cpu:
                return f"{target.least:g}: {said(main)}"
            return f"{target.least:g}: by {'messages/s' if main else 'CPU'} only"
    return "-"


def said(is_reached: bool) -> str:
    """Return the word for it."""
    return "reached" if is_reached else "missed"
