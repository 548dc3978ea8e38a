"""``@pytest.mark.combinations``: which parametrizations run, and which only at night."""

from __future__ import annotations

import itertools

import pytest

from tests.combinations import covering
from tests.support import ROOT

ROWS = [
    dict(zip("abc", values, strict=True))
    for values in itertools.product(range(5), range(2), range(2))
]

#: Like that of all tests.
CONFTEST = """
import pytest
from tests.combinations import mark_others

@pytest.hookimpl(tryfirst=True, specname="pytest_collection_modifyitems")
def pytest_mark_nightly(items):
    mark_others(items)

@pytest.fixture(params=[1, 2, 3])
def number(request):
    return request.param
"""

pytest_plugins = ["pytester"]


@pytest.mark.parametrize(("size", "count"), [(1, 5), (2, 10), (3, 20), (4, 20)])
def test_all_combinations(size: int, count: int) -> None:
    """The chosen rows have each combination that any row has, and are no more than it takes."""
    chosen = [ROWS[number] for number in covering(ROWS, size)]
    for names in itertools.combinations("abc", min(size, 3)):
        seen = {tuple(row[name] for name in names) for row in chosen}
        assert seen == {tuple(row[name] for name in names) for row in ROWS}
    assert len(chosen) == count


def test_rows_of_a_test_without_parameters() -> None:
    """Nothing to combine is nothing to choose."""
    assert covering([], 1) == set()


def test_marker(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """``-m "not nightly"`` runs the chosen ones, and ``-m nightly`` all others."""
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeini("[pytest]\nmarkers =\n    combinations(n)\n    nightly\n")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
import pytest

@pytest.mark.combinations(1)
@pytest.mark.parametrize("letter", "abc")
def test_some(number, letter):
    pass

@pytest.mark.parametrize("letter", "abc")
def test_all(number, letter):
    pass
"""
    )
    plain = "-p", "no:cacheprovider", "-p", "no:django", "-p", "no:django_wsmux"
    by_day = pytester.runpytest_subprocess(*plain, "-m", "not nightly")
    by_day.assert_outcomes(passed=3 + 9, deselected=6)
    pytester.runpytest_subprocess(*plain, "-m", "nightly").assert_outcomes(passed=6, deselected=12)
    pytester.runpytest_subprocess(*plain).assert_outcomes(passed=18)
    pytester.makeconftest(CONFTEST.replace("others(items)", "others(items, 1)"))
    by_day = pytester.runpytest_subprocess(*plain, "-m", "not nightly")
    by_day.assert_outcomes(passed=3 + 3, deselected=12)
