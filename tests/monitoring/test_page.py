"""The page of sockets in Django's admin: who sees what, filters, pages, and updates."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import ExitStack

import pytest
from selenium import webdriver
from websockets.exceptions import ConnectionClosed

from tests.gauges import wait_until
from tests.monitoring.admin_site import PAGE, SOCKET, AdminSite, admin_site
from tests.sample_site.conftest import OpenWindow, open_window
from tests.support import ROOT, TIMEOUT

__all__ = ["admin_site", "open_window"]

ROW = re.compile(r'<th scope="row">(/[^<\s]*)')


def paths(text: str) -> list[str]:
    """Return the paths of the sockets on the page."""
    return ROW.findall(text.partition('id="wsmux-groups"')[0])


def total(text: str) -> int:
    """Return the number of sockets that the page counts."""
    (found,) = re.findall(r"<caption>(?:Open sockets|Sockets that match): (\d+)</caption>", text)
    return int(found)


@pytest.mark.parametrize(
    ("name", "page", "socket"),
    [
        ("operator", 200, 101),
        ("root", 200, 101),
        ("clerk", 403, 403),
        ("visitor", 302, 403),
        ("", 302, 403),
    ],
)
def test_permission(admin_site: AdminSite, name: str, page: int, socket: int) -> None:
    """Page and socket are for staff with the permission to view sockets."""
    headers = admin_site.cookie(name)
    assert admin_site.server.request(PAGE, headers).status == page
    assert admin_site.server.refused(SOCKET, headers).status == socket
    index = admin_site.server.request("/admin/", headers)
    assert (PAGE in index.text and 'class="viewlink"' in index.text) == (page == 200)


@pytest.mark.parametrize(
    ("name", "buttons"),
    [
        ("operator", set()),
        ("closer", {"close", "close_selected", "close_matching"}),
        ("warden", {"sign_out"}),
        ("speaker", {"send"}),
        ("root", {"close", "close_selected", "close_matching", "sign_out", "send"}),
    ],
)
def test_buttons(admin_site: AdminSite, name: str, buttons: set[str]) -> None:
    """The page offers what the operator may do; so do its updates."""
    headers = admin_site.cookie(name)
    server = admin_site.server
    visitor = admin_site.cookie("visitor")
    with (
        server.connect("/chat/", additional_headers=visitor),
        server.connect(SOCKET, additional_headers=headers) as live,
    ):
        live.send("_site=admin")
        page, update = admin_site.get(name).text, str(live.recv(timeout=TIMEOUT))
    page = page.partition('id="wsmux-filter"')[2]
    found = set(re.findall(r'name="(close\w*|sign_out)"', page))
    assert found | ({"send"} if 'href="send/' in page else set()) == buttons
    for word in ("close", "sign_out"):
        assert (f'name="{word}"' in update) == (word in buttons)
    assert ('href="send/' in update) == ("send" in buttons)
    assert ("_selected_action" in update) == ("_selected_action" in page) == ("close" in buttons)


def test_links(admin_site: AdminSite) -> None:
    """The name of a user is a link for operators who may view users, also in updates."""
    server = admin_site.server
    link = f'<a href="/admin/auth/user/{admin_site.user_id("visitor")}/change/">visitor</a>'
    with server.connect("/notify/", additional_headers=admin_site.cookie("visitor")):
        for name, has_link in (("operator", False), ("clerk of users", True), ("root", True)):
            page = admin_site.get(name).text
            assert "visitor" in page
            assert (link in page) == has_link
            headers = admin_site.cookie(name)
            with server.connect(SOCKET, additional_headers=headers) as websocket:
                websocket.send("_site=admin")
                assert (link in str(websocket.recv(timeout=TIMEOUT))) == has_link
                websocket.send("_site=other")
                assert link not in str(websocket.recv(timeout=TIMEOUT))


def test_filters(admin_site: AdminSite) -> None:
    """The query selects sockets by path, group, user and age; a wrong one selects none."""
    server = admin_site.server
    visitor = admin_site.user_id("visitor")

    def shown(query: str) -> list[str]:
        return sorted(paths(admin_site.get("root", query).text))

    with ExitStack() as stack:
        for path in ("/chat/", "/chat/", "/ping/"):
            stack.enter_context(server.connect(path))
        headers = admin_site.cookie("visitor")
        stack.enter_context(server.connect("/notify/", additional_headers=headers))
        wait_until(lambda: len(shown("")) == 4, "the sockets of other tests have closed")
        assert shown("?q=CHAT") == shown("?group=chat") == ["/chat/", "/chat/"]
        assert shown("?group=ch*") == shown("?group=c%5Bh%5Dat") == ["/chat/", "/chat/"]
        assert shown("?q=127.0.0.1&age__lt=3600&age__gte=") == shown("")
        assert shown("?age__gte=3600") == shown("?group=c") == shown("?user=nobody") == []
        assert shown("?user=visitor") == shown(f"?user={visitor}") == ["/notify/"]
        assert shown("?user=visitor&group=chat") == []
        for wrong in ("age__gte=5", f"q={'x' * 201}", "user=%00"):
            text = admin_site.get("root", f"?{wrong}").text
            assert paths(text) == []
            assert "errorlist" in text
        for odd in ("o=nothing", "after=x", "before=1,2", "before=x,y,z", "user=%EF%BF%BD"):
            assert admin_site.get("root", f"?{odd}").status == 200
        assert shown("?o=-bytes_in") == shown("?o=unread") == shown("")
        admin_site.run(f"User.objects.filter(pk={visitor}).update(username='<b>&')")
        text = admin_site.get("root").text
        assert "&lt;b&gt;&amp;</a>" in text
        assert "<b>&" not in text
        admin_site.run(f"User.objects.filter(pk={visitor}).update(username='visitor')")


def test_parts(admin_site: AdminSite) -> None:
    """A few hundred sockets are shown a hundred at a time; links lead to all of them."""
    seen: list[str] = []
    with ExitStack() as stack:
        for _ in range(230):
            stack.enter_context(admin_site.server.upgraded("/ping/"))
        wait_until(
            lambda: total(admin_site.get("root", "?q=ping").text) == 230, "the sockets are open"
        )
        query = "?q=ping&o=-age"
        for first, last in ((1, 100), (101, 200), (201, 230)):
            text = admin_site.get("closer", query).text
            assert f"{first} to {last} of 230" in text
            assert len(paths(text)) == last - first + 1
            seen += re.findall(r'name="_selected_action" value="(\w+)"', text)
            links = re.findall(r'href="([^"]+)" rel="(\w+)"', text)
            by_name = {name: link.replace("&amp;", "&") for link, name in links}
            assert ("prev" in by_name, "next" in by_name) == (first > 1, last < 230)
            query = by_name.get("next", "")
            assert "q=ping" in query or last == 230
        assert len(set(seen)) == 230
        text = admin_site.get("closer", by_name["prev"]).text
        assert "101 to 200 of 230" in text
        assert re.findall(r'name="_selected_action" value="(\w+)"', text) == seen[100:200]


def test_no_inline_script(admin_site: AdminSite) -> None:
    """The page works with a Content-Security-Policy that allows the site's own files only."""
    text = admin_site.server.get(PAGE, admin_site.cookie("operator"))
    scripts = [part.partition(">")[0] for part in text.split("<script")[1:]]
    assert "/static/django_wsmux/overview.js" in "".join(scripts)
    assert all(" src=" in script for script in scripts)
    assert "<style" not in text
    assert " style=" not in text
    assert admin_site.server.get("/static/django_wsmux/overview.js").startswith('"use strict"')


