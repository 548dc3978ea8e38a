"""Workers that show in a directory that they take sockets."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from django_wsmux.server import offers
from django_wsmux.server.offers import Found, Offer, Worker, connect, look
from django_wsmux.server.processes import start_of

ME = Worker("f00", 100, "1", 1, 1)


def this(service: str = "f00", generation: str = "2") -> Worker:
    """Return this process as a worker."""
    return Worker(service, 100, generation, start_of(os.getpid()), os.getpid())


@pytest.fixture
def child() -> Iterator[Worker]:
    """Another process that lives."""
    process = subprocess.Popen(["sleep", "600"])
    try:
        yield Worker("f00", 100, "2", start_of(process.pid), process.pid)
    finally:
        process.kill()
        process.wait()


def test_life(tmp_path: Path) -> None:
    """A worker is found while it lives, and taken for ready while it takes sockets."""
    offer = Offer(str(tmp_path), this())
    assert look(str(tmp_path), ME) == [Found(this(), True)]
    connect(str(tmp_path), this()).close()
    offer.withdraw()
    assert look(str(tmp_path), ME) == [Found(this(), False)]
    with pytest.raises(FileNotFoundError):
        connect(str(tmp_path), this())
    offer.remove()
    assert list(tmp_path.iterdir()) == []
    offer.remove()


def test_others(tmp_path: Path) -> None:
    """The process itself, and those of another service, are not found."""
    offer = Offer(str(tmp_path), this())
    assert look(str(tmp_path), this()) == []
    assert look(str(tmp_path), ME._replace(service="f01")) == []
    assert look(str(tmp_path / "missing"), ME) == []
    offer.remove()


def test_long_directory(tmp_path: Path) -> None:
    """The path of the directory may be longer than the address of a unix socket."""
    directory = tmp_path / ("long" * 50)
    directory.mkdir()
    offer = Offer(str(directory), this())
    connect(str(directory), this()).close()
    offer.remove()


def test_never_half_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name appears when connections are accepted already, and no one removes it before."""
    seen = []

    def rename(old: str, new: str) -> None:
        offers.remove_dead(str(tmp_path))
        seen.append(look(str(tmp_path), ME))
        os.replace(old, new)

    monkeypatch.setattr(os, "rename", rename)
    offer = Offer(str(tmp_path), this())
    assert seen == [[]]
    assert look(str(tmp_path), ME) == [Found(this(), True)]
    offer.remove()


def test_the_dead(tmp_path: Path, child: Worker) -> None:
    """Names of killed processes are removed, others are not: they may be in another container."""
    offer = Offer(str(tmp_path), this())
    gone = this()._replace(pid=2**30)
    # It can be reached, so it lives, although this process does not see it.
    os.link(tmp_path / this().name, tmp_path / gone.name)
    (tmp_path / "another file").touch()
    for name in (f"{child.name}.left", f"{gone._replace(generation='3').name}.left"):
        (tmp_path / name).touch()
    stays = {this().name, gone.name, "another file", f"{child.name}.left"}
    offers.remove_dead(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == stays
    assert set(look(str(tmp_path), ME)) == {Found(this(), True), Found(child, False)}
    offer.listener.close()
    offers.remove_dead(str(tmp_path))
    assert not (tmp_path / gone.name).exists()
    assert (tmp_path / this().name).exists()


def test_new_names_of_the_dead(tmp_path: Path) -> None:
    """A process that was killed before it listened is forgotten after a while."""
    path = tmp_path / f"{this()._replace(pid=2**30).name}.new"
    path.touch()
    offers.remove_dead(str(tmp_path))
    assert path.exists()
    os.utime(path, (0, 0))
    offers.remove_dead(str(tmp_path))
    assert not path.exists()


def test_no_directory(tmp_path: Path) -> None:
    """Without its directory there is no offer, and no descriptor stays open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        Offer(str(tmp_path / "missing"), this())
    assert len(os.listdir("/proc/self/fd")) == before


def test_generations() -> None:
    """Workers of a new configuration, or a new arbiter, succeed those before."""
    sibling = ME._replace(pid=2, started=5)
    reloaded = ME._replace(pid=3, started=9, generation="2")
    upgraded = ME._replace(pid=4, started=9, arbiter=200)
    assert sibling.is_sibling(ME)
    assert not ME.is_sibling(ME)
    assert not sibling.succeeds(ME)
    for worker in (reloaded, upgraded):
        assert worker.succeeds(ME)
        assert not ME.succeeds(worker)
        assert not worker.is_sibling(ME)
        assert not worker._replace(service="f01").succeeds(ME)
    # The old arbiter has replaced a worker since: it is still the old one.
    late = ME._replace(pid=5, started=20)
    assert upgraded.succeeds(late)
    # Back to the old arbiter, which was reloaded.
    assert reloaded._replace(started=20).succeeds(upgraded)
