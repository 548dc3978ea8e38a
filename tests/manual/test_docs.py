"""README and manual agree with the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from docutils import nodes
from gunicorn.config import Config
from selenium import webdriver

from django_wsmux import conf
from django_wsmux.protocol.options import Options
from tests.conftest import need
from tests.manual import PAGES, blocks, comments, document
from tests.manual.links import broken_in_manual
from tests.sample_site.conftest import new_window
from tests.support import ROOT


def test_settings() -> None:
    """The page has every setting once, with its default."""
    text = (ROOT / "docs" / "settings.rst").read_text()
    found = re.findall(r"^``(WEBSOCKET_\w+)`` \((?:``)?(.+?)(?:``)?\)$", text, re.MULTILINE)
    defaults = {name: repr(setting.default) for name, setting in conf.SETTINGS.items()}
    defaults = {name: default.replace("'", '"') for name, default in defaults.items()}
    defaults.update(WEBSOCKET_URLCONF="required", WEBSOCKET_SERVER='""')
    defaults.update(WEBSOCKET_JSON_ENCODER="Django's")  # the path is long
    assert sorted(found) == sorted(defaults.items())


def test_map_of_the_code() -> None:
    """Files named in CONTRIBUTING exist, and every module and package of the top level is named."""
    text = (ROOT / "CONTRIBUTING.rst").read_text()
    package = ROOT / "django_wsmux"
    told = set(re.findall(r"``([\w/]+(?:\.\w+|/))``", text))
    for name in told:
        assert (ROOT / name).exists() or (package / name).exists(), name
    modules = {path.name for path in package.glob("*.py")}
    packages = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert modules | packages <= told | {"__init__.py"}


def deployment(name: str) -> str:
    """Return a file that the manual shows."""
    return (ROOT / "docs" / "deployment" / name).read_text()


def seconds(pattern: str, text: str) -> int:
    """Return the only number that the pattern finds."""
    (number,) = re.findall(pattern, text)
    return int(number)


def test_included_files() -> None:
    """Each file for deployment is on a page, and pages include no other file."""
    text = "".join(page.read_text() for page in PAGES)
    included = re.findall(r"^\.\. include:: deployment/(\S+)$", text, re.MULTILINE)
    assert sorted(included) == sorted(
        path.name for path in (ROOT / "docs" / "deployment").iterdir()
    )


def test_documented_command() -> None:
    """The unit and the container start gunicorn as README does, the container without a shell."""
    worker = ["gunicorn", "-k", "django_wsmux.worker.WebSocketWorker"]
    assert " ".join([*worker, "mysite.wsgi"]) in (ROOT / "README.rst").read_text()
    (command,) = re.findall(r"^CMD (\[.+\])$", deployment("Dockerfile"), re.MULTILINE)
    assert json.loads(command)[:3] == worker
    assert json.loads(command)[-1] == "mysite.wsgi"
    (start,) = re.findall(
        r"^ExecStart=\S+/(gunicorn .+)$", deployment("mysite.service"), re.MULTILINE
    )
    assert start.split()[:3] == worker


def test_time_to_leave() -> None:
    """systemd and Kubernetes give gunicorn time to stop by itself."""
    graceful = Config().graceful_timeout
    unit, pod = deployment("mysite.service"), deployment("kubernetes.yaml")
    assert seconds(r"TimeoutStopSec=(\d+)", unit) > graceful
    sleep = seconds(r'"sleep", "(\d+)"', pod)
    assert seconds(r"terminationGracePeriodSeconds: (\d+)", pod) > sleep + graceful


def test_pings_are_below_the_limits() -> None:
    """No documented proxy cuts a connection, even if one ping is late."""
    limits = [
        seconds(r"proxy_read_timeout (\d+)s;", deployment("nginx-site.conf")),
        seconds(r"proxy_read_timeout (\d+)s;", deployment("nginx-tls.conf")),
        seconds(r"timeout tunnel (\d+)s", deployment("haproxy.cfg")),
        seconds(r"ProxyTimeout (\d+)", deployment("apache.conf")),
        seconds(r'proxy-read-timeout: "(\d+)"', deployment("kubernetes.yaml")),
    ]
    options = Options()
    assert min(limits) > 2 * max(options.ping_interval, options.ping_timeout)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles(page: Path) -> None:
    """Every Python block compiles."""
    blocks = re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", page.read_text())
    for block in blocks:
        compile(re.sub(r"^    ", "", block, flags=re.MULTILINE), page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_run(page: Path) -> None:
    """A test runs each block, or a comment says that it is a fragment, and why."""
    by_page: dict[str | None, str] = {}
    for comment in comments(page):
        match = re.search(r"(tests/[\w/]+\.py)", comment)
        if match and "this page" in comment:
            kinds = {each.language for each in blocks(page)} - {None}
            languages = [*kinds, None] if "The code of this page" in comment else ["python"]
            by_page |= dict.fromkeys(languages, match[1])
    for block in blocks(page):
        for name in re.findall(r"tests/[\w/]+\.py", block.comment):
            assert (ROOT / name).exists(), name
        reason = re.fullmatch(r"A fragment(?:: |, )(.{10,}\.)", block.comment)
        test = re.fullmatch(r"Run by (tests/[\w/]+\.py)\.", block.comment)
        if reason is None:
            name = test[1] if test else by_page.get(block.language)
            assert name, f"{page.name}: neither run nor a fragment:\n{block.text}"
            assert page.name in (ROOT / name).read_text(), f"{name} does not mention {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_names_exist(page: Path) -> None:
    """Linked files exist, and so do names that are imported from the package."""
    text = page.read_text()
    for target in re.findall(r"<([\w./-]+\.rst)(?:#[\w-]+)?>`_", text):
        assert (page.parent / target).exists(), target
    for line in re.findall(r"^ +(from django_wsmux\.\w+ import \w+)$", text, re.MULTILINE):
        exec(line, {})


def test_pictures() -> None:
    """Each picture is on a page, has an alternative text, and is small."""
    used = {
        (page.parent / image["uri"]).relative_to(ROOT / "docs"): image.get("alt", "")
        for page in PAGES
        for image in document(page).findall(nodes.image)
    }
    pictures = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs" / "images").iterdir()}
    assert used.keys() == pictures
    for name in pictures:
        assert len(used[name]) > 40, name
        limit = 300_000 if name.suffix == ".gif" else 150_000
        assert (ROOT / "docs" / name).stat().st_size < limit, name


def test_modules_of_the_picture() -> None:
    """The modules in the picture of the flow exist."""
    picture = (ROOT / "docs" / "images" / "flow.svg").read_text()
    modules = re.findall(r"\b((?:\w+/)?\w+\.py)\b", picture)
    assert len(modules) >= 12
    for module in modules:
        assert (ROOT / "django_wsmux" / module).exists(), module


# The manual as HTML

#: Names of documented modules that are exported only for other modules of the package.
INTERNAL = {
    # The errors are documented with the exceptions.
    "django_wsmux.backends": {
        "BackendMisconfigured",
        "BackendUnavailable",
        "Counts",
        "SCHEMES",
        "take_namespace",
    },
    "django_wsmux.monitoring.overview": {"MAX_LIMIT", "install", "is_alone", "survey"},
    "django_wsmux.requests": {
        "ERRORS",
        "RateLimited",
        "current",
        "handle",
        "parse",
        "requests_of",
        "send_errors",
    },
    "django_wsmux.templatetags.websockets": {"register"},
    # Documented with the exceptions.
    "django_wsmux.test": {"HandshakeRefused", "RequestFailed"},
    # The docstring of the module tells how to include them.
    "django_wsmux.urls": {"app_name", "url_of", "urlpatterns"},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the pages that Sphinx builds without a warning."""
    directory = tmp_path_factory.mktemp("html")
    command = ["-m", "sphinx", "-q", "-W", "docs", str(directory)]
    result = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return directory


