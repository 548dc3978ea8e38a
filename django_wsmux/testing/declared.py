"""What a view sends, compared with what it declares in ``sends``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from django.http import HttpRequest

from ..protocol.handshake import V1
from .places import view_name

__all__ = ["Declared"]


class Declared:
    """The declarations of the view to which a request was resolved.

    Nothing is imported for a view without ``sends``.

    Args:
        request: the request of the handshake.
        subprotocol: the subprotocol of the socket, or ``None``.
    """

    def __init__(self, request: HttpRequest, subprotocol: str | None) -> None:
        match = request.resolver_match
        view = None if match is None else match.func
        self._view_class: Any = getattr(view, "view_class", None)
        options: Mapping[str, Any] = getattr(view, "view_initkwargs", {})
        self._name = view_name(request)
        self._sends = options.get("sends", getattr(self._view_class, "sends", None))
        self._forms = options.get("forms", getattr(self._view_class, "forms", {}))
        self._is_v1 = subprotocol == V1

    def check(self, message: str | bytes) -> None:
        """Check a message that the client got.

        Binary data, texts that are not JSON, errors and the frames of ``wsmux.v1`` itself are not
        checked.

        Raises:
            AssertionError: its type is not declared, or its fields do not fit.
        """
        if self._sends is None or not isinstance(message, str):
            return
        try:
            value = json.loads(message)
        except ValueError:
            return
        if isinstance(value, dict) and "reply" in value and "ref" in value:
            self._check_reply(value)
        elif isinstance(value, dict) and "errors" in value:
            pass
        elif not self._is_v1:
            self._check_message(value)
        elif "data" in value:
            self._check_message(value["data"])

    def _check_message(self, value: Any) -> None:
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str):
            raise AssertionError(
                f"{self._name} sends {_shortened(value)}, a message without a type: its sends "
                f"declares types"
            )
        described = self._sends.get(kind)
        if described is None:
            known = ", ".join(map(repr, self._sends)) or "none"
            raise AssertionError(
                f"{self._name} sends a message of the type {kind!r}, which its sends does not "
                f"declare (declared: {known})"
            )
        from ..handlers.hints import record_of

        record = record_of(described)
        fields = {name: each for name, each in value.items() if name != "type"}
        if "type" in record.fields:
            fields["type"] = kind
        _require_fit(
            record.check,
            fields,
            f"{self._name} sends a message of the type {kind!r} that does not fit "
            f"{described.__qualname__}",
        )

    def _check_reply(self, value: dict[str, Any]) -> None:
        kind = value.get("type")
        if kind not in self._forms:
            return
        hook = getattr(self._view_class, f"{kind}_valid", None) or self._view_class.form_valid
        from ..handlers.hints import result_of

        check = result_of(hook)
        if check is not None:
            _require_fit(
                check.check,
                value["reply"],
                f"{self._name} replies to {kind!r} with {_shortened(value['reply'])}, which does "
                f"not fit the return annotation of {hook.__name__}()",
            )


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _require_fit(check: Callable[..., Any], value: Any, what: str) -> None:
    """Raise if a value does not fit.

    Args:
        check: see ``json_values.Check.check()``.
        value: the value.
        what: the beginning of the message.
    """
    from ..handlers.json_values import Problems

    problems = Problems(is_complete=True)
    check(value, None, problems)
    if problems.found:
        reasons = "; ".join(
            f"{path}: {' '.join(message for error in errors for message in error.messages)}"
            for path, errors in problems.found.items()
        )
        raise AssertionError(f"{what}: {reasons}")
