"""Messages of htmx: the fields of an HTML form as JSON, answered with HTML.

The extension ``ws`` of htmx 2 sends ``{"text": "hi", "HEADERS": {"HX-Request": "true"}}``, and
``hx-ws`` of htmx 4 sends ``{"text": "hi", "headers": {"HX-Request": "true"}}``. The fields may also
be in ``body``, beside ``headers``. A field with several values is a list.

Processes whose clients do not use htmx do not import this module.
"""

from __future__ import annotations

import json
from typing import Any, Final

from django.template.loader import get_template
from django.utils.datastructures import MultiValueDict

from ..connection.websocket import WebSocket
from ..protocol.handshake import V1
from ..requests import current

__all__ = ["Fields", "fields_of", "send_form"]

#: The keys of the headers, and the version of htmx that has them.
_VERSIONS: Final = {"HEADERS": 2, "headers": 4}


class Fields(MultiValueDict[str, str]):
    """The fields of a message of htmx, like the data of an HTML form: all values are texts.

    So a form with any values can be rendered again. Other values, which come from ``hx-vals``,
    become JSON: ``true`` is ``"true"``.

    Args:
        message: the fields as they were sent.
        version: of htmx: 2 or 4.

    Attributes:
        message, version: the arguments.
    """

    def __init__(self, message: dict[str, Any], version: int) -> None:
        self.message = message
        self.version = version
        super().__init__(
            {
                name: [_as_text(each) for each in (value if type(value) is list else [value])]
                for name, value in message.items()
                if value is not None
            }
        )


def _as_text(value: Any) -> str:
    text = value if type(value) is str else json.dumps(value)
    # JSON allows "\ud800", which cannot be encoded.
    return text.encode(errors="replace").decode()


def fields_of(message: dict[str, Any]) -> Fields | None:
    """Return the fields of a message that htmx has sent; ``None`` for any other message.

    Example:
        >>> fields_of({"to": ["ann", "bob"], "HEADERS": {"HX-Request": "true"}}).getlist("to")
        ['ann', 'bob']
    """
    for key in _VERSIONS:
        headers = message.get(key)
        if type(headers) is dict and headers.get("HX-Request") == "true":
            break
    else:
        return None
    version = _VERSIONS[key]
    body = message.get("body") if version == 4 else None
    found = body if type(body) is dict else message
    return Fields({name: value for name, value in found.items() if name != key}, version)


def send_form(websocket: WebSocket, template_name: str, context: dict[str, Any]) -> None:
    """Render the template of a form and send it to one socket.

    If the message that the view handles has a ``ref``, and the client can read it, this is the
    answer to it.

    Args:
        websocket: the socket.
        template_name: the template.
        context: its variables; ``form`` is the form.

    Raises:
        TemplateDoesNotExist: there is no such template.
        ConnectionClosed: the socket is closed.
    """
    html: str = get_template(template_name).render(context)
    request = current(websocket)
    version = getattr(context["form"], "htmx_version", None)
    if request is None or request.ref is None:
        websocket.send_html(html)
    elif websocket.subprotocol == V1 or version == 4 or request.keep is not None:
        request.html(html)
    else:
        # htmx 2 does not parse JSON.
        request.is_answered = True
        websocket.send_html(html)
