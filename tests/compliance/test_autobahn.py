"""Every verdict is as good as there is: OK, or INFORMATIONAL where the RFC leaves it open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Server

from .autobahn import SUITE, not_strict, run, serve

#: What every push runs: patterns, and how many cases they match.
SELECTED = {
    "core": SUITE["core"],
}


@pytest.fixture(scope="module", params=["own", "stock"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The sample site under each worker."""
    with serve(request.param, tmp_path_factory.mktemp("compliance")) as server:
        yield server


@pytest.mark.parametrize(("cases", "number"), SELECTED.values(), ids=SELECTED)
def test_strict(site: Server, cases: tuple[str, ...], number: int) -> None:
    """Behaviour and close alike, and none of the cases is left out."""
    verdicts = run(site, cases)
    assert not_strict(verdicts) == []
    assert len(verdicts) == number
