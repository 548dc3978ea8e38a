"""Chooses among the parametrizations of a test: ``@pytest.mark.combinations(n)``.

CI runs as many of them as it takes to have each combination of ``n`` values of different
parameters, those of fixtures too: with 1 each value, with 2 each pair. The others get the marker
``nightly``.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence

import pytest

__all__ = ["covering", "mark_others"]


def covering(rows: Sequence[Mapping[str, Hashable]], size: int) -> set[int]:
    """Return the numbers of some rows in which each combination of values is that is in any row.

    Args:
        rows: the values of parameters by their names.
        size: of a combination: how many parameters.

    ::

        covering([{"a": 0, "b": 0}, {"a": 0, "b": 1}, {"a": 1, "b": 1}], 1) == {0, 2}
    """
    combinations = [
        set(itertools.combinations(sorted(row.items()), min(size, len(row)))) for row in rows
    ]
    missing = set[object]().union(*combinations)
    chosen = set()
    while missing:
        # The first of the best, so that all processes of pytest-xdist choose the same.
        best = max(range(len(rows)), key=lambda number: len(combinations[number] & missing))
        chosen.add(best)
        missing -= combinations[best]
    return chosen


def mark_others(items: Iterable[pytest.Item], default: int = 0) -> None:
    """Mark tests as ``nightly`` whose combinations of parameters others show.

    Args:
        items: tests.
        default: the size of a combination for tests without a marker; 0: they all run.
    """
    by_test: dict[tuple[str, int], list[pytest.Function]] = {}
    for item in items:
        marker = item.get_closest_marker("combinations")
        size = marker.args[0] if marker else default
        if size and isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            name = item.nodeid.partition("[")[0]
            by_test.setdefault((name, size), []).append(item)
    for (_, size), tests in by_test.items():
        # Parametrizations share their values, which need not have a hash.
        rows = [{name: id(value) for name, value in t.callspec.params.items()} for t in tests]
        chosen = covering(rows, size)
        for number, test in enumerate(tests):
            if number not in chosen:
                test.add_marker("nightly")
