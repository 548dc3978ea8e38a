"""Sockets that move to another process, while either process fails in any step."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from django_wsmux.connection.interfaces import Detached
from django_wsmux.server import handover, offers, parcels
from django_wsmux.server.offers import Worker
from django_wsmux.server.parcels import Parcel

from ..gauges import wait_until
from .movers import Client, Process, Said, running

#: The steps of a handover in the giver, and in the taker.
GIVING = ("ask", "wait_for", "pack", "seal", "given")
TAKING = ("answer", "build", "adopt", "finished")


@pytest.fixture
def clients() -> list[Client]:
    """The peers of ten sockets."""
    return [Client() for _ in range(10)]


def served_by(clients: list[Client]) -> set[int | None]:
    """Let each client echo; return the processes that serve them, ``None`` for closed sockets."""
    answers = [client.echo() for client in clients]
    return {answer.pid if isinstance(answer, Said) else answer for answer in answers}


def await_files(process: Process, count: int) -> None:
    """Wait until a process has this many descriptors open: gevent closes sockets a little later."""
    wait_until(lambda: process.ask("report")["fds"] == count, f"{count} open files")


def test_move(tmp_path: Path, clients: list[Client]) -> None:
    """The sockets continue in the other process, with their state; no descriptor is left."""
    with running(tmp_path, clients) as (giver, (taker,)):
        before = giver.ask("report")["fds"], taker.ask("report")["fds"]
        assert served_by(clients) == {giver.pid}
        for client in clients[:5]:
            client.say()
            client.hear()
        report = giver.ask("give", 60)
        assert report == {"given": {str(taker.pid): 10}, "stay": {}, "back": 0}
        assert served_by(clients) == {taker.pid}
        wait_until(lambda: taker.ask("report").get("finished"), "the giver has left")
        state = giver.ask("report")
        assert (state["open"], state["given"]) == (0, 10)
        await_files(giver, before[0] - 10)
        await_files(taker, before[1] + 10)
        assert state["counters"] == [10, 0, 0, 0]
        assert taker.ask("report")["counters"] == [0, 10, 0, 0]


def test_messages_under_way(tmp_path: Path, clients: list[Client]) -> None:
    """Messages that come meanwhile are answered once, in order, by one of the two."""
    with running(tmp_path, clients) as (giver, (taker,)):
        giver.tell("give", 60)
        for _ in range(200):
            for client in clients:
                client.say()
        for client in clients:
            for number in range(1, 201):
                said = client.hear()
                assert isinstance(said, Said)
                assert (said.number, said.text) == (number, str(number))
        assert giver.hear()["given"] == {str(taker.pid): 10}
        assert served_by(clients) == {taker.pid}


def test_what_stays(tmp_path: Path) -> None:
    """Sockets that do not move, or that the taker refuses, stay and go on."""
    clients = [Client("/"), Client("/stays"), Client("/refused"), Client("/refused")]
    with running(tmp_path, clients) as (giver, (taker,)):
        before = taker.ask("report")["fds"]
        report = giver.ask("give", 60)
        assert report["given"] == {str(taker.pid): 1}
        assert report["stay"] == {"it does not move": 1, "refused: no such path": 2}
        assert served_by(clients[1:]) == {giver.pid}
        assert served_by(clients[:1]) == {taker.pid}
        assert giver.ask("report")["counters"] == [1, 0, 2, 2]
        wait_until(lambda: taker.ask("report").get("finished"), "the giver has left")
        await_files(taker, before + 1)


@pytest.mark.parametrize("step", TAKING)
def test_taker_is_killed(tmp_path: Path, clients: list[Client], step: str) -> None:
    """Before it has taken a batch, the giver goes on; afterwards the sockets are closed."""
    with running(tmp_path, clients) as (giver, (taker,)):
        before = giver.ask("report")["fds"]
        taker.ask("at", step, "kill")
        report = giver.ask("give", 60)
        taker.process.wait()
        if step in ("answer", "build"):
            assert report["given"] == {}
            assert report["stay"] == {"no worker has taken it: it has ended": 10}
            assert served_by(clients) == {giver.pid}
            await_files(giver, before)
            assert giver.ask("report")["counters"] == [0, 0, 10 * (step == "build"), 0]
        else:
            assert report["given"] == {str(taker.pid): 10}
            assert served_by(clients) == {None}
            await_files(giver, before - 10)


@pytest.mark.parametrize("step", GIVING)
def test_giver_is_killed(tmp_path: Path, clients: list[Client], step: str) -> None:
    """The taker has a whole batch, or nothing of it; all other sockets are closed."""
    with running(tmp_path, clients) as (giver, (taker,)):
        before = taker.ask("report")["fds"]
        giver.ask("at", step, "kill")
        giver.tell("give", 60)
        giver.process.wait()
        wait_until(lambda: taker.ask("report").get("finished"), "the giver has left")
        has_all = step == "given"
        assert served_by(clients) == {taker.pid if has_all else None}
        await_files(taker, before + 10 * has_all)


def test_other_takes(tmp_path: Path, clients: list[Client]) -> None:
    """If a taker dies, another gets its batch."""
    with running(tmp_path, clients, takers=2) as (giver, takers):
        takers[0].ask("at", "build", "kill")
        report = giver.ask("give", 60)
        assert report["given"] == {str(takers[1].pid): 10}
        assert report["back"] in (5, 10)
        assert served_by(clients) == {takers[1].pid}


@pytest.mark.parametrize("step", ["answer", "build", "adopt"])
def test_taker_is_stopped(tmp_path: Path, clients: list[Client], step: str) -> None:
    """A taker that may have a batch keeps it: no socket is served twice when it continues."""
    with running(tmp_path, clients) as (giver, (taker,)):
        before = giver.ask("report")["fds"]
        giver.ask("patience", 0.2)
        taker.ask("at", step, "stop")
        giver.tell("give", 60)
        taker.await_stopped()
        for client in clients:
            client.say()
        report = giver.hear()
        taker.go_on()
        if step == "answer":
            assert report["given"] == {}
            expected = giver.pid
        else:
            assert report["given"] == {str(taker.pid): 10}
            expected = taker.pid
            await_files(giver, before - 10)
        for client in clients:
            assert client.hear() == Said(expected, 1, "1")
        assert served_by(clients) == {expected}
        counts = taker.ask("report")["open"], giver.ask("report")["open"]
        assert counts == ((0, 10) if step == "answer" else (10, 0))


def test_taker_is_stopped_and_killed(tmp_path: Path, clients: list[Client]) -> None:
    """A socket whose taker never continues is closed when gunicorn kills it."""
    with running(tmp_path, clients) as (giver, (taker,)):
        giver.ask("patience", 0.2)
        taker.ask("at", "build", "stop")
        giver.tell("give", 60)
        taker.await_stopped()
        assert giver.hear()["given"] == {str(taker.pid): 10}
        taker.process.send_signal(signal.SIGKILL)
        assert served_by(clients) == {None}


def test_giver_is_stopped(tmp_path: Path, clients: list[Client]) -> None:
    """The taker serves what it has, whether the giver has seen it or not."""
    with running(tmp_path, clients) as (giver, (taker,)):
        giver.ask("at", "given", "stop")
        giver.tell("give", 60)
        giver.await_stopped()
        assert served_by(clients) == {taker.pid}
        giver.go_on()
        assert giver.hear()["given"] == {str(taker.pid): 10}
        assert served_by(clients) == {taker.pid}


@pytest.mark.parametrize("step", ["answer", "build"])
def test_taker_fails(tmp_path: Path, clients: list[Client], step: str) -> None:
    """An error before the batch is taken leaves the sockets with the giver."""
    with running(tmp_path, clients) as (giver, (taker,)):
        before = taker.ask("report")["fds"]
        taker.ask("at", step, "raise")
        report = giver.ask("give", 60)
        assert report["given"] == {}
        assert served_by(clients) == {giver.pid}
        wait_until(lambda: taker.ask("report").get("finished"), "the giver has left")
        await_files(taker, before)


@pytest.mark.parametrize("step", ["ask", "wait_for", "pack", "seal", "given"])
def test_giver_fails(tmp_path: Path, clients: list[Client], step: str) -> None:
    """An error of the giver loses no socket."""
    with running(tmp_path, clients) as (giver, (taker,)):
        giver.ask("at", step, "raise")
        report = giver.ask("give", 60)
        given = sum(report["given"].values())
        assert given == {"pack": 9, "given": 10}.get(step, 0)
        for client in clients:
            assert served_by([client]) <= {giver.pid, taker.pid}
        assert giver.ask("report")["open"] == 10 - given


def test_giver_is_ended_in_a_batch(tmp_path: Path, clients: list[Client]) -> None:
    """A giver that waits no longer for a batch leaves it to the taker."""
    with running(tmp_path, clients) as (giver, (taker,)):
        taker.ask("at", "build", "wait")
        giver.tell("give", 0.1)
        assert taker.hear() == "build"
        assert giver.hear()["given"] == {str(taker.pid): 10}
        assert giver.ask("report")["open"] == 0


def test_version(tmp_path: Path, clients: list[Client]) -> None:
    """A process that speaks another version refuses, and the sockets stay."""
    with running(tmp_path, clients) as (giver, (taker,)):
        taker.ask("version", 2)
        report = giver.ask("give", 60)
        assert report["given"] == {}
        (reason,) = report["stay"]
        assert "version 1 of the protocol is unknown here (2)" in reason
        assert served_by(clients) == {giver.pid}


def test_no_descriptors_left(tmp_path: Path, clients: list[Client]) -> None:
    """A taker that cannot open more files refuses the batch; nothing is lost."""
    with running(tmp_path, clients, files=16) as (giver, (taker,)):
        before = taker.ask("report")["fds"]
        report = giver.ask("give", 60)
        assert report["given"] == {}
        assert [*report["stay"]] == [
            "no worker has taken it: it refuses: it was cut off: this process has too few "
            "descriptors left"
        ]
        assert served_by(clients) == {giver.pid}
        wait_until(lambda: taker.ask("report").get("finished"), "the giver has left")
        await_files(taker, before)


def test_withdrawn(tmp_path: Path, clients: list[Client]) -> None:
    """A process that leaves itself takes nothing any more."""
    with running(tmp_path, clients) as (giver, (taker,)):
        assert taker.ask("withdraw") == "withdrawn"
        assert giver.ask("give", 60)["stay"] == {"no worker has taken it: none was ready": 10}
        assert served_by(clients) == {giver.pid}


def test_onwards(tmp_path: Path, clients: list[Client]) -> None:
    """Sockets move again and again; their state goes with them."""
    processes = [Process(tmp_path, "0", clients)]
    try:
        for generation in range(1, 6):
            successor = Process(tmp_path, str(generation))
            processes.append(successor)
            assert successor.ask("offer") == "offered"
            assert processes[-2].ask("give", 60)["given"] == {str(successor.pid): 10}
            assert served_by(clients) == {successor.pid}
            processes[-2].kill()
        names = [path.name.rpartition("-")[2] for path in tmp_path.iterdir()]
        # The last but one ended after the last had looked.
        assert sorted(names) == sorted(str(process.pid) for process in processes[-2:])
    finally:
        processes[-1].kill()
        for client in clients:
            client.sock.close()


def entry(**values: Any) -> dict[str, Any]:
    """Return the entry of a socket in a batch, with some values replaced."""
    detached = Detached(0, b"ab", b"cde", {})
    return {**handover.entry({"path": "/", "count": 0}, detached, 0), **values}


@pytest.fixture(scope="module")
def taker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, Any]]:
    """A process that takes sockets, and a connection to it."""
    directory = tmp_path_factory.mktemp("taker")
    process = Process(directory, "2")
    try:
        process.ask("offer")
        (found,) = offers.look(str(directory), Worker("f00", 1, "1", 1, 1))
        with closing(offers.connect(str(directory), found.worker)) as sock:
            parcels.send(sock, Parcel("hello", {"version": handover.VERSION}))
            assert parcels.receive(sock) is not None
            yield process, sock
    finally:
        process.kill()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"batch": [], "entries": [entry()]},
        {"batch": {}, "entries": {}},
        {"batch": {}, "entries": []},
        {"batch": {}, "entries": [entry()] * 2},
        {"batch": {}, "entries": [None]},
        {"batch": {}, "entries": [entry(start=-1)]},
        {"batch": {}, "entries": [entry(start=1)]},
        {"batch": {}, "entries": [entry(sizes=[5])]},
        {"batch": {}, "entries": [entry(sizes=[6, 0])]},
        {"batch": {}, "entries": [entry(sizes=[True, 0])]},
        {"batch": {}, "entries": [entry(sizes=["2", 0])]},
        {"batch": {}, "entries": [entry(codec=[])]},
        {"batch": {}, "entries": [entry(record=None)]},
    ],
)
def test_wrong_batch(body: dict[str, Any], taker: tuple[Process, Any]) -> None:
    """A batch of another form is refused before the mover sees it; its sockets are closed."""
    process, sock = taker
    ours, theirs = socket.socketpair()
    parcels.send(sock, Parcel("batch", body, b"abcde", [theirs.fileno()]))
    theirs.close()
    refused = parcels.receive(sock)
    assert refused is not None
    assert refused.kind == "refused"
    assert ours.recv(1) == b""
    ours.close()
    assert process.ask("report")["counters"] == [0, 0, 0, 0]


def test_unknown_kind(taker: tuple[Process, Any]) -> None:
    """A message of an unknown kind is ignored, and its descriptors are closed."""
    _, sock = taker
    ours, theirs = socket.socketpair()
    parcels.send(sock, Parcel("later", {}, b"", [theirs.fileno()]))
    theirs.close()
    assert ours.recv(1) == b""
    ours.close()
    parcels.send(sock, Parcel("ask", {"count": 1}))
    answer = parcels.receive(sock)
    assert answer is not None
    assert answer.kind == "answer"
