"""Limits on the number of sockets: permits are acquired, refused and released."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from django_wsmux.logs import LogLimit
from django_wsmux.protocol.handshake import Refusal
from django_wsmux.protocol.options import Options
from django_wsmux.server import limits
from django_wsmux.server.limits import Permit, acquire, address_of, admit_user


def places() -> tuple[Any, ...]:
    """Return the number of permits in use."""
    return limits._count, limits._addresses, limits._users


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    """Assert that all permits are released."""
    yield
    assert places() == (0, {}, {})


def take(options: Options, address: str = "192.0.2.1") -> Permit:
    """Acquire a permit."""
    place = acquire({"REMOTE_ADDR": address, "PATH_INFO": "/"}, options)
    assert isinstance(place, Permit)
    return place


def refusal(options: Options, address: str = "192.0.2.1") -> str:
    """Return the status of a refused handshake."""
    refused = acquire({"REMOTE_ADDR": address, "PATH_INFO": "/"}, options)
    assert isinstance(refused, Refusal)
    assert dict(refused.headers) == {"Retry-After": "10"}
    return refused.status


def test_sockets() -> None:
    """A process at its limit refuses; a permit is released only once."""
    options = Options(max_sockets=2)
    first, second = take(options), take(options)
    assert refusal(options) == "503 Service Unavailable"
    first.release()
    first.release()
    third = take(options)
    assert refusal(options) == "503 Service Unavailable"
    second.release()
    third.release()


def test_address() -> None:
    """An address at its limit is refused, another one is not; the process's limit comes first."""
    options = Options(max_sockets=3, max_sockets_per_address=2)
    taken = [take(options), take(options)]
    assert refusal(options) == "429 Too Many Requests"
    taken.append(take(options, "192.0.2.2"))
    assert refusal(options) == "503 Service Unavailable"
    for place in taken:
        place.release()


def test_user() -> None:
    """A user at the limit is refused, another one is not; a permit counts once."""
    options = Options(max_sockets_per_user=1)
    first, second = take(options), take(options)
    assert admit_user(first, "ann", 1, "/")
    assert admit_user(first, "ann", 1, "/")
    assert not admit_user(second, "ann", 1, "/")
    assert second.is_refused
    third = take(options)
    assert admit_user(third, "bob", 1, "/")
    for place in (first, second, third):
        place.release()


class TestAddressOf:
    """The address of the client."""

    @pytest.mark.parametrize(
        ("remote", "forwarded", "proxies", "found"),
        [
            ("192.0.2.1", "6.6.6.6", 0, "192.0.2.1"),
            ("10.0.0.1", "192.0.2.1", 1, "192.0.2.1"),
            ("10.0.0.1", "6.6.6.6, 192.0.2.1", 1, "192.0.2.1"),
            ("10.0.0.1", "6.6.6.6,192.0.2.1, 10.0.0.2", 2, "192.0.2.1"),
            ("", "192.0.2.1", 1, "192.0.2.1"),
            ("10.0.0.1", "192.0.2.1:4711", 1, "192.0.2.1"),
            ("10.0.0.1", "[2001:db8::1]:4711", 1, "2001:db8::/64"),
            ("10.0.0.1", "[2001:db8::1]", 1, "2001:db8::/64"),
            ("::1", None, 0, "::/64"),
            ("2001:db8:0:0:1:2:3:4", None, 0, "2001:db8::/64"),
            ("2001:db8:0:1::", None, 0, "2001:db8:0:1::/64"),
            ("fe80::1%eth0", None, 0, "fe80::/64"),
            ("::ffff:192.0.2.1", None, 0, "192.0.2.1"),
        ],
    )
    def test_found(self, remote: str, forwarded: str | None, proxies: int, found: str) -> None:
        """The address is the right one of X-Forwarded-For, normalised."""
        environ = {"REMOTE_ADDR": remote, "HTTP_X_FORWARDED_FOR": forwarded}
        if forwarded is None:
            del environ["HTTP_X_FORWARDED_FOR"]
        assert address_of(environ, proxies) == found

    @pytest.mark.parametrize("forwarded", ["", "unknown", "6.6.6.6", "x, 6.6.6.6", "1.2.3.4.5, "])
    def test_header_without_address(self, forwarded: str) -> None:
        """If the header lacks the address, that of the nearest proxy counts."""
        environ = {"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": forwarded}
        assert address_of(environ, 2) == "10.0.0.1"

    @pytest.mark.parametrize("remote", [{}, {"REMOTE_ADDR": ""}, {"REMOTE_ADDR": "unix:"}])
    def test_unix_socket(self, remote: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
        """A unix socket has no address: it is not limited, and the log says so now and then."""
        limits._misled = LogLimit(1)
        assert address_of(remote, 0) is None
        assert address_of(remote, 0) is None
        (record,) = caplog.records
        assert "WEBSOCKET_TRUSTED_PROXIES is 0" in record.getMessage()
        assert "it is not limited" in record.getMessage()


def test_readmitted() -> None:
    """A socket from another process counts, but no limit refuses it."""
    options = Options(max_sockets=1, max_sockets_per_address=1, max_sockets_per_user=1)
    first = take(options)
    assert admit_user(first, "7", 1, "/")
    moved = limits.readmit(first.address, first.user)
    assert places() == (2, {"192.0.2.1": 2}, {"7": 2})
    first.release()
    assert refusal(options) == "503 Service Unavailable"
    moved.release()
    limits.readmit(None, None).release()
