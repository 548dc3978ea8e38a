"""The decorators of function views: which functions they take."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync

from django_wsmux.auth import bearer, first_message
from django_wsmux.decorators import websocket, websocket_loop
from tests.handlers.test_callables import coroutine


@pytest.mark.parametrize("function", [async_to_sync(coroutine), lambda *args: None, print])
def test_plain_functions(function: Any) -> None:
    """Plain callables are accepted, also those that run an event loop."""
    websocket(function)
    websocket_loop(function)
    bearer(function)


def test_arguments_of_functions() -> None:
    """The same holds for a view without request, and for lookups."""
    with pytest.raises(TypeError, match=r"is called with \(request, websocket, \.\.\.\)"):
        websocket(lambda websocket: None)
    with pytest.raises(TypeError, match=r"is called with \(request, websocket, \.\.\.\)"):
        websocket_loop(lambda websocket: None)
    with pytest.raises(TypeError, match=r"is called with \(token\)"):
        bearer(lambda: None)  # type: ignore[arg-type, misc]
    with pytest.raises(TypeError, match=r"is called with \(message\)"):
        first_message(lambda request, message: None)  # type: ignore[arg-type, misc]
