"""How sockets are spread over the workers that take them, and the line in the log."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from django_wsmux.server.giving import Report

from .movers import Client, running


def test_spread(tmp_path: Path) -> None:
    """All takers get their share, even of few sockets."""
    clients = [Client() for _ in range(30)]
    with running(tmp_path, clients, takers=3) as (giver, takers):
        report = giver.ask("give", 60)
        assert report["given"] == {str(taker.pid): 10 for taker in takers}
        assert report["stay"] == {}


def test_report() -> None:
    """The line says who got how many, how many stay, and why."""
    report = Report(Counter({17: 20, 18: 5}), 3, Counter({"it is busy": 1, "it is old": 2}), 0.5)
    assert str(report) == (
        "25 sockets in 0.50 s (20 to 17, 5 to 18); 3 stay (2: it is old, "
        "1: it is busy); 3 were taken back"
    )
    assert str(Report()) == "0 sockets in 0.00 s; 0 stay"