def test_html_links(built: Path, tmp_path: Path) -> None:
    """Links between pages lead to existing files and anchors; others would be noticed."""
    assert broken_in_manual(built) == []
    page = '<p id="here"><a href="#here"></a><a href="#gone"></a><img src="gone.png">'
    (tmp_path / "page.html").write_text(page)
    assert [error.split(": ")[1] for error in broken_in_manual(tmp_path)] == ["#gone", "gone.png"]


@pytest.fixture
def window(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """A browser."""
    need("chromium", "chromedriver")
    window = new_window(tmp_path)
    yield window
    window.quit()


def test_phones(built: Path, window: webdriver.Chrome) -> None:
    """Each page fits a phone and a desktop; only tables and code can be moved sideways."""
    for width, is_phone in ((390, True), (1280, False)):
        screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": is_phone}
        window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        for page in built.glob("*.html"):
            window.get(page.as_uri())
            needed = window.execute_script("return document.documentElement.scrollWidth")
            assert needed <= width, page.name


def test_dark(built: Path, window: webdriver.Chrome) -> None:
    """The manual is dark for readers whose system is dark."""
    window.get((built / "index.html").as_uri())
    colours = set()
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        colours.add(window.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_reference(built: Path) -> None:
    """The reference has every name that its modules export for projects."""
    modules = [
        (module, (built / f"{page.stem}.html").read_text())
        for page in PAGES
        for module in re.findall(r"automodule:: (\S+)", page.read_text())
    ]
    assert len(modules) >= 15
    for module, text in modules:
        for name in set(import_module(module).__all__) - INTERNAL.get(module, set()):
            assert f'id="{module}.{name}"' in text, f"{module}.{name}"


def test_table_of_contents() -> None:
    """The list on the index equals the navigation: every page once, in the same order."""
    text = (ROOT / "docs" / "index.rst").read_text()
    elsewhere = {"../bench/README": "benchmarks", "../CHANGELOG": "changes"}
    # Its questions lead to some pages once more.
    text = re.sub(r"Questions\n-+\n.+?\n(?=\w+\n-+\n)", "", text, flags=re.DOTALL)
    listed = [elsewhere.get(each, each) for each in re.findall(r"<(\S+)\.rst>`_", text)]
    assert re.findall(r"^   (\w+)$", text, re.MULTILINE) == listed
    pages = {page.stem for page in (ROOT / "docs").glob("*.rst")} - {"index"}
    assert sorted(listed) == sorted(pages)
