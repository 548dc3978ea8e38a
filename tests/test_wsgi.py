"""The applications for ``wsgi.py``."""

from __future__ import annotations

from typing import Any

import pytest

from django_wsmux.wsgi import WebSocketDispatcher, get_wsgi_websocket_application


@pytest.mark.parametrize("arguments", [({"type": "http"},), ({"type": "http"}, print, print)])
def test_asgi(arguments: Any) -> None:
    """A call by an ASGI server gets an error with advice."""
    for application in (WebSocketDispatcher(lambda *args: []), get_wsgi_websocket_application()):
        with pytest.raises(TypeError, match=r"gunicorn -k django_wsmux\.worker\.WebSocketWorker"):
            application(*arguments)
