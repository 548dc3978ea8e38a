"""Short runs of ``bench/compare.py``, with our own server and the C limit, and ``bench/deploy.py``.

Figures from so short a run mean nothing, so the test ignores them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from docutils.core import publish_doctree
from docutils.nodes import row, table

from tests.conftest import need
from tests.support import ROOT

MEASURES = ("echo", "handshakes", "fanout", "redis", "pages", "latency")
SVG = "{http://www.w3.org/2000/svg}"

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the benchmark."""
    need("gcc")
    need("redis-server")
    directory = tmp_path_factory.mktemp("compare")
    options = ["--short", "--peers", "c", "--measures", *MEASURES, "--output", str(directory)]
    command = [sys.executable, "bench/compare.py", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return directory


def test_every_server_does_its_rounds(output: Path) -> None:
    """Every server completes its rounds without an error, and each round has figures."""
    report = json.loads((output / "compare.json").read_text())
    assert [result["error"] for result in report["results"] if result["error"]] == []
    assert all(result["rounds"] for result in report["results"])
    servers = {(result["measure"], result["server"]) for result in report["results"]}
    ways = ("wsmux/function", "wsmux/event", "wsmux/lean")
    sockets = {(name, way) for name in MEASURES if name != "pages" for way in ways}
    limit = {(name, "c") for name in ("echo", "handshakes", "latency")}
    rooms = {(name, "wsmux/watched") for name in ("fanout", "redis")}
    assert servers == sockets | limit | rooms | {("pages", "wsmux")}


def test_tables(output: Path) -> None:
    """The page is valid reStructuredText: a summary, and a table of all rows for each measure."""
    text = (output / "compare.rst").read_text()
    strict = {"report_level": 1, "halt_level": 2}
    document = publish_doctree(text, settings_overrides=strict)
    summary, *rows = (len(list(found.findall(row))) for found in document.findall(table))
    assert summary == len(("heading", "C"))
    assert len(rows) == len(MEASURES)
    results = json.loads((output / "compare.json").read_text())["results"]
    assert sum(rows) == len(results) + len(MEASURES)
    assert "python bench/compare.py --peers wsmux c" in text


def test_chart(output: Path) -> None:
    """The chart is well-formed XML, with a bar for each row that is drawn, within its frame."""
    chart = ElementTree.parse(output / "compare.svg").getroot()
    assert chart.tag == f"{SVG}svg"
    width, height = float(chart.attrib["width"]), float(chart.attrib["height"])
    bars = chart.findall(f"{SVG}rect")
    assert {bar.attrib["class"] for bar in bars} == {"bar", "bar ours"}
    for bar in bars:
        assert 0 < float(bar.attrib["x"]) + float(bar.attrib["width"]) < width
        assert 0 < float(bar.attrib["y"]) + float(bar.attrib["height"]) < height


def deploy(*options: str) -> str:
    """Run ``bench/deploy.py``; return what it says."""
    command = [sys.executable, "bench/deploy.py", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("nothing was lost\n")
    return result.stdout


def test_deploy() -> None:
    """Sockets move to the new workers: none is closed, no page fails, no message is lost."""
    options = ["--clients", "100", "--talkers", "20", "--reloads", "1", "--pause", "1"]
    assert "1 reloads: 0 sockets closed" in deploy(*options)


def test_cost_of_deploy() -> None:
    """The comparison of CPU times runs: one way moves the sockets, the other closes them."""
    assert "times" in deploy("--cpu", "--clients", "40", "--rounds", "1")
