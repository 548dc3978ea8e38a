"""Messages that are answered: a client sends a ``ref`` and gets a reply or errors with the same.

``{"type": "say", "ref": "k2-17", "text": "hi"}`` is answered by ``{"type": "say", "ref": "k2-17",
"reply": ...}`` or ``{"type": "say", "ref": "k2-17", "errors": ...}``, with any client and any
subprotocol. A message without ``ref`` gets no reply, and its errors have no ``ref``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from math import isinf
from typing import Any, Final, NoReturn

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError

from .connection.websocket import WebSocket
from .exceptions import ConnectionClosed
from .logs import quote

__all__ = [
    "ERRORS",
    "RateLimited",
    "Request",
    "current",
    "handle",
    "parse",
    "requests_of",
    "send_errors",
]

#: Messages of the errors with which this package answers by itself, by their codes.
ERRORS: Final = {
    "invalid_json": "This is not valid JSON.",
    "invalid_message": "A message must be a JSON object.",
    "invalid_ref": "ref must be a text of at most 64 characters, or an integer.",
    "ref_reused": "Another message was sent with this ref.",
    "rate_limited": "There were too many messages of this type.",
    "unavailable": "This is not possible at the moment.",
    "unknown": "It is not known whether this was done.",
    "unknown_type": "The message's type is not known.",
}

#: Maximum number of characters of a ``ref``.
_MOST_REF: Final = 64

#: Integers beyond it are not a ``ref``.
_LARGEST_REF: Final = 2**63

#: Maximum number of characters of a ``type`` that is sent back.
_MOST_TYPE: Final = 200


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    found = float(text)
    if isinf(found):
        raise ValueError("a number is too large")
    return found


#: Parses JSON without ``NaN`` and ``Infinity``, which Python would accept, and without numbers such
#: as ``1e999``, which Python would turn into ``Infinity``: they could not be sent on. Raises
#: ``ValueError`` or ``RecursionError``.
parse: Final = json.JSONDecoder(parse_float=_float, parse_constant=_refuse_constant).decode


class RateLimited(ValidationError):
    """A socket has sent too many messages of a type.

    Attributes:
        retry_after: seconds until the next one may come.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__(ERRORS["rate_limited"], "rate_limited")
        self.retry_after = retry_after


class Request:
    """A message whose sender may expect an answer.

    ``websocket.requests()`` yields them::

        @websocket
        def rooms(request, websocket):
            for message in websocket.requests():
                if message.type == "join":
                    message.reply({"members": join(message.data["room"])})
                else:
                    message.error("There is no such message.", code="unknown_type")

    Attributes:
        websocket: the socket that it came from.
        type: its ``type``; ``""`` if it has no text of that name, which happens in class-based
            views only.
        data: the whole message.
        ref: what the answer refers to: a text of at most 64 characters, or an integer of 64 bits.
            ``None`` if the client expects no answer.
        is_answered: whether ``reply()`` or ``error()`` was called.
        keep: for internal use. Called before an answer is sent: with its text, or with ``None`` if
            the message came too early and was not handled.
    """

    __slots__ = ("data", "is_answered", "keep", "ref", "type", "websocket")

    def __init__(self, websocket: WebSocket, data: dict[str, Any]) -> None:
        kind, ref = data.get("type"), data.get("ref")
        self.websocket = websocket
        self.type: str = kind if isinstance(kind, str) else ""
        self.data = data
        self.ref: str | int | None = ref if _is_ref(ref) else None
        self.is_answered = False
        self.keep: Callable[[str | None], None] | None = None

    def __repr__(self) -> str:
        return f"<Request {quote(self.type)} {self.ref!r}>"

    def reply(self, value: Any = None) -> None:
        """Send the reply; does nothing if the client expects none.

        Args:
            value: anything that the encoder of ``WEBSOCKET_JSON_ENCODER`` can encode.

        Raises:
            TypeError: the value cannot be encoded as JSON.
            RuntimeError: the message is already answered.
            ConnectionClosed: the socket is closed.
        """
        self._require_unanswered()
        if self.ref is None:
            self.is_answered = True
            return
        try:
            text = self.answer("reply", value)
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(
                f"the reply to {quote(self.type)} is not JSON: {error}; see WEBSOCKET_JSON_ENCODER"
            ) from error
        self._send(text)

    def error(self, errors: Any, code: str = "") -> None:
        """Send errors, also if the message has no ``ref``.

        Args:
            errors: the ``errors`` of a form; a text; or anything else that
                ``django.core.exceptions.ValidationError`` takes, such as a dict of texts by field.
            code: the code of an error that is given as a text.

        Raises:
            RuntimeError: the message is already answered.
            ConnectionClosed: the socket is closed.

        Example::

            form = SayForm(message.data)
            if form.is_valid():
                message.reply(say(form.cleaned_data))
            else:
                message.error(form.errors)
        """
        self._require_unanswered()
        text = self.answer("errors", _as_data(errors, code), **_additions(errors))
        self._send(text, is_final=not isinstance(errors, RateLimited))

    def refuse(self, code: str) -> None:
        """Send one of the errors of this package; for internal use."""
        self.error(ERRORS[code], code)

    def html(self, html: str) -> None:
        """Send HTML as the answer; for internal use."""
        self._require_unanswered()
        self._send(self.answer("content", html))

    def answer(self, key: str, value: Any, **more: Any) -> str:
        """Return the text of an answer; for internal use.

        Args:
            key: ``"reply"``, ``"errors"`` or ``"content"``.
            value: its value.
            more: values that follow it.
        """
        answer: dict[str, Any] = {}
        if self.type and len(self.type) <= _MOST_TYPE:
            answer["type"] = self.type
        if self.ref is not None:
            answer["ref"] = self.ref
        answer |= {key: value, **more}
        # Parsers of JSON refuse NaN and Infinity.
        return self.websocket.hooks.dump_json(answer, allow_nan=False)

    def _require_unanswered(self) -> None:
        if self.is_answered:
            raise RuntimeError(f"{self!r} is already answered")

    def _send(self, text: str, *, is_final: bool = True) -> None:
        self.is_answered = True
        if self.keep is not None:
            self.keep(text if is_final else None)
        self.websocket.send_bare(text)


