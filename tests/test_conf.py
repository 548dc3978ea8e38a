"""Settings: validation by check and at start, effect of ``override_settings()``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application as django_get_wsgi_application
from django.test import override_settings

from django_wsmux import conf, wsgi
from django_wsmux.test import WebSocketClient


def test_the_projects_settings_are_right() -> None:
    """The checks find nothing wrong with the settings of the tests."""
    assert list(conf.problems()) == []


def test_options_follow_override_settings() -> None:
    """A changed limit applies to the next connection, until the override ends."""
    default = conf.options().max_message_size
    with override_settings(WEBSOCKET_MAX_MESSAGE_SIZE=17):
        assert conf.options().max_message_size == 17
    assert conf.options().max_message_size == default == 2**20


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WEBSOCKET_URLCONF", None, "is not set: name the module"),
        ("WEBSOCKET_URLCONF", 7, "must be the dotted path of a module, not 7"),
        ("WEBSOCKET_URLCONF", "no.such", "'no.such' cannot be imported: ModuleNotFoundError"),
        ("WEBSOCKET_URLCONF", "tests.support", "'tests.support' has no list named urlpatterns"),
        ("WEBSOCKET_SERVER", None, "must be a string"),
        ("WEBSOCKET_SERVER", "http://example.com", 'must start with "ws://" or "wss://"'),
        ("WEBSOCKET_SERVER", "wss://", 'must start with "ws://" or "wss://"'),
        ("WEBSOCKET_ALLOWED_ORIGINS", "https://example.com", "must be a list of origins"),
        (
            "WEBSOCKET_ALLOWED_ORIGINS",
            ["example.com"],
            "match no origin: 'example.com' has no scheme",
        ),
        (
            "WEBSOCKET_ALLOWED_ORIGINS",
            ["null", "http://a:*", "http://a/"],
            "'http://a:*' has a wildcard",
        ),
        (
            "WEBSOCKET_ALLOWED_ORIGINS",
            ["http://a:*", "http://a/"],
            "; 'http://a/' has something after",
        ),
        ("WEBSOCKET_REQUIRE_ORIGIN", "yes", "must be True or False, not 'yes'"),
        ("WEBSOCKET_TICKET_SECONDS", 0, "must be a number of seconds, 0.1 or more, not 0"),
        ("WEBSOCKET_TICKET_CACHE", "tickets", "must be one of CACHES, 'default', not 'tickets'"),
        ("WEBSOCKET_TICKET_CACHE", ["default"], "must be one of CACHES"),
        ("WEBSOCKET_TOKEN_TIMEOUT", None, "must be a number of seconds"),
        ("WEBSOCKET_COMPRESSION", 1, "must be True, False or a dict of options, not 1"),
        ("WEBSOCKET_COMPRESSION", {"level": 10}, "has level 10: it must be a whole number from 1"),
        ("WEBSOCKET_COMPRESSION", {"window_bits": "9"}, "has window_bits '9'"),
        ("WEBSOCKET_COMPRESSION", {"speed": 1}, "has an unknown option 'speed': the options are t"),
        ("WEBSOCKET_COMPRESSION", {"context_takeover": 1}, "has context_takeover 1"),
        ("WEBSOCKET_HISTORY", ["room.*"], "must be a dict of patterns, not ['room.*']"),
        ("WEBSOCKET_HISTORY", {"": {"messages": 1, "seconds": 1}}, "has the key ''"),
        ("WEBSOCKET_HISTORY", {7: {"messages": 1, "seconds": 1}}, "has the key 7"),
        ("WEBSOCKET_HISTORY", {"a": 200}, " for 'a', not 200"),
        ("WEBSOCKET_HISTORY", {"a": {"messages": 1}}, " for 'a', not {'messages': 1}"),
        (
            "WEBSOCKET_HISTORY",
            {"a": {"messages": 1, "seconds": 1, "size": 1}},
            "has an unknown limit 'size' for 'a': they are messages, seconds, bytes",
        ),
        (
            "WEBSOCKET_HISTORY",
            {"a": {"messages": 0, "seconds": 1}},
            "has messages 0 for 'a': it must be a whole number above 0, at most 1000000000",
        ),
        ("WEBSOCKET_HISTORY", {"a": {"messages": 1.5, "seconds": 1}}, "a whole number above 0"),
        (
            "WEBSOCKET_HISTORY",
            {"a": {"messages": 1, "seconds": float("inf")}},
            "has seconds inf for 'a': it must be a number above 0",
        ),
        ("WEBSOCKET_HISTORY", {"a": {"messages": 1, "seconds": float("nan")}}, "has seconds nan"),
        ("WEBSOCKET_HISTORY", {"a": {"messages": 1, "seconds": True}}, "has seconds True"),
        (
            "WEBSOCKET_HISTORY",
            {"a": {"messages": 1, "seconds": 1, "bytes": -1}},
            "has bytes -1 for 'a'",
        ),
        ("WEBSOCKET_HISTORY_STORE", "disk://", "cannot be used: unknown backend 'disk'"),
        ("WEBSOCKET_HISTORY_BYTES", 0, "must be a number of bytes, 1 or more, not 0"),
        ("WEBSOCKET_HISTORY_LIMIT", 0, "must be a number of messages, 1 or more, not 0"),
        ("WEBSOCKET_MAX_MESSAGE_SIZE", 0, "must be a number of bytes, 1 or more, not 0"),
        ("WEBSOCKET_MAX_MESSAGE_SIZE", True, "must be a number of bytes"),
        ("WEBSOCKET_MAX_MESSAGE_SIZE", 1.5, "must be a number of bytes"),
        ("WEBSOCKET_MAX_UNREAD_MESSAGES", -1, "must be a number of messages"),
        ("WEBSOCKET_MAX_UNSENT_BYTES", "1", "must be a number of bytes"),
        ("WEBSOCKET_MAX_SOCKETS", 0, "must be a number of sockets, 1 or more, not 0"),
        ("WEBSOCKET_MAX_SOCKETS_PER_ADDRESS", "9", "must be a number of sockets"),
        ("WEBSOCKET_MAX_SOCKETS_PER_USER", 1.5, "must be a number of sockets"),
        ("WEBSOCKET_TRUSTED_PROXIES", None, "must be a number of proxies, 0 or more, not None"),
        ("WEBSOCKET_MAX_MESSAGES_PER_SECOND", 0, "must be a number of messages, 1 or more"),
        ("WEBSOCKET_CLOSE_TIMEOUT", -0.5, "must be a number of seconds, 0 or more"),
        ("WEBSOCKET_ACCESS_LOG_FORMAT", 1, "must be a string or None, not 1"),
        (
            "WEBSOCKET_ACCESS_LOG_FORMAT",
            "%(path)s",
            "KeyError: 'path'; the names in %(name)s are",
        ),
        ("WEBSOCKET_ACCESS_LOG_FORMAT", "%(h)d", "cannot be used: TypeError"),
    ],
)
def test_bad_value(name: str, value: Any, said: str) -> None:
    """A bad value stops the server with an error that names the setting and says what to change."""
    with (
        override_settings(**{name: value}),
        pytest.raises(ImproperlyConfigured, match=f"^{name} ") as caught,
    ):
        wsgi.get_wsgi_application()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "start",
    [
        wsgi.get_wsgi_application,
        wsgi.get_wsgi_websocket_application,
        lambda: wsgi.WebSocketDispatcher(django_get_wsgi_application()),
        lambda: WebSocketClient().websocket("/echo/"),
    ],
)
def test_app_is_not_installed(start: Callable[[], object]) -> None:
    """Nothing starts without the app, as sockets would outlive their sessions."""
    apps = [name for name in settings.INSTALLED_APPS if name != "django_wsmux"]
    with (
        override_settings(INSTALLED_APPS=apps),
        pytest.raises(ImproperlyConfigured, match=r'INSTALLED_APPS = \["django_wsmux", \*INST'),
    ):
        start()


@pytest.mark.parametrize("value", ["", "ws.example.com:8001", "wss://ws.example.com"])
def test_good_server(value: str) -> None:
    """``WEBSOCKET_SERVER`` may have a scheme or not, and may be empty."""
    with override_settings(WEBSOCKET_SERVER=value):
        conf.require_valid()


def test_module_as_urlconf() -> None:
    """Like ROOT_URLCONF, WEBSOCKET_URLCONF may be the module itself."""
    from tests.project import websocket_urls

    with override_settings(WEBSOCKET_URLCONF=websocket_urls):
        conf.require_valid()
