"""How sockets are spread over the workers that take them, and the line in the log."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from django_wsmux.server.giving import Report

from .movers import Client, Process, running


def test_spread(tmp_path: Path) -> None:
    """All takers get their share, even of few sockets."""
    clients = [Client() for _ in range(30)]
    with running(tmp_path, clients, takers=3) as (giver, takers):
        report = giver.ask("give", 60)
        assert report["given"] == {str(taker.pid): 10 for taker in takers}
        assert report["stay"] == {}


def test_the_first_waits(tmp_path: Path) -> None:
    """A taker that is ready first does not get everything, if others are known to come."""
    clients = [Client() for _ in range(10)]
    with running(tmp_path, clients, takers=0) as (giver, takers):
        giver.ask("patience", 600)
        giver.tell("give", 600, 2)
        for _ in range(2):
            takers.append(Process(tmp_path, "2"))
            assert takers[-1].ask("offer") == "offered"
        assert giver.hear()["given"] == {str(taker.pid): 5 for taker in takers}
        for taker in takers:
            taker.kill()


def test_those_that_leave_come_last(tmp_path: Path) -> None:
    """A taker that will leave itself gets nothing, unless there is no other."""
    clients = [Client() for _ in range(10)]
    with running(tmp_path, clients, takers=2) as (giver, (first, second)):
        first.ask("leaving")
        assert giver.ask("give", 60)["given"] == {str(second.pid): 10}
    clients = [Client() for _ in range(10)]
    with running(tmp_path, clients) as (giver, (only,)):
        only.ask("leaving")
        assert giver.ask("give", 60)["given"] == {str(only.pid): 10}


def test_taker_that_leaves(tmp_path: Path) -> None:
    """A taker that begins to leave refuses what comes later, although the giver is connected."""
    clients = [Client() for _ in range(10)]
    with running(tmp_path, clients) as (giver, (taker,)):
        giver.ask("at", "ask", "stop")
        giver.tell("give", 60)
        giver.await_stopped()
        taker.ask("withdraw")
        giver.go_on()
        reason = "no worker has taken it: it refuses: it leaves, too"
        assert giver.hear()["stay"] == {reason: 10}


def test_report() -> None:
    """The line says who got how many, how many stay, and why."""
    report = Report(Counter({17: 20, 18: 5}), 3, Counter({"it is busy": 1, "it is old": 2}), 0.5)
    assert str(report) == (
        "25 sockets in 0.50 s (20 to 17, 5 to 18); 3 stay (2: it is old, "
        "1: it is busy); 3 were taken back"
    )
    assert str(Report()) == "0 sockets in 0.00 s; 0 stay"