#: The request that a class-based view handles. A helper of the view has none.
_current: Final[ContextVar[Request | None]] = ContextVar("django_wsmux_request", default=None)


def current(websocket: WebSocket) -> Request | None:
    """Return the request of a socket that its view handles now, unless it is answered."""
    request = _current.get()
    if request is None or request.websocket is not websocket or request.is_answered:
        return None
    return request


def handle(request: Request, receive: Callable[[dict[str, Any]], Any]) -> None:
    """Have a class-based view handle a request, and answer it.

    Args:
        request: the request.
        receive: called with the message; returns the reply, unless it answers by itself.
    """
    token = _current.set(request)
    try:
        reply = receive(request.data)
        if not request.is_answered:
            request.reply(reply)
    except ValidationError as error:
        if request.is_answered:
            # As without a ref: a peer does not decide whether this is an error of the view.
            more = {"type": request.type} if request.type else {}
            send_errors(request.websocket, error, **more)
        else:
            request.error(error)
    finally:
        _current.reset(token)


def _is_ref(value: object) -> bool:
    """Return whether a value may be a ``ref``: a short text, or an integer of 64 bits."""
    if type(value) is str:
        return len(value) <= _MOST_REF
    return type(value) is int and -_LARGEST_REF <= value < _LARGEST_REF


def requests_of(websocket: WebSocket) -> Iterator[Request]:
    """Yield the requests of a socket until it is closed; see ``WebSocket.requests()``."""
    for message in websocket:
        try:
            request = _read(websocket, message)
        except ConnectionClosed:
            continue  # the error could not be sent any more
        if request is not None:
            yield request


def _read(websocket: WebSocket, message: str | bytes) -> Request | None:
    """Return a message as a request; answer a malformed one with an error."""
    code = "invalid_message"
    try:
        data = parse(message) if isinstance(message, str) else None
    except (ValueError, RecursionError):
        data, code = None, "invalid_json"
    if not isinstance(data, dict):
        send_errors(websocket, ERRORS[code], code)
        return None
    request = Request(websocket, data)
    if request.ref is None and "ref" in data:
        request.refuse("invalid_ref")
    elif not isinstance(data.get("type"), str):
        request.refuse("unknown_type")
    else:
        return request
    return None


def send_errors(websocket: WebSocket, errors: Any, code: str = "", **more: Any) -> None:
    """Send errors without a ``ref``.

    Args:
        websocket: the socket.
        errors: see ``Request.error()``.
        code: see ``Request.error()``.
        more: values that precede them.
    """
    value = {**more, "errors": _as_data(errors, code), **_additions(errors)}
    websocket.send_bare(websocket.hooks.dump_json(value))


def _additions(errors: Any) -> dict[str, Any]:
    """Return what a frame has beside these errors."""
    return {"retry_after": errors.retry_after} if isinstance(errors, RateLimited) else {}


def _as_data(errors: Any, code: str = "") -> Any:
    """Return errors in the format of ``form.errors.get_json_data()``."""
    if hasattr(errors, "get_json_data"):
        return errors.get_json_data()
    if not isinstance(errors, ValidationError):
        errors = ValidationError(errors, code)
    fields = getattr(errors, "error_dict", None) or {NON_FIELD_ERRORS: errors.error_list}
    return {
        field: [
            {"message": text, "code": error.code or ""}
            for error in found
            for text in error.messages
        ]
        for field, found in fields.items()
    }
