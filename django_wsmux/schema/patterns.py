r"""Regular expressions that mean the same in Python and in JavaScript, or less in JavaScript.

JSON Schema has those of JavaScript (ECMA-262, with the flag ``u``). In Python ``$`` also matches
before a newline at the end, hence ``END``. Digits are ``[0-9]``, as ``\d`` has those of all
languages in Python.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

__all__ = [
    "ANY_TEXT",
    "DATE",
    "DATETIME",
    "DOMAIN",
    "DURATION",
    "EMAIL",
    "END",
    "IPV4",
    "IPV6",
    "LOCAL_DATETIME",
    "NON_SPACE",
    "NUMBER",
    "TIME",
    "TRIMMED",
    "UUID",
    "decimal",
    "portable",
    "strptime",
    "url",
    "whole",
]

#: The end of the text.
END: Final = r"$(?!\n)"

#: A text that can be encoded, without null characters.
ANY_TEXT: Final = r"^[^\u0000\ud800-\udfff]*$"

#: A character that neither Python nor JavaScript strips.
NON_SPACE: Final = r"[^\s\u001c-\u001f\u0085\ufeff]"

#: A text without whitespace at its ends.
TRIMMED: Final = rf"^(?:{NON_SPACE}(?:[\s\S]*{NON_SPACE})?)?{END}"

_YEAR: Final = "(?!0000)[0-9]{4}"
_LEAP_YEAR: Final = (
    "(?:[0-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?!0000)(?:[02468][048]|[13579][26])00)"
)
DATE: Final = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    rf"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_HOUR_MINUTE: Final = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
TIME: Final = rf"{_HOUR_MINUTE}(?::[0-5][0-9](?:\.[0-9]{{1,6}})?)?"
LOCAL_DATETIME: Final = rf"{DATE}T{_HOUR_MINUTE}:[0-5][0-9](?:\.[0-9]{{1,6}})?"
# In UTC the first and the last day may belong to years that Python does not have.
DATETIME: Final = rf"(?!0001-01-01|9999-12-31){LOCAL_DATETIME}(?:Z|[+-]{_HOUR_MINUTE})"
DURATION: Final = (
    r"-?P(?=[0-9T])(?:[0-9]{1,6}D)?"
    r"(?:T(?=[0-9])(?:[0-9]{1,6}H)?(?:[0-9]{1,6}M)?(?:[0-9]{1,6}(?:\.[0-9]{1,6})?S)?)?"
)

UUID: Final = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"

#: A decimal number.
NUMBER: Final = r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?"

_LABEL: Final = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
DOMAIN: Final = rf"(?:{_LABEL}\.)+[a-zA-Z]{{2,63}}"
_ATOM: Final = "[-!#$%&'*+/=?^_`{}|~0-9A-Za-z]+"
EMAIL: Final = rf"{_ATOM}(?:\.{_ATOM})*@{DOMAIN}"

_BYTE: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
IPV4: Final = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_H: Final = "[0-9a-fA-F]{1,4}"
IPV6: Final = (
    f"(?:(?:{_H}:){{7}}{_H}|(?:{_H}:){{1,7}}:|(?:{_H}:){{1,6}}:{_H}"
    + "".join(f"|(?:{_H}:){{1,{7 - n}}}(?::{_H}){{1,{n}}}" for n in range(2, 7))
    + f"|:(?:(?::{_H}){{1,7}}|:))"
)


def whole(body: str) -> str:
    """Return a pattern for the whole text."""
    return rf"^(?:{body}){END}"


def url(schemes: list[str]) -> str:
    """Return the body of a pattern for URLs, without user names and IPv6 addresses."""
    names = "|".join(re.escape(scheme).replace(r"\-", "-") for scheme in schemes)
    host = rf"(?=[^/?#:]{{1,253}}(?:[/?#:]|$))(?:{IPV4}|{DOMAIN}|localhost)"
    return rf"(?:{names})://{host}(?::[0-9]{{1,5}})?(?:[/?#][!-~]*)?"


def decimal(
    max_digits: int | None,
    places: int | None,
    low: Decimal | None = None,
    high: Decimal | None = None,
) -> str:
    """Return the body of a pattern for decimal numbers.

    Args:
        max_digits, places: the most digits, and the most digits after the point.
        low, high: the least and the greatest number.

    Example:
        >>> bool(re.search(whole(decimal(3, 1, high=Decimal("9.5"))), "9.6"))
        False
    """
    digits = "[0-9]{1,40}" if places is None else f"[0-9]{{1,{places}}}"
    fraction = "" if places == 0 else rf"(?:\.{digits})?"
    before = ""
    integer = "(?:0|[1-9][0-9]{0,39})"
    if max_digits is not None and places is not None:
        most = max_digits - places
        if most > 0:
            integer = f"(?:0|[1-9][0-9]{{0,{most - 1}}})"
        else:
            # "0" alone has one digit before the point.
            integer, fraction = "0", rf"\.{digits}"
    elif max_digits is not None:
        before = f"(?!(?:[^0-9]*[0-9]){{{max_digits + 1}}})"
    if low is not None:
        before += f"(?=[0-9]|-{_at_most(-low)})" if low <= 0 else f"(?={_at_least(low)})"
    if high is not None:
        before += f"(?=-|{_at_most(high)})" if high >= 0 else f"(?=-{_at_least(-high)})"
    return f"{before}-?{integer}{fraction}"


def _split(number: Decimal) -> tuple[str, str]:
    """Return the digits before and after the point, without useless zeros."""
    integer, _, fraction = format(abs(number), "f").partition(".")
    return integer.lstrip("0") or "0", fraction.rstrip("0")


def _at_most(limit: Decimal) -> str:
    integer, fraction = _split(limit)
    size = len(integer)
    options = [rf"{each}(?:\.[0-9]+)?" for each in _same_size(integer, smaller=True)]
    if size > 1:
        options.append(rf"(?:0|[1-9][0-9]{{0,{size - 2}}})(?:\.[0-9]+)?")
    smaller = [f"{each}[0-9]*" for each in _other_digit(fraction, smaller=True)]
    prefixes = [fraction[:index] for index in range(1, len(fraction))]
    options.append(rf"{integer}(?:\.(?:{'|'.join([*smaller, *prefixes, f'{fraction}0*'])}))?")
    return f"(?:{'|'.join(options)}){END}"


def _at_least(limit: Decimal) -> str:
    integer, fraction = _split(limit)
    options = [rf"{each}(?:\.[0-9]+)?" for each in _same_size(integer, smaller=False)]
    options.append(rf"[1-9][0-9]{{{len(integer)},}}(?:\.[0-9]+)?")
    if fraction:
        greater = [f"{each}[0-9]*" for each in _other_digit(fraction, smaller=False)]
        options.append(rf"{integer}\.(?:{'|'.join([*greater, f'{fraction}[0-9]*'])})")
    else:
        options.append(rf"{integer}(?:\.[0-9]+)?")
    return f"(?:{'|'.join(options)}){END}"


def _same_size(integer: str, *, smaller: bool) -> list[str]:
    """Return patterns for the smaller, or greater, integers with as many digits."""
    found = []
    for index, each in enumerate(_other_digit(integer, smaller=smaller)):
        if index == 0 and len(integer) > 1:
            each = each.replace("[0-", "[1-")
            if each == "[1-0]":
                continue
        rest = len(integer) - each.count("]") - len(each.partition("[")[0])
        found.append(f"{each}[0-9]{{{rest}}}" if rest else each)
    return found


def _other_digit(digits: str, *, smaller: bool) -> list[str]:
    """Return patterns for the beginnings of smaller, or greater, rows of digits."""
    found = []
    for index, digit in enumerate(digits):
        if smaller and digit > "0":
            found.append(f"{digits[:index]}[0-{int(digit) - 1}]")
        elif not smaller and digit < "9":
            found.append(f"{digits[:index]}[{int(digit) + 1}-9]")
    return found


_DIRECTIVES: Final = {
    "%Y": _YEAR,
    "%m": "(?:0[1-9]|1[0-2])",
    "%d": "(?:0[1-9]|[12][0-9]|3[01])",
    "%y": "[0-9]{2}",
    "%H": "(?:[01][0-9]|2[0-3])",
    "%M": "[0-5][0-9]",
    "%S": "[0-5][0-9]",
    "%f": "[0-9]{1,6}",
    "%%": "%",
}


def strptime(text: str) -> str | None:
    """Return the body of a pattern for a format of ``strptime()``; ``None`` if there is none.

    The day may be one that the month does not have.
    """
    found = ""
    for part in re.findall(r"%.|[^%]", text, re.DOTALL):
        if part.startswith("%") and part not in _DIRECTIVES:
            return None
        found += _DIRECTIVES.get(part) or re.sub(r"[\\^$.*+?()\[\]{}|/]", r"\\\g<0>", part)
    return found


# Escapes with one meaning in both languages. JavaScript allows no others outside of classes.
_ESCAPES: Final = re.compile(
    r"\\(?:[dwnrtfv]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[\\^$.*+?()\[\]{}|/])"
)
# Groups, quantifiers and classes that JavaScript lacks or reads differently.
_FOREIGN: Final = re.compile(r"\(\?(?![:=!]|<[=!])|\{(?![0-9]+(?:,[0-9]*)?\})|\[\^?\]|[*+?}]\+|\\")


def portable(regex: Any) -> str | None:
    """Return a project's pattern for JSON Schema.

    It is ``None`` if the pattern may accept more in JavaScript than in Python, or is no pattern
    there.

    Args:
        regex: the compiled pattern; Django has lazy ones.
    """
    text: str = regex.pattern
    is_whole = text.endswith(r"\Z") and not text.endswith(r"\\Z")
    body = text[:-2] if is_whole else text
    plain = _ESCAPES.sub("x", body)
    if regex.flags & ~re.UNICODE or _FOREIGN.search(plain):
        return None
    # Classes contain less in JavaScript, so what excludes them contains more.
    is_negative = any(each in plain for each in ("[^", "(?!", "(?<!"))
    if is_negative and (re.search(r"\\[dw]", body) or "." in plain):
        return None
    return body + END if is_whole else body
