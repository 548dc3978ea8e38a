"""Waiting for descriptors, for calls from other threads, and in forks."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from django_wsmux.backends.selector import READ, Forked, WakeableSelector


def test_descriptors() -> None:
    """A wait returns the data of a ready descriptor while it is registered."""
    selector = WakeableSelector()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        selector.register(ours.fileno(), READ, "ours")
        assert selector.wait(0) == []
        theirs.send(b"x")
        assert selector.wait(60) == [("ours", READ)]
        selector.unregister(ours.fileno())
        assert selector.wait(0) == []
    selector.close()


def test_wake() -> None:
    """Another thread can end a wait, even before it begins; after the close, this does nothing."""
    selector = WakeableSelector()
    selector.wake()
    assert selector.wait(None) == []
    thread = threading.Thread(target=selector.wake)
    thread.start()
    assert selector.wait(None) == []
    thread.join()
    selector.close()
    selector.wake()
    selector.close()


def test_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait in a forked process ends with an error, and its close does not wait for the lock."""
    selector = WakeableSelector()
    monkeypatch.setattr(os, "getpid", lambda: 0)
    selector._lock.acquire()
    with pytest.raises(Forked):
        selector.wait(0)
    selector.close()
    with pytest.raises(Forked):
        selector.wait(0)
