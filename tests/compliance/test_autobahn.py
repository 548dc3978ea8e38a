"""Every verdict is the best possible: OK, or INFORMATIONAL where the RFC leaves it open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Server

from .autobahn import SUITE, not_strict, run, serve

#: Three sizes for each of the twelve set-ups of permessage-deflate, including the smallest and the
#: largest.
DEFLATE = tuple(
    f"{group}.{case}"
    for group in (*(f"12.{i}" for i in range(1, 6)), *(f"13.{i}" for i in range(1, 8)))
    for case in (1, 4, 11)
)

#: The cases of each push: ids or patterns, and their number.
SELECTED = {
    "core": SUITE["core"],
    "deflate": (DEFLATE, 36),
    # Without the performance of large messages, group 9.
    "rules": (tuple(each for each in SUITE["core"][0] if each != "9.*"), 247),
}


#: The cases for each server. All have the same codec, so one runs the long cases of compression.
RUNS = [
    pytest.param(worker, *SELECTED[name], id=f"{worker}-{name}")
    for worker, names in {
        "own": ("core", "deflate"),
        "stock": ("rules",),
        "runserver": ("rules",),
    }.items()
    for name in names
]


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The sample site under one of the servers."""
    with serve(request.param, tmp_path_factory.mktemp("compliance")) as server:
        yield server


@pytest.mark.parametrize(("site", "cases", "number"), RUNS, indirect=["site"])
def test_strict(site: Server, cases: tuple[str, ...], number: int) -> None:
    """Behaviour and close have the best verdict, and no case is left out."""
    verdicts = run(site, cases)
    assert not_strict(verdicts) == []
    assert len(verdicts) == number
