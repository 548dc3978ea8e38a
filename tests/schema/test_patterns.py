"""Patterns: compared with what they stand for, in Python and in JavaScript."""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
from decimal import Decimal

import pytest
from django.core.exceptions import ValidationError
from django.core.validators import validate_email, validate_slug, validate_unicode_slug
from hypothesis import given, settings
from hypothesis import strategies as st

from django_wsmux.schema import patterns
from django_wsmux.schema.patterns import whole
from tests.client.nodes import run
from tests.support import TIMES


def matches(body: str, text: str) -> bool:
    """Return whether a text matches as a whole."""
    return re.search(whole(body), text) is not None


def test_dates() -> None:
    """A date matches if and only if it exists."""
    for year in (1, 4, 100, 400, 1900, 2000, 2023, 2024, 9999):
        for month in range(14):
            for day in range(33):
                text = f"{year:04}-{month:02}-{day:02}"
                try:
                    datetime.date.fromisoformat(text)
                    exists = True
                except ValueError:
                    exists = False
                assert matches(patterns.DATE, text) == exists, text
    for year in range(10_000):
        try:
            datetime.date(year, 2, 29)
            exists = True
        except ValueError:
            exists = False
        assert matches(patterns.DATE, f"{year:04}-02-29") == exists, year


def test_newline() -> None:
    """A newline at the end is a part of the text."""
    assert matches(patterns.UUID, "0" * 8 + "-0000-0000-0000-" + "0" * 12)
    assert not matches(patterns.UUID, "0" * 8 + "-0000-0000-0000-" + "0" * 12 + "\n")


LIMITS = st.decimals(min_value=-1100, max_value=1100, allow_nan=False, places=2) | st.sampled_from(
    [Decimal(0), Decimal(10), Decimal("99.9"), Decimal(100), Decimal("-0.5"), Decimal("1E+2")]
)


@settings(max_examples=50 * TIMES, deadline=None, database=None)
@given(LIMITS, LIMITS, st.data())
def test_ranges(low: Decimal, high: Decimal, data: st.DataObject) -> None:
    """A decimal number matches if and only if it lies in the range."""
    body = patterns.decimal(None, None, low, high)
    around = [
        limit + step * Decimal(10) ** power
        for limit in (low, high)
        for step in (-1, 0, 1)
        for power in (-3, -2, -1, 0, 1, 2)
    ]
    others = data.draw(st.lists(st.decimals(-2000, 2000, allow_nan=False, places=2), max_size=9))
    for number in [*around, *others]:
        for text in (format(number, "f"), format(number, "f") + "0" * ("." in format(number, "f"))):
            assert matches(body, text) == (low <= number <= high), (text, low, high)


@pytest.mark.parametrize(
    ("max_digits", "places", "good", "bad"),
    [
        (5, 2, ["0", "-123.45", "0.1", "999.99"], ["1234", "0.123", "01", ".5", "1.", "1e2", "+1"]),
        (2, 2, ["0.12", "-0.0"], ["0", "1.1", "0.123"]),
        (3, 0, ["0", "999"], ["1000", "1.0"]),
        (3, None, ["123", "1.23", "0.12"], ["1234", "1.234"]),
        (None, 1, ["123456.1"], ["1.12"]),
    ],
)
def test_digits(max_digits: int, places: int, good: list[str], bad: list[str]) -> None:
    """Digits are counted as ``DecimalField`` does, or more strictly."""
    body = patterns.decimal(max_digits, places)
    assert [text for text in good if not matches(body, text)] == []
    assert [text for text in bad if matches(body, text)] == []


def test_ipv6() -> None:
    """Addresses in any usual notation match."""
    for number in (0, 1, 1 << 127, 0xFE80 << 112 | 1, (1 << 128) - 1, 1 << 64, 5 << 16):
        address = ipaddress.IPv6Address(number)
        assert matches(patterns.IPV6, str(address))
        assert matches(patterns.IPV6, address.exploded)
    for text in (":", ":::", "1:2", "1::2::3", "1:2:3:4:5:6:7:8:9", "g::", "::1%eth0"):
        assert not matches(patterns.IPV6, text), text


