"""``local://``: the contract, and faults of this backend only."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from django_wsmux.backends import BackendMisconfigured, BackendUnavailable, from_url
from django_wsmux.backends.contract import BackendContract, MakePeer, make_peers, numbers
from django_wsmux.backends.local import LocalBackend
from django_wsmux.testing.backend_process import PeerError
from tests.support import TIMEOUT


class TestLocalBackend(BackendContract):
    """The contract, and faults."""

    @pytest.fixture
    def backend_url(self, directory: Path) -> str:
        """Sockets in a directory for the test."""
        return f"local://{directory}"

    def test_private(self, peer: MakePeer, directory: Path) -> None:
        """The directory can be entered by the user only, and has one socket for each listener."""
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
        """The next publication removes the socket that a killed process left."""
        peer("room").kill()
        (private,) = directory.iterdir()
        assert len(list(private.iterdir())) == 1
        peer().publish("room", b"hello")
        assert list(private.iterdir()) == []

    def test_socket_removed(self, peer: MakePeer, directory: Path) -> None:
        """A listener whose socket was removed makes a new one, and reports the gap."""
        listener = peer("room")
        (private,) = directory.iterdir()
        (path,) = private.iterdir()
        path.unlink()
        (gap,) = listener.gaps(1)
        assert "has been removed" in gap["reason"]
        peer().publish("room", b"hello")
        assert listener.received(1) == [("room", b"hello")]

    def test_stopped_peer(self, peer: MakePeer) -> None:
        """A stopped process delays no other; when it continues, it gets the queued messages."""
        stopped, healthy, sender = peer("room"), peer("room"), peer("room")
        stopped.signal(signal.SIGSTOP)
        sender.call("publish_numbers", "room", "0", 10_000, 500)
        assert numbers(healthy.received(10_000), "0") == list(range(10_000))
        stopped.signal(signal.SIGCONT)
        assert numbers(stopped.received(10_000), "0") == list(range(10_000))
        assert stopped.gaps(0) == healthy.gaps(0) == []

    def test_overflow(self, peer: MakePeer, backend_url: str) -> None:
        """The queue for a stopped process is bounded; it learns how many messages it missed."""
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
        """All messages arrive, even if their process ends after publishing more than fits."""
        listener, sender = peer("room"), peer()
        sender.call("publish_numbers", "room", "0", 5_000, 2_000)
        sender.stop()
        assert numbers(listener.received(5_000), "0") == list(range(5_000))

    def test_large_and_stopped(self, peer: MakePeer) -> None:
        """A message larger than the queue still goes to a process that reads it late."""
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
            assert refused.value.kind == "BackendMisconfigured"

    def test_no_descriptors(self, peer: MakePeer) -> None:
        """A process without descriptors keeps its connections; others wait, and lose nothing."""
        listener, early = peer("room"), peer("room")
        early.publish("room", b"early")
        assert listener.received(1) == [("room", b"early")]
        listener.call("starve")
        late = [peer() for _ in range(4)]
        for index, sender in enumerate(late):
            sender.publish("room", b"%d" % index)
        listener.wait_for_log("have to wait before they can connect")
        early.publish("room", b"still here")
        assert listener.received(1) == [("room", b"still here")]
        assert early.received(4) != []
        listener.call("feed")
        found: list[bytes] = []
        while len(found) < 4:
            found += [text for _, text in listener.received(1)]
        assert sorted(found) == sorted(b"%d" % index for index in range(4))
        assert listener.gaps(0) == []
        assert listener.call("counts")["accept_paused"] >= 1
        assert listener.log.count("have to wait") == 1

    def test_symlink(self, peer: MakePeer, backend_url: str, directory: Path) -> None:
        """A symbolic link to a directory is refused."""
        peer("room").stop()
        (private,) = directory.iterdir()
        elsewhere = directory.parent / f"{directory.name}-elsewhere"
        private.rename(elsewhere)
        private.symlink_to(elsewhere)
        with pytest.raises(PeerError, match="only this user can enter"):
            peer().call("start")


def test_long_path(directory: Path) -> None:
    """A path that is too long for a unix socket is refused, with the remedy."""
    deep = directory / ("d" * 80)
    deep.mkdir()
    backend = from_url(f"local://{deep}")
    with pytest.raises(BackendUnavailable, match="use a shorter directory"):
        backend.start(lambda channel, payload: None)
    backend.close()


@pytest.fixture
def worker(directory: Path) -> Iterator[MakePeer]:
    """Start processes that are patched by gevent, as workers are."""
    with make_peers(f"local://{directory}", {}, gevent=True) as make:
        yield make


def test_rubbish_on_the_socket(worker: MakePeer, directory: Path) -> None:
    """Invalid bytes end their own connection, and no other."""
    listener, sender = worker("room"), worker()
    sender.publish("room", b"before")
    (path,) = next(directory.iterdir()).iterdir()
    for rubbish in (b"\xff" * 100, b"\0\0\0\x05hello" * 3, b"\0\0\0"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(rubbish)
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(TIMEOUT)
            assert sock.recv(1) == b""
    sender.publish("room", b"after")
    assert listener.received(2) == [("room", b"before"), ("room", b"after")]
    assert listener.call("counts")["unreadable"] == 4
    assert listener.gaps(0) == []


def test_foreign_files(worker: MakePeer, directory: Path) -> None:
    """Other files in the directory are left alone, and do no harm."""
    listener = worker("room")
    (private,) = directory.iterdir()
    (private / "notes.txt").touch()
    (private / ("A" * 22)).mkdir()
    (private / ".hidden").touch()
    worker().publish("room", b"hello")
    assert listener.received(1) == [("room", b"hello")]


def test_foreign_sockets(worker: MakePeer, directory: Path) -> None:
    """Workers that take over sockets listen in the same directory, on sockets of another kind."""
    listener = worker("room")
    (private,) = directory.iterdir()
    with ExitStack() as stack:
        # Base64 ignores foreign characters, and demands a certain number of others.
        for length in range(21, 29):
            if length != 22:
                sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                sock.bind(str(private / f"ab-1-{'2' * (length - 7)}-3"))
                sock.listen()
        worker().publish("room", b"hello")
        assert listener.received(1) == [("room", b"hello")]


def test_publishing_without_descriptors(worker: MakePeer) -> None:
    """Connected processes get the message; an error says why others do not."""
    known, sender = worker("room"), worker()
    sender.publish("room", b"before")
    sender.call("starve")
    worker("room")
    for command in (["publish", "room", ""], ["ask", "room", "", 1.0]):
        with pytest.raises(PeerError, match="Too many open files") as refused:
            sender.call(*command)
        assert refused.value.kind == "BackendUnavailable"
    assert known.received(2) == [("room", b"before"), ("room", b"")]
    sender.call("feed")
    sender.publish("room", b"after")
    assert known.received(1) == [("room", b"after")]


def test_starting_without_descriptors(worker: MakePeer) -> None:
    """Starting fails with an error of the backend, and works later."""
    late = worker()
    late.call("starve")
    for command in (["start"], ["publish", "room", ""], ["ask", "room", "", 1.0]):
        with pytest.raises(PeerError, match="Too many open files") as refused:
            late.call(*command)
        assert refused.value.kind == "BackendUnavailable"
    late.call("feed")
    late.start("room")
    worker().publish("room", b"hello")
    assert late.received(1) == [("room", b"hello")]


def test_crash_while_starting(worker: MakePeer, directory: Path) -> None:
    """A file that a crash left while starting is removed once it is old."""
    program = (
        "import os, signal, sys\n"
        "from django_wsmux.backends import from_url\n"
        "os.rename = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from_url(sys.argv[1]).start(print)\n"
    )
    url = f"local://{directory}?namespace={worker().call('namespace')}"
    assert subprocess.run([sys.executable, "-c", program, url]).returncode == -signal.SIGKILL
    (private,) = directory.iterdir()
    (left,) = private.iterdir()
    assert left.name.startswith(".")
    worker("room")
    assert left.exists(), "its process may be about to listen"
    os.utime(left, (time.time() - 100,) * 2)
    worker("room")
    assert not left.exists()


@contextmanager
def full_directory() -> Iterator[Path]:
    """Yield a directory on a full disk, with one file."""
    directory = Path(tempfile.mkdtemp(prefix="f"))
    options = ["mount", "-t", "tmpfs", "-o", "nr_inodes=3,mode=700", "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(options, capture_output=True).returncode:
        directory.rmdir()
        pytest.skip("needs root and the permission to mount")
    try:
        (directory / "file").touch()
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)
        directory.rmdir()


def test_full_disk() -> None:
    """A full disk is reported, and listening starts once there is room, without a restart."""
    with (
        full_directory() as directory,
        make_peers(f"local://{directory}", {}, gevent=True) as peer,
    ):
        listener = peer()
        listener.call("start")
        listener.wait_for_log("not listening: ")
        assert "No space left on device" in listener.log
        assert listener.call("subscribe", "room", 0.1) is False
        (directory / "file").unlink()
        listener.wait_for_log("listening again after")
        assert listener.call("subscribe", "room") is True
        peer().publish("room", b"hello")
        assert listener.received(1) == [("room", b"hello")]
        assert listener.log.count("not listening") == 1


def test_rehearsal(directory: Path) -> None:
    """rehearse() finds problems before anything listens, and leaves nothing behind."""
    backend = from_url(f"local://{directory}")
    assert isinstance(backend, LocalBackend)
    backend.rehearse()
    assert os.listdir(backend.directory) == []
    os.chmod(backend.directory, 0o755)
    with pytest.raises(BackendMisconfigured, match="only this user can enter"):
        backend.rehearse()
    os.rmdir(backend.directory)
    Path(backend.directory).touch()
    with pytest.raises(BackendMisconfigured, match="only this user can enter"):
        backend.rehearse()
    with pytest.raises(BackendMisconfigured, match=r"No such file.*must exist and be writable"):
        from_url(f"local://{directory}/missing").rehearse()
    (directory / "file").touch()  # a short name, as the path is limited
    with pytest.raises(BackendMisconfigured, match=r"Not a directory.*must exist"):
        from_url(f"local://{directory}/file").rehearse()
    with pytest.raises(BackendMisconfigured, match="use a shorter directory"):
        from_url(f"local://{directory}/{'d' * 80}").rehearse()


def test_rehearsal_on_a_full_disk() -> None:
    """A full disk is temporary, and so is no mistake of the settings."""
    with full_directory() as directory:
        with pytest.raises(BackendUnavailable, match="No space left") as full:
            from_url(f"local://{directory}").rehearse()
        assert not isinstance(full.value, BackendMisconfigured)


def test_room_for_the_path_on_macos() -> None:
    """The longest usual temporary directory there fits into 103 bytes with the socket's name."""
    temporary = "/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T"
    backend = LocalBackend(f"local://{temporary}", namespace="n")
    backend._prepare()
    assert len(f"{backend.directory}/.{backend._name}") <= 103
    backend.close()


def test_unix_sockets_exist() -> None:
    """The platform has unix sockets."""
    assert hasattr(socket, "AF_UNIX")
