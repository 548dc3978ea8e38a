"""Recalculates the sums of ``docs/sizing.rst`` from the figures measured there."""

from __future__ import annotations

import re
from math import ceil

import pytest
from gunicorn.config import Config

from tests.manual import table
from tests.support import ROOT

PAGE = (ROOT / "docs" / "sizing.rst").read_text()

UNITS = {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "cores": 1.0,
    "": 1.0,
}

#: Memory of the kernel, in KiB, for one end of a TCP connection.
KERNEL = 3.7

MACHINES = 10


def amount(cell: str) -> tuple[float, float]:
    """Return the value of a cell with its unit, and its possible rounding error."""
    match = re.fullmatch(r"([\d,.]+) ?(\w*)", cell)
    assert match, cell
    digits = match[1].replace(",", "")
    # Figures of this kind are good for two digits.
    decimals = len(digits.partition(".")[2])
    return float(digits) * UNITS[match[2]], 0.5001 * 10**-decimals * UNITS[match[2]]


def calculate(formula: str) -> float:
    """Return the result of a formula of the page."""
    formula = formula.replace(",", "").replace(" x ", " * ")
    formula = re.sub(r" (KiB|MiB|us|ms)\b", lambda match: f" * {UNITS[match[1]]!r}", formula)
    assert re.fullmatch(r"[\d.e+*/() -]+", formula), formula
    return float(eval(formula))


def memory() -> dict[str, float]:
    """Return the KiB in a worker for each kind of view."""
    return {row[0]: float(row[1]) for row in table("sizing.rst", "view")}


def time() -> dict[str, float]:
    """Return the CPU seconds of each operation."""
    rows = table("sizing.rst", "what", "CPU time of the worker")
    found = {row[0]: re.match(r"([\d.]+) (ms|us)", row[1]) for row in rows}
    return {name: float(match[1]) * UNITS[match[2]] for name, match in found.items() if match}


def proxies() -> dict[str, float]:
    """Return the KiB of a socket in each proxy."""
    return {row[0]: float(row[1].partition(",")[0]) for row in table("sizing.rst", "proxy")}


def test_sockets_in_a_gibibyte() -> None:
    """The number of sockets in a GiB is right, but for rounding."""
    for _, worker, kernel, number in table("sizing.rst", "view"):
        assert float(kernel) == KERNEL
        fit = 2**20 / (float(worker) + KERNEL)
        assert float(number.replace(",", "")) == pytest.approx(fit, rel=0.01)


def test_example() -> None:
    """The example of 20,000 people is right."""
    assert round(20_000 * (memory()["function view"] + KERNEL) / 1024) == 428
    nginx = 20_000 * (proxies()["nginx, with TLS"] + 2 * KERNEL) / 2**20
    assert round(nginx, 2) == 1.06
    assert round(428 / 1024 + nginx + 240 / 1024, 1) == 1.7
    assert round(100 * 20_000 / 20 * time()["a ping and its answer"]) == 6
    assert round(20_000 * time()["a handshake"]) == 22
    for said in ("428 MiB", "1.06 GiB", "**1.7 GiB**", "6 % of a core", "22 s of CPU time"):
        assert said in PAGE


ROWS = table("sizing.rst", "what", "on a machine")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_million(row: list[str]) -> None:
    """The results of each formula are right, for one machine and for ten."""
    name, formula, one, ten = row
    result = calculate(formula)
    if name.startswith("addresses"):
        result = ceil(result)
    value, rounding = amount(one)
    assert value == pytest.approx(result, abs=rounding)
    value, rounding = amount(ten)
    is_of_each = one == ten
    assert value == pytest.approx(result if is_of_each else MACHINES * result, abs=rounding)
    assert is_of_each == (name.startswith(("...", "sockets of", "files of a worker")))


def test_figures_are_those_measured() -> None:
    """The figures in the formulas are those of the tables above."""
    (sockets,) = (row[1] for row in ROWS if row[0] == "memory of sockets")
    assert f"({memory()['event view']:g} + {KERNEL:g}) KiB" in sockets
    (proxy,) = (row[1] for row in ROWS if row[0].startswith("memory of HAProxy"))
    assert f"({proxies()['HAProxy, with TLS']:g} + 2 x {KERNEL:g}) KiB" in proxy
    taken = {
        "pings": "a ping and its answer",
        "messages": "a message of 64 bytes, echoed",
        "one message": "a group's message, for each member",
        "all of them": "a handshake",
    }
    for beginning, what in taken.items():
        (formula,) = (row[1] for row in ROWS if row[0].startswith(beginning))
        (figure,) = re.findall(r"x ([\d.]+ (?:ms|us))", formula)
        assert amount(figure)[0] == pytest.approx(time()[what])


def said(pattern: str) -> float:
    """Return the only number that the pattern finds in the text, even across lines."""
    (number,) = re.findall(pattern.replace(" ", r"\s+"), PAGE)
    return float(number.replace(",", ""))


def test_text() -> None:
    """The sums in the text are right."""
    kib, machine = memory(), 100_000
    sums = [amount(row[2])[0] / 2**30 for row in ROWS if row[0].startswith("memory")]
    assert round(sum(sums), 1) == said(r"comes to ([\d.]+) GiB a machine")
    function = machine * (kib["function view"] - kib["event view"]) / 2**20
    assert round(function, 1) == said(r"Function views are ([\d.]+) GiB more")
    nginx = machine * (proxies()["nginx, with TLS"] - proxies()["HAProxy, with TLS"]) / 2**20
    assert round(nginx, 1) == said(r"with nginx is ([\d.]+) GiB more")
    rate = machine / 20
    assert rate == said(r"With 20 these are ([\d,]+) handshakes a second")
    cores = rate * time()["a handshake"]
    assert cores == pytest.approx(said(r"which are ([\d.]+) of 72 cores"))
    each = time()["a group's message, for each member"]
    assert 1000 * 1000 * each == pytest.approx(said(r"group of a thousand costs (\d+) ms"))
    assert 10 * 12_500 * each == 0.5  # "half of every core"
    assert said(r"all workers are (\d+) % of every one") == pytest.approx(100 * 1000 * 30e-6)
    assert round(1_000_000 / (MACHINES - 1)) == said(r"these are ([\d,]+) sockets each")
    assert Config().backlog == said(r"``--backlog`` \((\d+)\)")


def test_measured_million() -> None:
    """The sums from the figures that were measured with 200,000 sockets are right."""
    kib, ping = said(r"together, ([\d.]+) KiB for each socket"), said(r"and a ping (\d+) us")
    assert f"1,000,000 x {kib:g} KiB = {1e6 * kib / 2**20:.1f} GiB" in PAGE
    assert said(r"([\d.]+) GiB for the workers themselves") == round(80 * 60 / 1024, 1)
    assert said(r"([\d.]+) GiB in the kernel") == round(1e6 * KERNEL / 2**20, 1)
    assert said(r"and ([\d.]+) cores for pings") == round(1e6 / 20 * ping * 1e-6, 1)