def test_email() -> None:
    """Usual addresses match; what matches is valid."""
    for text in ("a@b.co", "first.last+tag@mail.example.org", "o'neil@x-y.example"):
        validate_email(text)
        assert matches(patterns.EMAIL, text)
    for text in ("a@b", "a..b@c.de", "@b.co", "a@-b.co", "a@b.c"):
        with pytest.raises(ValidationError):
            validate_email(text)
        assert not matches(patterns.EMAIL, text)


def test_strptime() -> None:
    """Formats of ``strptime()`` become patterns."""
    body = patterns.strptime("%d.%m.%Y (%H)")
    assert body is not None
    assert matches(body, "31.12.2026 (23)")
    assert not matches(body, "31x12x2026 (23)")
    assert patterns.strptime("%A") is None


@pytest.mark.parametrize(
    ("regex", "expected"),
    [
        (re.compile("^[a-z]+$"), "^[a-z]+$"),
        (re.compile(r"^\d{2,4}(?:-\w+)?\Z"), rf"^\d{{2,4}}(?:-\w+)?{patterns.END}"),
        (validate_slug.regex, rf"^[-a-zA-Z0-9_]+{patterns.END}"),
        (validate_unicode_slug.regex, rf"^[-\w]+{patterns.END}"),
        (re.compile(r"^(?=.*x)\.\/$"), r"^(?=.*x)\.\/$"),
        (re.compile("a", re.IGNORECASE), None),
        (re.compile("(?i)a"), None),
        (re.compile("(?P<name>a)"), None),
        (re.compile(r"\Aa"), None),
        (re.compile(r"\s"), None),
        (re.compile(r"\Sa"), None),
        (re.compile(r"[^\d]"), None),
        (re.compile(r"(?!.)a"), None),
        (re.compile(r"\ba"), None),
        (re.compile(r"(a)\1"), None),
        (re.compile(r"\-"), None),
        (re.compile(r"a{,3}"), None),
        (re.compile(r"a++"), None),
        (re.compile(r"[]a]"), None),
        (re.compile(r"\\Z"), r"\\Z"),
    ],
)
def test_portable(regex: re.Pattern[str], expected: str | None) -> None:
    """A project's pattern is used if it means the same in JavaScript, or less."""
    assert patterns.portable(regex) == expected


_PROGRAM = """
const [patterns, texts] = JSON.parse(process.argv[1]);
console.log(JSON.stringify(patterns.map((p) => texts.map((t) => new RegExp(p, "u").test(t)))));
"""


def test_javascript() -> None:
    """In JavaScript the patterns are valid, and mean the same."""
    bodies = [
        patterns.DATE,
        patterns.TIME,
        patterns.DATETIME,
        patterns.DURATION,
        patterns.UUID,
        patterns.NUMBER,
        patterns.EMAIL,
        patterns.IPV4,
        patterns.IPV6,
        patterns.url(["http", "git+ssh", "view-source"]),
        patterns.decimal(6, 2, Decimal("-10.5"), Decimal("99.95")),
        str(patterns.strptime("%d/%m/%Y %% [%H.%M]")),
    ]
    texts = [
        *("", "\n", "2024-02-29", "2023-02-29", "12:30", "12:30\n", "2024-02-29T12:30:00Z"),
        *("P1D", "PT1.5S", "P", "00000000-0000-0000-0000-000000000000", "1.50", "-10.50"),
        *("-10.51", "99.95", "99.96", "a@b.co", "1.2.3.4", "::1", "git+ssh://a.co/x"),
        *("view-source://localhost:80", "31/12/2026 % [23.59]", "\ud7ff", "\U0001f600", " a ", "a"),
        *("\ufeffa", "\x1ca", "\x00", "\u0663"),
    ]
    whole_ones = [*map(whole, bodies), patterns.ANY_TEXT, patterns.NON_SPACE, patterns.TRIMMED]
    found_by_node = json.loads(run("node", "-e", _PROGRAM, json.dumps([whole_ones, texts])))
    for pattern, found in zip(whole_ones, found_by_node, strict=True):
        assert found == [re.search(pattern, text) is not None for text in texts], pattern
