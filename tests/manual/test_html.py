"""Builds the project of each recipe of ``docs/html.rst``, and uses it in a browser."""

from __future__ import annotations

import re
import shutil
import signal
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.client.nodes import CLIENT
from tests.client.proxy import Proxy
from tests.conftest import need
from tests.manual import blocks
from tests.manual.walkthrough import BLOCK, Block, Project
from tests.sample_site.conftest import assert_no_errors, new_window, wait_for
from tests.support import ROOT, TIMEOUT, Server

TEXT = (ROOT / "docs" / "html.rst").read_text()

#: A heading of a section.
HEADING = re.compile(r"^(.+)\n-{4,}$", re.MULTILINE)

#: The pages' libraries, below client/node_modules.
SCRIPTS = {
    "alpine.js": "alpinejs/dist/cdn.js",
    "htmx2.js": "htmx2/dist/htmx.js",
    "htmx4.js": "htmx.org/dist/htmx.js",
    "hx-ws.js": "htmx.org/dist/ext/hx-ws.js",
    "turbo.js": "@hotwired/turbo/dist/turbo.es2017-umd.js",
    "ws.js": "htmx-ext-ws/ws.js",
}

#: What the page leaves to the reader.
URLS = """
from chat import views
from django.contrib.staticfiles.views import serve
from django.urls import path

urlpatterns = [
    path("room/<slug:room>/", views.room, name="room"),
    path("static/<path:path>", serve, {"insecure": True}),
]
"""
WSGI = """
from django_wsmux.wsgi import get_wsgi_application

application = get_wsgi_application()
"""


@dataclass(frozen=True)
class Recipe:
    """A section with a page.

    Attributes:
        heading: the section.
        format: the format of ``@broadcasts``; ``None`` if the model has no such decorator.
        more: sections whose files it uses, too.
        htmx: the script that is ``htmx.js``.
    """

    heading: str
    format: str | None
    more: tuple[str, ...] = ()
    htmx: str = "htmx4.js"


RECIPES = (
    Recipe("Turbo", "turbo"),
    Recipe("htmx", "htmx"),
    Recipe("htmx", "htmx", htmx="htmx2.js"),
    Recipe("htmx 4, forms over the socket", "htmx"),
    Recipe("htmx 2, forms over the socket", "htmx"),
    Recipe("Plain pages", None),
    Recipe("Alpine", None, ("Plain pages",)),
)


#: The sections with a page.
HEADINGS = {recipe.heading for recipe in RECIPES}


def section(heading: str) -> str:
    """Return the text of a section; ``""`` is what comes before the first one."""
    parts = HEADING.split(TEXT)
    return dict(zip(["", *parts[1::2]], parts[::2], strict=True))[heading]


def blocks_of(heading: str) -> list[Block]:
    """Return the blocks of a section that are files."""
    found = (
        Block(match["paragraph"], textwrap.dedent(match["text"]).strip() + "\n")
        for match in BLOCK.finditer(section(heading))
    )
    return [block for block in found if block.file]


def with_format(model: str, format: str | None) -> str:
    """Return the module of the model with another format of ``@broadcasts``, or without it."""
    (decorator,) = re.findall(r"^@broadcasts\(.+\)\n", model, re.MULTILINE)
    if format is None:
        return model.replace(decorator, "")
    return model.replace(decorator, decorator.replace(")\n", f', format="{format}")\n'))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with what all recipes have in common, and a database."""
    project = Project(tmp_path_factory.mktemp("base"))
    project.run("django-admin startproject mysite .")
    project.run("python manage.py startapp chat")
    for heading in ["", *HEADING.findall(TEXT)]:
        if heading not in HEADINGS:
            for block in blocks_of(heading):
                project.write(block)
    (project.directory / "mysite" / "urls.py").write_text(URLS)
    (project.directory / "mysite" / "wsgi.py").write_text(WSGI)
    static = project.directory / "chat" / "static"
    static.mkdir()
    for name, source in SCRIPTS.items():
        shutil.copy(CLIENT / "node_modules" / source, static / name)
    project.run("python manage.py makemigrations chat")
    project.run("python manage.py migrate")
    return project.directory


def build(base: Path, directory: Path, recipe: Recipe) -> Project:
    """Build the project of a recipe."""
    shutil.copytree(base, directory, dirs_exist_ok=True)
    static = directory / "chat" / "static"
    shutil.copy(static / recipe.htmx, static / "htmx.js")
    project = Project(directory)
    for heading in [*recipe.more, recipe.heading]:
        for block in blocks_of(heading):
            project.write(block)
    model = directory / "chat" / "models.py"
    model.write_text(with_format(model.read_text(), recipe.format))
    return project


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all recipes."""
    need("chromium", "chromedriver")
    window = new_window(tmp_path_factory.mktemp("profile"))
    yield window
    window.quit()


def lines(window: webdriver.Chrome) -> list[str]:
    """Return the lines that the page shows."""
    found: list[str] = window.execute_script(
        "return [...document.querySelectorAll('#lines li')].map((li) => li.firstChild.data.trim())"
    )
    return found


def say(window: webdriver.Chrome, text: str) -> None:
    """Type a line and press Enter."""
    field = window.find_element(By.NAME, "text")
    field.clear()
    field.send_keys(text + "\n")


