"""What operators do to sockets on the admin's page, over two processes."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.gauges import wait_until
from tests.monitoring.admin_site import AdminSite, admin_site
from tests.support import TIMEOUT

__all__ = ["admin_site"]

BOX = re.compile(r'name="_selected_action" value="(\w+)"')


@contextmanager
def opened(
    site: AdminSite, path: str, user: str = "", number: int = 8
) -> Iterator[list[ClientConnection]]:
    """Open sockets, some of them in each worker."""
    with ExitStack() as stack:
        sockets: list[ClientConnection] = []

        def has_both() -> bool:
            headers = site.cookie(user)
            sockets.append(
                stack.enter_context(site.server.connect(path, additional_headers=headers))
            )
            text = site.get("root", f"?q={path}").text
            return len(sockets) >= number and len(set(re.findall(r"<td>(\w+:\d+)</td>", text))) == 2

        wait_until(has_both, "sockets in both workers")
        yield sockets


def end_of(websocket: ClientConnection) -> tuple[int | None, str | None]:
    """Wait until a socket is closed; return code and reason."""
    with suppress(ConnectionClosed):
        for _ in websocket:
            pass
    return websocket.close_code, websocket.close_reason


def is_open(websocket: ClientConnection) -> bool:
    """Return whether a socket answers a ping."""
    return websocket.ping().wait(TIMEOUT)


def messages(site: AdminSite, fields: list[tuple[str, str]], path: str = "") -> str:
    """Send a form as root; return what the admin says afterwards."""
    answer = site.post("root", fields, path)
    assert answer.status == 302, answer.text
    cookies = answer.headers.get_all("Set-Cookie", [])
    (found,) = [each.partition(";")[0] for each in cookies if each.startswith("messages=")]
    page = site.server.request(
        answer.headers["Location"], {"Cookie": f"{site.cookie('root')['Cookie']}; {found}"}
    )
    (listed,) = re.findall(r'<ul class="messagelist">(.*?)</ul>', page.text, re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", listed).split())


@pytest.mark.parametrize(
    "action", ["close", "close_selected", "close_matching", "sign_out", "send"]
)
def test_permission(admin_site: AdminSite, action: str) -> None:
    """Each action needs its permission, whatever the form says; without it nothing happens."""
    allowed = {"sign_out": "warden", "send": "speaker"}.get(action, "closer")
    visitor = admin_site.user_id("visitor")
    with opened(admin_site, "/chat/", "visitor", 2) as (websocket, *_):
        (box, *_rest) = BOX.findall(admin_site.get("root").text)
        fields = [
            (action, visitor if action == "sign_out" else box),
            ("_selected_action", box),
            ("code", "1008"),
            ("group", "chat"),
            ("kind", "text"),
            ("message", "hello"),
            ("confirmed", "1"),
        ]
        path = "send/" if action == "send" else ""
        before = admin_site.log()
        for name in ("operator", "closer", "warden", "speaker", "clerk of users"):
            if name != allowed:
                assert admin_site.post(name, fields, path).status == 403, name
                if path:
                    assert admin_site.get(name, path).status == 403
        # A request without the token of the page changes nothing, and neither does a GET.
        body = "&".join("=".join(each) for each in fields)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        headers = {**admin_site.cookie("root"), **form}
        target = f"/admin/django_wsmux/socket/{path}"
        assert admin_site.server.request(target, headers, body).status == 403
        assert admin_site.get("root", f"{path}?{body}").status == 200
        assert is_open(websocket)
        assert admin_site.log() == before
        if action != "send":
            # Asking to confirm changes nothing, either.
            assert admin_site.post(allowed, fields[:-1]).status == 200
            assert is_open(websocket)
            assert admin_site.log() == before


def test_unknown_action(admin_site: AdminSite) -> None:
    """A form without an action, or with a code that is not offered, is refused."""
    assert admin_site.post("root", [("delete", "1")]).status == 403
    fields = [("close_matching", "1"), ("confirmed", "1"), ("code", "1000")]
    assert admin_site.post("root", fields).status == 403
    assert "Select the sockets" in messages(admin_site, [("close_selected", "1")])
    fields[-1] = ("code", "1008")
    assert "Select the sockets" in messages(admin_site, fields, "?age__gte=wrong")


@pytest.mark.parametrize(
    ("code", "reason"), [("1008", "closed by an operator"), ("1012", "please reconnect")]
)
def test_close_one(admin_site: AdminSite, code: str, reason: str) -> None:
    """One socket is closed after a question, once; the log says which."""
    with opened(admin_site, "/chat/", "visitor", 3) as sockets:
        box = BOX.findall(admin_site.get("root", "?q=/chat/&o=-age").text)[1]
        question = admin_site.post("root", [("close", box)])
        assert "This closes 1 socket:" in question.text
        assert question.text.count('<th scope="row">/chat/') == 1
        confirmed = [("close_selected", "1"), ("_selected_action", box), ("code", code)]
        confirmed.append(("confirmed", "1"))
        what = f"1 socket closed with {code}"
        assert messages(admin_site, confirmed) == f"{what}: /chat/ of visitor."
        assert end_of(sockets[1]) == (int(code), reason)
        assert admin_site.log()[0] == ["root", "/chat/ of visitor", what]
        assert is_open(sockets[0])
        assert is_open(sockets[2])
        assert f"0 sockets closed with {code}" in messages(admin_site, confirmed)


def test_close_selected(admin_site: AdminSite) -> None:
    """The selected sockets of both processes are closed."""
    with opened(admin_site, "/ping/") as sockets:
        boxes = BOX.findall(admin_site.get("root", "?q=/ping/&o=-age").text)[1:]
        fields = [("close_selected", "1"), *(("_selected_action", box) for box in boxes)]
        question = admin_site.post("root", fields).text
        assert f"This closes {len(boxes)} sockets" in question
        assert set(BOX.findall(question)) == set(boxes)
        said = messages(admin_site, [*fields, ("code", "1008"), ("confirmed", "1")])
        assert f"{len(boxes)} sockets closed with 1008" in said
        for websocket in sockets[1:]:
            assert end_of(websocket)[0] == 1008
        assert is_open(sockets[0])


def test_close_matching(admin_site: AdminSite) -> None:
    """All that match are closed, except those that have opened since the question."""
    with (
        opened(admin_site, "/chat/") as sockets,
        admin_site.server.connect("/ping/") as other,
    ):
        question = admin_site.post("root", [("close_matching", "1")], "?group=ch*").text
        assert f"This closes {len(sockets)} sockets: sockets with group ch*." in question
        (asked_at,) = re.findall(r'name="asked_at" value="([\d.]+)"', question)
        with admin_site.server.connect("/chat/") as late:
            fields = [("close_matching", "1"), ("confirmed", "1"), ("code", "1012")]
            fields.append(("asked_at", asked_at))
            said = messages(admin_site, fields, "?group=ch*")
            what = f"{len(sockets)} sockets closed with 1012"
            assert said == f"{what}: sockets with group ch*."
            assert admin_site.log()[0] == ["root", "sockets with group ch*", what]
            for websocket in sockets:
                assert end_of(websocket) == (1012, "please reconnect")
            assert is_open(late)
            assert is_open(other)


def test_missing(admin_site: AdminSite) -> None:
    """The page says that a process has not answered; its sockets are closed when it runs again."""
    with opened(admin_site, "/ping/") as sockets:
        stopped = admin_site.server.workers[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            fields = [("close_matching", "1"), ("confirmed", "1"), ("code", "1008")]
            said = messages(admin_site, fields, "?q=/ping/")
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert "1 process did not answer in time" in said
        count = int(said.partition(" ")[0])
        assert 0 < count < len(sockets)
        for websocket in sockets:
            assert end_of(websocket) == (1008, "closed by an operator")


def test_sign_out(admin_site: AdminSite) -> None:
    """The sessions of a user's sockets end, and the sockets close; other users stay."""
    visitor = admin_site.user_id("visitor")
    with (
        opened(admin_site, "/notify/", "visitor") as sockets,
        admin_site.server.connect(
            "/notify/", additional_headers=admin_site.cookie("operator")
        ) as other,
    ):
        question = admin_site.post("warden", [("sign_out", visitor)]).text
        assert f"visitor has {len(sockets)} open sockets" in question
        said = messages(admin_site, [("sign_out", visitor), ("confirmed", "1")])
        what = f"{len(sockets)} sockets closed with 4401, 1 session ended"
        assert said == f"Signed visitor out: {what}."
        assert {end_of(websocket)[0] for websocket in sockets} == {4401}
        assert is_open(other)
        assert admin_site.log()[0] == ["root", "visitor", f"Signed out: {what}"]
        history = admin_site.server.get(
            f"/admin/auth/user/{visitor}/history/", admin_site.cookie("root")
        )
        assert what in history
    # The cookie is worth nothing now.
    answer = admin_site.server.refused("/notify/", admin_site.cookie("visitor"))
    assert answer.status == 302
    key = admin_site.keys["visitor"]
    assert admin_site.value(f"SessionStore().exists({key!r})") is False
    said = messages(admin_site, [("sign_out", "0"), ("confirmed", "1")])
    assert said == "Signed 0 out: 0 sockets closed with 4401, 0 sessions ended."
    for wrong in ("nobody", "9" * 30):
        assert messages(admin_site, [("sign_out", wrong), ("confirmed", "1")])


