"""README and manual say what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from gunicorn.config import Config

from django_wsmux import conf
from django_wsmux.protocol.options import Options
from tests.support import ROOT

PAGES = [
    *(ROOT / f"{name}.rst" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").glob("*.rst")),
]


def test_settings_table() -> None:
    """It has every setting with its default, in order."""
    text = (ROOT / "docs" / "settings.rst").read_text()
    rows = dict(re.findall(r"^``(WEBSOCKET_\w+)`` +(?:``)?(.+?)(?:``)?  ", text, re.MULTILINE))
    defaults = {name: repr(setting.default) for name, setting in conf.SETTINGS.items()}
    defaults = {name: default.replace("'", '"') for name, default in defaults.items()}
    defaults.update(WEBSOCKET_URLCONF="(required)", WEBSOCKET_SERVER='""')
    assert rows == defaults
    assert list(rows) == list(defaults)


def test_map_of_the_code() -> None:
    """Files that contributors are told of exist, and nothing at the top level is left out."""
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
    """Return the one number that is set there."""
    (number,) = re.findall(pattern, text)
    return int(number)


def test_included_files() -> None:
    """Each file for deployment is on a page, and pages include nothing else."""
    text = "".join(page.read_text() for page in PAGES)
    included = re.findall(r"^\.\. include:: deployment/(\S+)$", text, re.MULTILINE)
    assert sorted(included) == sorted(
        path.name for path in (ROOT / "docs" / "deployment").iterdir()
    )


def test_documented_command() -> None:
    """Whoever starts gunicorn does it as the README says, and the container without a shell."""
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
    """Nobody kills gunicorn before it does so itself."""
    graceful = Config().graceful_timeout
    unit, pod = deployment("mysite.service"), deployment("kubernetes.yaml")
    assert seconds(r"TimeoutStopSec=(\d+)", unit) > graceful
    sleep = seconds(r'"sleep", "(\d+)"', pod)
    assert seconds(r"terminationGracePeriodSeconds: (\d+)", pod) > sleep + graceful


def test_pings_are_below_the_limits() -> None:
    """A proxy as documented cuts nobody, even if one ping is late."""
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
    """Every block of Python is Python."""
    blocks = re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", page.read_text())
    for block in blocks:
        compile(re.sub(r"^    ", "", block, flags=re.MULTILINE), page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_names_exist(page: Path) -> None:
    """Files that are linked to are there, and so is what is imported from the package."""
    text = page.read_text()
    for target in re.findall(r"<([\w./-]+\.rst)>`_", text):
        assert (page.parent / target).exists(), target
    for line in re.findall(r"^ +(from django_wsmux\.\w+ import \w+)$", text, re.MULTILINE):
        exec(line, {})