def test_other_users() -> None:
    """Users of the project's own class work, with any primary key; so do their messages."""
    program = [sys.executable, "-m", "tests.monitoring.people.program"]
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ("done\n", 0), result.stderr


def shown(window: webdriver.Chrome, selector: str) -> str:
    """Return the text of an element that may be replaced at any time."""
    script = "return document.querySelector(arguments[0])?.innerText ?? ''"
    return str(window.execute_script(script, selector))


def test_live(admin_site: AdminSite, open_window: OpenWindow) -> None:
    """Sockets come and go on the page without a reload; so does the permission."""
    server = admin_site.server
    address = f"http://127.0.0.1:{server.port}"
    window = open_window(f"{address}/echo/")
    window.add_cookie({"name": "sessionid", "value": admin_site.keys["closer"]})
    window.get(address + PAGE)

    def wait_for(selector: str, text: str, *, is_there: bool = True) -> None:
        is_so = lambda: (text in shown(window, selector)) == is_there  # noqa: E731
        wait_until(is_so, f"{text!r} in {selector}: {is_there}")

    wait_for("#wsmux-state", "Live.")
    window.execute_script("window.isTheSame = true")
    wait_for("#wsmux-sockets", "/admin/sockets/")
    assert "/ping/" not in shown(window, "#wsmux-sockets")
    with server.connect("/ping/") as websocket:
        wait_for("#wsmux-sockets", "/ping/")
        websocket.send("ping")
        assert websocket.recv(timeout=TIMEOUT) == "pong"
        window.execute_script("document.querySelector('#wsmux-sockets input').checked = true")
        wait_for("#wsmux-state", "Paused")
    window.execute_script("document.querySelector('#wsmux-sockets input').checked = false")
    wait_for("#wsmux-sockets", "/ping/", is_there=False)
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(server.connect("/chat/"))
        wait_for("#wsmux-groups", "chat\t8")
        assert window.execute_script("return window.isTheSame")
        window.execute_script("document.querySelector('#wsmux-groups a').click()")
        wait_for("#wsmux-sockets", "SOCKETS THAT MATCH: 8")
        wait_for("#wsmux-state", "Live.")
        assert "/admin/sockets/" not in shown(window, "#wsmux-sockets")
    admin_site.run("User.objects.get(username='closer').user_permissions.clear()")
    wait_for("#wsmux-state", "Not live: sign in again.")


def test_lost_permission(admin_site: AdminSite) -> None:
    """A socket that is open is of no use without the permission."""
    headers = admin_site.cookie("speaker")
    with admin_site.server.connect(SOCKET, additional_headers=headers) as websocket:
        websocket.send("")
        websocket.recv(timeout=TIMEOUT)
        admin_site.run("User.objects.get(username='speaker').user_permissions.clear()")
        websocket.send("")
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=TIMEOUT)
        assert (websocket.close_code, websocket.close_reason) == (1008, "no permission")