def test_send(admin_site: AdminSite) -> None:
    """A text or a value reaches the group, and is kept if the group has a history."""
    with opened(admin_site, "/chat/") as sockets:
        form = admin_site.get("speaker", "send/?group=chat&group_prefix=").text
        assert 'value="chat"' in form
        count = len(sockets)
        for kind, text, said in (("text", "<b>hi", "text"), ("json", '{"type": "x"}', "JSON")):
            fields = [("group", "chat"), ("kind", kind), ("message", text), ("group_prefix", "")]
            what = f"Sent as {said} to {count} sockets"
            kept = "It is kept in the history of the group."
            assert messages(admin_site, fields, "send/") == f"{what} of chat. {kept}"
            assert admin_site.log()[0] == ["root", "group chat", f"{what}: {text}"]
            for websocket in sockets:
                got = str(websocket.recv(timeout=TIMEOUT))
                assert got == text if kind == "text" else json.loads(got) == {"type": "x"}
    fields = [("group", "empty"), ("kind", "text"), ("message", "x")]
    assert messages(admin_site, fields, "send/") == "Sent as text to 0 sockets of empty."


@pytest.mark.parametrize(
    ("group", "kind", "text", "error"),
    [
        ("@x", "text", "hello", "group name"),
        ("", "text", "hello", "required"),
        ("chat", "text", "", "required"),
        ("chat", "xml", "hello", "valid choice"),
        ("chat", "json", "{", "This is not JSON"),
        ("chat", "json", "NaN", "NaN is not allowed"),
        ("chat", "json", "[" * 100_000, "This is not JSON"),
    ],
)
def test_send_wrong(admin_site: AdminSite, group: str, kind: str, text: str, error: str) -> None:
    """A form with an error is shown again, and sends nothing."""
    before = admin_site.log()
    fields = [("group", group), ("kind", kind), ("message", text)]
    answer = admin_site.post("root", fields, "send/")
    assert answer.status == 200
    (errors,) = re.findall(r'<ul class="errorlist".*?</ul>', answer.text, re.DOTALL)
    assert error in errors
    assert admin_site.log() == before