#: For the shell: say something in another process.
ADD = """
from chat.models import Line
from django_wsmux.groups import Group
from django_wsmux.html import send_template
line = Line.objects.create(room="lobby", text="{text}")
if {is_sent}: send_template("room.lobby", "chat/line.html", {{"line": line}})
"""


def add(project: Project, recipe: Recipe, text: str, more: str = "") -> None:
    """Add a line from another process, and run more there."""
    typed = ADD.format(text=text, is_sent=recipe.format is None)
    project.run("python manage.py shell", typed + more)


#: For the shell: calls the functions of the page, and prints what was sent.
CALLS = """
from django.test import RequestFactory
announce(Line.objects.create(room="a", text="one"))
announce_with_turbo(Line.objects.create(room="b", text="two"))
request = RequestFactory().get("/", headers={"X-Turbo-Request-Id": "r-1"})
rearranged(request, "b")
say_all("c", ["thre", "four"])
correct("c", "thre", "three")
for room in "abc":
    for message in Group(f"room.{room}").history().messages:
        print(message.data)
"""


def test_functions(base: Path, tmp_path: Path) -> None:
    """The functions of the page send what it says."""
    project = build(base, tmp_path, RECIPES[0])
    functions = [
        block.text
        for block in blocks(ROOT / "docs" / "html.rst")
        if block.comment.endswith("tests/manual/test_html.py runs it by itself.")
    ]
    assert len(functions) == 3
    imports = "from chat.models import Line\nfrom django_wsmux.groups import Group\n"
    output = project.run("python manage.py shell", "\n".join([imports, *functions, CALLS]))

    def stream(action: str, *rest: str) -> str:
        return "".join([f'<turbo-stream action="{action}"', *rest, "</turbo-stream>"])

    def appended(number: int, text: str) -> str:
        item = f'<li id="line-{number}">{text}</li>\n'
        return stream("append", f' target="lines"><template>{item}</template>')

    out_of_band = '<div hx-swap-oob="beforeend:#lines"><li id="line-1">one</li>\n</div>'
    corrected = '<li id="line-3">three</li>\n'
    expected = [
        appended(1, "one"),
        out_of_band,
        appended(2, "two"),
        appended(2, "two"),
        stream("refresh", ' request-id="r-1">'),
        appended(3, "thre"),
        appended(4, "four"),
        stream("replace", f' target="line-3"><template>{corrected}</template>'),
    ]
    assert output.rstrip().endswith("\n".join(expected)), output


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.heading}, {recipe.htmx}")
def test_recipe(recipe: Recipe, base: Path, window: webdriver.Chrome, tmp_path: Path) -> None:
    """Two windows see each other's lines, miss none, and are right again after a gap."""
    project = build(base, tmp_path, recipe)
    options = "-b 127.0.0.1:0 --no-control-socket"
    server = project.serve(
        "gunicorn -k django_wsmux.worker.WebSocketWorker mysite.wsgi", GUNICORN_CMD_ARGS=options
    )
    proxy = Proxy(server.port)
    try:
        use(window, project, recipe, server, proxy)
    finally:
        proxy.stop()
        server.stop()


def use(
    window: webdriver.Chrome, project: Project, recipe: Recipe, server: Server, proxy: Proxy
) -> None:
    """Use a page in two windows."""
    handles = []
    for _ in range(2):
        window.switch_to.new_window("tab")
        handles.append(window.current_window_handle)
        window.get(f"http://127.0.0.1:{proxy.port}/room/lobby/")

    def see(*expected: str) -> None:
        for handle in handles:
            window.switch_to.window(handle)
            wait_for(window, "#lines", expected[-1])
            assert lines(window) == list(expected)

    def say_all(text: str) -> None:
        say(window, text)
        WebDriverWait(window, TIMEOUT).until(
            lambda _: window.execute_script("return document.forms[0].text.value") == ""
        )

    say_all("hello <b>you</b>")
    see("hello <b>you</b>")
    window.execute_script("document.forms[0].noValidate = true")
    say(window, "")
    wait_for(window, "form", "This field is required.")
    if recipe is RECIPES[0]:
        # A deploy.
        (worker,) = server.workers
        server.signal(signal.SIGHUP)
        server.wait_for_log(rf"Worker exiting \(pid: {worker}\)")
    say_all("again")
    see("hello <b>you</b>", "again")
    # Lines that are said while the pages are away.
    proxy.refuse()
    proxy.cut()
    add(project, recipe, "meanwhile")
    proxy.resume()
    see("hello <b>you</b>", "again", "meanwhile")
    # Lines that are not kept any more.
    proxy.refuse()
    proxy.cut()
    add(project, recipe, "forgotten", 'Group("room.lobby").forget()')
    proxy.resume()
    see("hello <b>you</b>", "again", "meanwhile", "forgotten")
    for handle in handles:
        window.switch_to.window(handle)
        assert_no_errors(window)
        if handle != handles[-1]:
            window.close()
    # The last page would try to return to a server that has stopped, and log that.
    window.get("about:blank")
    window.get_log("browser")  # type: ignore[no-untyped-call]
