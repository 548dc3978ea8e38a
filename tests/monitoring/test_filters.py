"""Which sockets an operator means, and pages of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import override_settings
from django.urls import path

from django_wsmux.connection.registry import open_sockets
from django_wsmux.groups.pubsub import pubsub
from django_wsmux.monitoring.filters import ORDERS, Filter, is_match, take_page
from django_wsmux.monitoring.overview import OpenSocket, collect, position
from django_wsmux.test import WebSocketClient
from django_wsmux.views import WebSocketView

pytestmark = [
    pytest.mark.usefixtures("sockets"),
    pytest.mark.django_db,
]


class Room(WebSocketView):
    """Joins one or two groups, and sends as many messages as a message says."""

    def get_groups(self) -> list[str]:
        """Return the names of the groups."""
        return [f"room.{name}" for name in self.kwargs["names"].split(",")]

    def receive_text(self, text: str) -> None:
        """Send messages."""
        for _ in range(int(text)):
            self.send("x")


urlpatterns = [path("room/<str:names>/", Room.as_view())]

#: Not a divisor of the number of sockets.
LIMIT = 7


@pytest.fixture
def crowd(client: WebSocketClient) -> Iterator[list[Any]]:
    """Thirty sockets; the second ten have a user, and some have the same traffic."""
    pubsub.serve()
    signed_in = WebSocketClient()
    signed_in.force_login(User.objects.create_user("ann"))
    with override_settings(WEBSOCKET_URLCONF=__name__), ExitStack() as stack:
        opened = []
        for number in range(30):
            visitor = signed_in if 10 <= number < 20 else client
            names = f"a{number % 3},b" if number % 2 else "a*"
            websocket = stack.enter_context(visitor.websocket(f"/room/{names}/"))
            websocket.send(str(number % 4))
            for _ in range(number % 4):
                assert websocket.receive() == "x"
            opened.append(websocket)
        yield opened


def found(wanted: Filter) -> int:
    """Return how many sockets match."""
    return len(list(wanted.matching()))


@pytest.mark.usefixtures("crowd")
def test_conditions() -> None:
    """Each condition selects some sockets; all that are given must apply."""
    user_id = str(User.objects.get().pk)
    assert found(Filter()) == 30
    assert found(Filter(group="room.b")) == found(Filter(group="*b")) == 15
    assert found(Filter(group="room.*")) == 30
    assert found(Filter(group="room.a*")) == 30
    assert found(Filter(group="room.a[*]")) == 15
    assert found(Filter(group="room.a?")) == 30
    assert found(Filter(group="room.a[0-9]")) == 15
    assert found(Filter(group="room")) == found(Filter(group="*", prefix="b")) == 0
    assert found(Filter(user_id=user_id)) == found(Filter(group=f"@user:{user_id}")) == 10
    assert found(Filter(user_id=user_id, group="room.b")) == 5
    assert found(Filter(user_id=user_id, prefix="b")) == found(Filter(user_id="0")) == 0
    assert found(Filter(text="ROOM/A1,")) == 5
    assert found(Filter(text="nowhere")) == 0
    ids = [each.id for each in collect(30).sockets]
    assert len(set(ids)) == 30
    assert found(Filter(ids=ids[:3])) == 3
    assert found(Filter(ids=())) == 0


def test_age(crowd: list[Any]) -> None:
    """Sockets are told apart by age, as of now or of some time ago."""
    for number, websocket in enumerate(sorted(open_sockets, key=lambda each: each.hooks.opened_at)):
        websocket.hooks.opened_at -= 1000 * (number % 3)
    assert found(Filter(older_than=1000)) == 20
    assert found(Filter(younger_than=1000)) == 10
    assert found(Filter(older_than=1000, younger_than=2000)) == 10
    assert found(Filter(ago=500)) == 20
    assert found(Filter(older_than=1000, ago=1500)) == 0
    assert found(Filter(younger_than=1000, ago=1500)) == 10
    crowd[0].close()
    assert found(Filter()) == 29


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("sign", ["", "-"])
def test_pages(name: str, sign: str) -> None:
    """Pages, forwards and backwards, show each socket once, in order; numbers say which."""
    order = sign + name
    everything = collect(100, order=order).sockets
    assert len(everything) == 30
    if name == "age":
        opened = [each.opened for each in everything]
        assert opened == sorted(opened, reverse=not sign)
    else:
        values = [getattr(each, name) for each in everything]
        assert values == sorted(values, reverse=bool(sign))
    ids = [each.id for each in everything]
    seen: list[str] = []
    page = collect(LIMIT, order=order)
    while page.sockets:
        assert (page.total, page.preceding) == (30, len(seen))
        assert len(page.sockets) == min(LIMIT, 30 - len(seen))
        last: OpenSocket = page.sockets[-1]
        seen += [each.id for each in page.sockets]
        page = collect(LIMIT, order=order, after=position(last, order))
    assert (seen, page.preceding) == (ids, 30)
    page = collect(LIMIT, order=order, before=position(last, order))
    back: list[str] = [last.id]
    while page.sockets:
        assert page.preceding + len(page.sockets) + len(back) == 30
        back[:0] = [each.id for each in page.sockets]
        page = collect(LIMIT, order=order, before=position(page.sockets[0], order))
    assert back == ids


@pytest.mark.usefixtures("crowd")
def test_many() -> None:
    """Of many sockets, only those of a page are kept."""
    many = sorted(open_sockets, key=lambda each: -each.hooks.opened_at) * 40
    page = take_page(iter(many), 50)
    assert (page.total, page.preceding, len(page.sockets)) == (1200, 0, 50)
    assert set(page.sockets) == set(many[28:30])


@pytest.mark.usefixtures("crowd")
def test_wrong_arguments() -> None:
    """An unknown order or condition is an error."""
    with pytest.raises(KeyError):
        collect(order="size")
    with pytest.raises(TypeError):
        collect(path="/room/")


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("room.1", "room.1", True),
        ("room.1", "room.*", True),
        ("room.1", "Room.*", False),
        ("room[1]", "room[1]", True),
        ("@user:7", "*", False),
        ("@user:7", "@user:*", True),
    ],
)
def test_patterns(name: str, pattern: str, expected: bool) -> None:
    """A pattern stands for names; for those of users and sessions only if it begins with @."""
    assert is_match(name, pattern) is expected
