"""Values that a JSON Schema of this package accepts: a strategy of Hypothesis."""

from __future__ import annotations

import re
from functools import cache, reduce
from typing import Any

from hypothesis import strategies as st
from jsonschema import Draft202012Validator

__all__ = ["accepted", "validator"]


def validator(schema: Any, document: Any = None) -> Draft202012Validator:
    """Return the validator of a schema, with the definitions of a document."""
    definitions = {} if document is None else {"$defs": document["$defs"]}
    return Draft202012Validator({**definitions, **schema})


def accepted(schema: dict[str, Any], document: Any = None) -> st.SearchStrategy[Any]:
    """Return a strategy for values that the real validator of a schema accepts."""
    check = validator(schema, document)
    return _values(schema, document or {}, 4).filter(check.is_valid)


def _values(schema: Any, document: Any, depth: int) -> st.SearchStrategy[Any]:
    """Return a strategy for values that a schema is likely to accept."""
    if "not" in schema:
        return st.nothing()
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        values = list(schema["enum"])
        as_floats = [float(each) for each in values if type(each) is int]
        return st.sampled_from(values + as_floats)
    if "$ref" in schema and "type" not in schema:
        target = document["$defs"][schema["$ref"].rpartition("/")[2]]
        if depth <= 0:
            return _shallow(target, document)
        return st.deferred(lambda: _values(target, document, depth - 1))
    kinds = schema.get("type")
    if "anyOf" in schema:
        # Fields beside the options hold for each of them.
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "$comment")}
        return st.one_of([_values({**rest, **each}, document, depth) for each in schema["anyOf"]])
    if kinds is None:
        kinds = ["string"] if {"pattern", "maxLength", "allOf"} & schema.keys() else list(_KINDS)
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return st.one_of([_KINDS[kind](schema, document, depth) for kind in kinds])


def _shallow(schema: Any, document: Any) -> st.SearchStrategy[Any]:
    simple = [
        each for each in schema.get("anyOf", ()) if each.get("type") not in ("array", "object")
    ]
    if simple:
        return st.one_of([_values(each, document, 0) for each in simple])
    required = {
        **schema,
        "properties": {name: schema["properties"][name] for name in schema.get("required", ())},
    }
    return st.deferred(lambda: _values(required, document, 0))


def _string(schema: Any, document: Any, depth: int) -> st.SearchStrategy[str]:
    patterns = [each["pattern"] for each in [schema, *schema.get("allOf", ())] if "pattern" in each]
    if "maxLength" in schema and schema["maxLength"] == 0:
        return st.just("")
    if not patterns:
        return st.text(min_size=schema.get("minLength", 0), max_size=schema.get("maxLength"))
    special = [each for each in patterns if "ud800" not in each]
    least, most = schema.get("minLength", 0), schema.get("maxLength", 60)
    texts = st.text(min_size=least, max_size=most) | st.text(
        alphabet=" \t\n\r\x00\x1c\x85\ufeff\u3000aZ0-_.é\U0001f600", min_size=least, max_size=most
    )
    matching = [_from_regex(each) for each in special or patterns]
    padded = st.builds(
        lambda a, text, b: a + text + b,
        st.sampled_from(["", " ", "\n"]),
        st.one_of(matching),
        st.sampled_from(["", "\n", "\x85"]),
    )
    checks = [re.compile(each) for each in patterns]
    found = st.one_of([*matching, padded, *([texts] if not special else [])])
    return found.filter(lambda text: all(check.search(text) for check in checks))


@cache
def _from_regex(pattern: str) -> st.SearchStrategy[str]:
    # Hypothesis only discards what a lookahead excludes, and is slow with long quantifiers.
    if "@" in pattern:
        return st.from_regex(r"\A[!#-'*+./-9=?^-~A-Z]{1,4}@[a-zA-Z0-9.-]{1,6}\.[a-zA-Z]{2,4}\Z")
    if "://" in pattern:
        return st.from_regex(
            r"\A(?:https?|ftps?)://(?:[a-zA-Z0-9.-]{1,6}\.[a-zA-Z]{2,4}|localhost|1\.2\.3\.[0-9]{1,3})"
            r"(?::[0-9]{1,6})?(?:[/?#][!-~]{0,6})?\Z"
        )
    if "0|[1-9]" not in pattern:
        return st.from_regex(pattern)
    limits = st.sampled_from([1, 20, 2000, 10**9])
    numbers = limits.flatmap(lambda most: st.decimals(-most, most, allow_nan=False, places=4))
    digits = st.integers(-1, 4)
    return st.builds(lambda number, count: _shortened(format(number, "f"), count), numbers, digits)


def _shortened(number: str, count: int) -> str:
    integer, _, fraction = number.partition(".")
    return integer if count < 0 else f"{integer}.{fraction[:count]}"


def _integer(schema: Any, document: Any, depth: int) -> st.SearchStrategy[Any]:
    low, high = schema.get("minimum"), schema.get("maximum")
    step = schema.get("multipleOf", 1)
    integers = st.integers(
        None if low is None else -int(-low // step), None if high is None else int(high // step)
    ).map(lambda number: number * step)
    bounds = [int(each) for each in (low, high) if each is not None]
    return integers | integers.map(_as_float) | st.sampled_from([*bounds, 0, 1, 5])


def _as_float(number: int) -> Any:
    return float(number) if abs(number) < 2**53 else number


def _number(schema: Any, document: Any, depth: int) -> st.SearchStrategy[Any]:
    low, high = schema.get("minimum"), schema.get("maximum")
    floats = st.floats(low, high, allow_nan=False, allow_infinity=False)
    return floats | st.sampled_from([0, 1, -5, 10**30, *(each for each in (low, high) if each)])


def _array(schema: Any, document: Any, depth: int) -> st.SearchStrategy[Any]:
    if depth <= 0:
        return st.just([])
    items = _values(schema.get("items", {"$ref": "#/$defs/Json"}), document, depth - 1)
    return st.lists(items, min_size=schema.get("minItems", 0), max_size=3)


def _object(schema: Any, document: Any, depth: int) -> st.SearchStrategy[Any]:
    found: list[st.SearchStrategy[Any]] = []
    if "properties" in schema:
        inner = {
            name: _values(each, document, depth) for name, each in schema["properties"].items()
        }
        required = {name: inner.pop(name) for name in schema.get("required", ())}
        found.append(st.fixed_dictionaries(required, optional=inner))
    elif depth > 0:
        extra = schema.get("additionalProperties", {"$ref": "#/$defs/Json"})
        values = _values(extra, document, depth - 1)
        found.append(st.dictionaries(st.text(), values, max_size=3))
    else:
        found.append(st.just({}))
    return reduce(lambda one, other: one | other, found)


_KINDS = {
    "null": lambda schema, document, depth: st.none(),
    "boolean": lambda schema, document, depth: st.booleans(),
    "integer": _integer,
    "number": _number,
    "string": _string,
    "array": _array,
    "object": _object,
}
