"""``local://``: the contract, and what only this backend has to withstand."""

from __future__ import annotations

import os
import signal
import socket
import stat
import time
from pathlib import Path

import pytest

from django_wsmux.backends import BackendUnavailable, from_url
from django_wsmux.backends.contract import BackendContract, MakePeer, numbers
from django_wsmux.backends.local import LocalBackend
from django_wsmux.backends.peer import PeerError


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a short name: the path of a unix socket is limited."""
    return tmp_path_factory.mktemp("l")


class TestLocalBackend(BackendContract):
    """The contract, and faults."""

    @pytest.fixture
    def backend_url(self, directory: Path) -> str:
        """Sockets in a directory of the test's own."""
        return f"local://{directory}"

    def test_private(self, peer: MakePeer, directory: Path) -> None:
        """One directory that only the user can enter, one socket for each listener."""
        peer("room")
        (private,) = directory.iterdir()
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        (path,) = private.iterdir()
        assert stat.S_ISSOCK(path.stat().st_mode)

    def test_clean_exit(self, peer: MakePeer, directory: Path) -> None:
        """A process that ends removes its socket; one that only publishes has none."""
        listener, sender = peer("room"), peer()
        sender.publish("room", b"hello")
        (private,) = directory.iterdir()
        assert len(list(private.iterdir())) == 1
        listener.stop()
        assert list(private.iterdir()) == []

    def test_stale_sockets(self, peer: MakePeer, directory: Path) -> None:
        """What a killed process left is swept by the next publication."""
        peer("room").kill()
        (private,) = directory.iterdir()
        assert len(list(private.iterdir())) == 1
        peer().publish("room", b"hello")
        assert list(private.iterdir()) == []

    def test_socket_removed(self, peer: MakePeer, directory: Path) -> None:
        """A listener whose socket somebody removed makes a new one, and reports the gap."""
        listener = peer("room")
        (private,) = directory.iterdir()
        (path,) = private.iterdir()
        path.unlink()
        (gap,) = listener.gaps(1)
        assert "has been removed" in gap["reason"]
        peer().publish("room", b"hello")
        assert listener.received(1) == [("room", b"hello")]

    def test_stopped_peer(self, peer: MakePeer) -> None:
        """A stopped process delays nobody; when it goes on it gets what was queued."""
        stopped, healthy, sender = peer("room"), peer("room"), peer("room")
        stopped.signal(signal.SIGSTOP)
        began = time.monotonic()
        sender.call("publish_numbers", "room", "0", 10_000, 500)
        assert time.monotonic() - began < 10
        assert numbers(healthy.received(10_000), "0") == list(range(10_000))
        stopped.signal(signal.SIGCONT)
        assert numbers(stopped.received(10_000), "0") == list(range(10_000))
        assert stopped.gaps(0) == healthy.gaps(0) == []

    def test_overflow(self, peer: MakePeer, backend_url: str) -> None:
        """What a stopped process would have to queue is bounded; it is told how much it missed."""
        url = f"{backend_url}?queue=1000000"
        stopped, healthy, sender = (peer("room", url=url) for _ in range(3))
        stopped.signal(signal.SIGSTOP)
        before = sender.call("memory")
        for index in range(20):
            sender.call("publish_numbers", "room", f"{index}", 70, 7_000)
            sender.publish("room", b"x" * 500_000)
            assert len(healthy.received(71)) == 71
        assert sender.call("memory") - before < 8_000
        dropped = sender.call("counts")["dropped"]
        assert dropped > 20
        stopped.signal(signal.SIGCONT)
        (gap,) = stopped.gaps(1)
        assert gap["missed"] == dropped
        found = stopped.received(20 * 71 - dropped)
        assert len(found) == 20 * 71 - dropped
        assert numbers(found, "0") == list(range(70))
        sender.publish("room", b"afterwards")
        assert stopped.received(1) == [("room", b"afterwards")]
        assert healthy.gaps(0) == []

    def test_publisher_that_ends(self, peer: MakePeer) -> None:
        """A process that ends right after it published more than fits is heard in full."""
        listener, sender = peer("room"), peer()
        sender.call("publish_numbers", "room", "0", 5_000, 2_000)
        sender.stop()
        assert numbers(listener.received(5_000), "0") == list(range(5_000))

    def test_large_and_stopped(self, peer: MakePeer) -> None:
        """A message larger than the queue still goes to a process that is slow to take it."""
        stopped, sender = peer("room"), peer()
        stopped.signal(signal.SIGSTOP)
        sender.publish("room", b"x" * 20_000_000)
        stopped.signal(signal.SIGCONT)
        ((_, payload),) = stopped.received(1)
        assert len(payload) == 20_000_000

    def test_foreign_directory(self, peer: MakePeer, backend_url: str, directory: Path) -> None:
        """A directory that others can enter is refused, for listening and for publishing."""
        peer("room")
        (private,) = directory.iterdir()
        private.chmod(0o755)
        for command in (["start", "room"], ["publish", "room", ""]):
            with pytest.raises(PeerError, match=r"only this user can enter.*remove it") as refused:
                peer().call(*command)
            assert refused.value.kind == "BackendUnavailable"

    def test_symlink(self, peer: MakePeer, backend_url: str, directory: Path) -> None:
        """A link to a directory is refused, whoever made it."""
        peer("room").stop()
        (private,) = directory.iterdir()
        elsewhere = directory.parent / f"{directory.name}-elsewhere"
        private.rename(elsewhere)
        private.symlink_to(elsewhere)
        with pytest.raises(PeerError, match="only this user can enter"):
            peer().call("start")


def test_foreign_owner(directory: Path) -> None:
    """A directory of another user is refused."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    backend = from_url(f"local://{directory}", namespace="n")
    assert isinstance(backend, LocalBackend)
    os.mkdir(backend.directory, 0o700)
    os.chown(backend.directory, 65534, 65534)
    with pytest.raises(BackendUnavailable, match="only this user can enter"):
        backend.publish("room", b"")
    backend.close()


def test_long_path(directory: Path) -> None:
    """A path that no unix socket can have is refused with the remedy."""
    deep = directory / ("d" * 80)
    deep.mkdir()
    backend = from_url(f"local://{deep}")
    with pytest.raises(BackendUnavailable, match="name a shorter one"):
        backend.start(lambda channel, payload: None)
    backend.close()


def test_missing_directory(directory: Path) -> None:
    """A directory that is not there is named."""
    backend = from_url(f"local://{directory}/missing")
    backend.publish("room", b"to nobody")
    with pytest.raises(BackendUnavailable, match=r"missing.*must exist"):
        backend.start(lambda channel, payload: None)
    backend.close()


def test_default_directory() -> None:
    """Named after the user and the namespace."""
    one, two = (from_url("local://", namespace=name) for name in ("one", "two"))
    assert isinstance(one, LocalBackend)
    assert isinstance(two, LocalBackend)
    assert f"wsmux-{os.geteuid()}-" in one.directory
    assert one.directory != two.directory


def test_room_for_the_path_on_macos() -> None:
    """The longest usual temporary directory there leaves room: 103 bytes in all."""
    temporary = "/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T"
    backend = LocalBackend(f"local://{temporary}", namespace="n")
    backend._prepare()
    assert len(f"{backend.directory}/.{backend._name}") <= 103
    backend.close()


def test_unix_sockets_are_there() -> None:
    """The platform has what the backend is built on."""
    assert hasattr(socket, "AF_UNIX")
