"""``bench/instructions.py``: arithmetic, verdict, and real counts of a small server in C."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.support import ROOT

BENCH = ROOT / "bench"
PACKAGE = ROOT / "django_wsmux"


@pytest.fixture(autouse=True)
def _modules_of_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let modules of ``bench/`` be imported, as its scripts do."""
    monkeypatch.syspath_prepend(str(BENCH))


def test_difference_of_two_counts() -> None:
    """What does not depend on the number of units is not counted."""
    per_unit = import_module("callgrind").per_unit
    assert per_unit(1_500, 5, 3_500, 25) == 100


def test_verdict() -> None:
    """More than 5 % and 150 instructions is too much; a row that the table lacks is refused."""
    dearer = import_module("instructions").dearer
    table = {"handshake": 10_000, "page/bare": 1000}
    assert dearer({"handshake": 10_500, "page/bare": 1150}, table) == []
    (reason,) = dearer({"handshake": 10_510, "page/bare": 1000}, table)
    assert reason == "handshake is 5.1% dearer: 10,510 instead of 10,000"
    (reason,) = dearer({"page/bare": 1151}, table)
    assert reason == "page/bare is 15.1% dearer: 1,151 instead of 1,000"
    (reason,) = dearer({"function/64": 1}, table)
    assert "--update" in reason


def test_report() -> None:
    """Each row stands beside the table."""
    instructions = import_module("instructions")
    rows = [row for row in instructions.ROWS if row.key in ("handshake", "page/bare")]
    lines = instructions.compare(rows, {"handshake": 1100, "page/bare": 7}, {"handshake": 1000})
    assert [line[0] for line in lines[1:]] == ["handshake", "page/bare"]
    assert lines[1][2:] == ["1,100", "1,000", "+10.0%"]
    assert lines[2][2:] == ["7", "-", "-"]


def test_versions() -> None:
    """Figures of other versions are not compared; those of valgrind and libc hardly matter."""
    differences = import_module("instructions").differences
    table = {"Python": "3.11.7", "gevent": "26.9.0", "valgrind": "3.19"}
    assert differences({**table, "valgrind": "3.24", "libc": "glibc 2.41"}, table) == []
    assert differences({**table, "gevent": "27.1"}, table) == [
        "gevent is 27.1, in the table 26.9.0"
    ]
    assert differences({"Python": "3.11.7"}, table) == ["gevent is missing, in the table 26.9.0"]


def test_table_is_complete() -> None:
    """The table has every row, and the versions that are installed for it."""
    instructions = import_module("instructions")
    table: dict[str, Any] = json.loads((BENCH / "instructions.json").read_text())
    assert list(table["rows"]) == [row.key for row in instructions.ROWS]
    pinned = dict(requirement.split("==") for requirement in instructions.pinned())
    assert pinned.items() <= table["versions"].items()
    assert {"Python", "valgrind", "libc"} <= table["versions"].keys()


@pytest.mark.parametrize("form", ["rst", "markdown"])
def test_list(form: str) -> None:
    """``--list`` names all rows, and which of them CI measures."""
    command = [sys.executable, "bench/instructions.py", "--list", "--format", form]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line.strip("| ").split()[0] for line in result.stdout.splitlines()]
    keys = [row.key for row in import_module("instructions").ROWS]
    assert [line for line in lines if line in keys] == keys
    assert "yes" in result.stdout


def test_extensions(tmp_path: Path) -> None:
    """Without a C extension, or with one that is older than its source, nothing is measured."""
    instructions = import_module("instructions")
    error = import_module("harness").BenchError
    copy = tmp_path / "django_wsmux"
    shutil.copytree(PACKAGE, copy)
    built = sorted(copy.rglob("*.so"))
    if len(built) < len(instructions.EXTENSIONS):
        need("gcc")
    sources = [path.stat().st_mtime for path in copy.rglob("*.[ch]")]
    for extension in built:
        os.utime(extension, (max(sources), max(sources)))
    instructions.check_extensions(sys.executable, tmp_path)
    os.utime(built[0], (0, 0))
    with pytest.raises(error, match=f"{built[0].stem.partition('.')[0]} is older than "):
        instructions.check_extensions(sys.executable, tmp_path)
    built[0].unlink()
    with pytest.raises(error, match="cannot be loaded; build it with"):
        instructions.check_extensions(sys.executable, tmp_path)


def test_counts(tmp_path: Path) -> None:
    """Counts of the same messages agree, and longer messages cost more. The server is in C."""
    need("gcc")
    need("valgrind")
    callgrind, loads = import_module("callgrind"), import_module("loads")
    (peer,) = (each for each in import_module("peers").PEERS if each.key == "c")
    with callgrind.counting(peer.contestant(), tmp_path, ()) as server:
        short = [server.measure(loads.Echo("/echo/", "x" * 64)) for _ in range(2)]
        long = server.measure(loads.Echo("/echo/", "x" * 16_384))
        connections = server.measure(loads.Handshakes("/echo/"))
    # The fewest instructions with which anything can be read, unmasked and sent.
    assert 64 < short[0] == pytest.approx(short[1], rel=0.05)
    assert long > short[0] + 16_384 / 16
    assert connections > short[0]
