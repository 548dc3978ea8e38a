"""The tables of ``docs/codes.rst`` and ``docs/signals.rst`` agree with code and behaviour."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import override_settings
from django.urls import clear_url_caches, path

import django_wsmux
from django_wsmux import checks, conf, signals
from django_wsmux.auth import authentication, bearer, first_message
from django_wsmux.connection import registry
from django_wsmux.connection.counters import COUNTERS, counters
from django_wsmux.decorators import websocket
from django_wsmux.groups.clients import REPLACED
from django_wsmux.groups.users import SIGNED_OUT, disconnect
from django_wsmux.protocol.frames import CloseCode
from django_wsmux.test import ClientWebSocket, HandshakeRefused, WebSocketClient
from django_wsmux.testing.client import close_all
from django_wsmux.views import WebSocketView
from tests.manual import table
from tests.support import ROOT, frame

PACKAGE = Path(django_wsmux.__file__).parent


@websocket
def echo(request: Any, websocket: Any) -> None:
    """Echo each message."""
    for message in websocket:
        websocket.send(message)


@websocket
def brief(request: Any, websocket: Any) -> None:
    """Return at once."""


@websocket
def broken(request: Any, websocket: Any) -> None:
    """Raise."""
    raise ValueError


@websocket
def late(request: Any, websocket: Any) -> Any:
    """Refuse when it is too late."""
    return HttpResponse(status=403)


class Texts(WebSocketView):
    """A view for text messages."""

    def receive_text(self, text: str) -> None:
        """Ignore the message."""


def nobody(token: Any) -> None:
    """Accept no token."""


def ann(token: Any) -> User:
    """Accept every token as Ann's."""
    return User.objects.get(username="ann")


urlpatterns = [
    path("echo/", echo),
    path("brief/", brief),
    path("broken/", broken),
    path("late/", late),
    path("texts/", Texts.as_view()),
    path("first/", authentication(first_message(nobody))(echo)),
    path("ann/", authentication(first_message(ann))(echo)),
    path("bearer/", authentication(bearer(nobody))(echo)),
]


@pytest.fixture(autouse=True)
def sockets() -> Iterator[None]:
    """Use the URLs of this module."""
    with override_settings(WEBSOCKET_URLCONF=__name__):
        yield
        close_all()
    clear_url_caches()


def connect(name: str = "echo", client: WebSocketClient | None = None) -> ClientWebSocket:
    """Open a socket to one of the views above."""
    client = client or WebSocketClient(raise_request_exception=False)
    return client.websocket(f"/{name}/")


def signed_in() -> WebSocketClient:
    """Return a signed-in client."""
    client = WebSocketClient()
    client.force_login(User.objects.get_or_create(username="ann")[0])
    return client


# Close codes


def fed(*frames: bytes, name: str = "echo", **settings: Any) -> int | None:
    """Return the close code after these bytes, with these settings."""
    with override_settings(**settings):
        ws = connect(name)
        transport = ws._peer.transport
        assert transport is not None
        transport.feed(b"".join(frames))
        return ws.close_code


def dropped() -> int | None:
    """Return the close code of a lost connection, as the view sees it."""
    seen: list[int] = []
    signals.websocket_closed.connect(lambda code, **rest: seen.append(code), weak=False)
    transport = connect()._peer.transport
    assert transport is not None
    transport.feed_eof()
    close_all()
    signals.websocket_closed.receivers.pop()
    return seen[0]


def codeless() -> int | None:
    """Return the code of a close frame without one, as the view sees it."""
    seen: list[int] = []
    signals.websocket_closed.connect(lambda code, **rest: seen.append(code), weak=False)
    connect().close(1005)
    close_all()
    signals.websocket_closed.receivers.pop()
    return seen[0]


def one_too_many() -> int | None:
    """Return the close code of a user's second socket, which authenticates by its first message."""
    with override_settings(WEBSOCKET_MAX_SOCKETS_PER_USER=1):
        connect("echo", signed_in())
        ws = connect("ann")
        ws.send("a token")
        return ws.close_code


def disconnected() -> int | None:
    """Return the close code of a user's socket after ``disconnect()``."""
    client = signed_in()
    ws = connect("echo", client)
    disconnect(User.objects.get(username="ann"))
    return ws.close_code


def too_late() -> int | None:
    """Return the close code of a socket whose first message does not arrive."""
    ws = connect("first")
    ws.peek(timeout=conf.get("WEBSOCKET_TOKEN_TIMEOUT"))
    return ws.close_code


def restarted() -> int | None:
    """Return the close code when a process stops."""
    ws = connect()
    registry.close_all(CloseCode.SERVICE_RESTART, "service restart")
    return ws.close_code


TEXT = frame(0x81, b"hello")

#: The beginning of each row, and what causes the close; or, if that takes a server, the test that
#: causes and checks it.
CLOSES: dict[str, Callable[[], int | None] | str] = {
    "1000 the view returns": lambda: connect("brief").close_code,
    "1001 a test with a live": "tests/testing/test_live.py::test_sockets_left_open",
    "1002 the peer breaks": lambda: fed(b"\x81\x05hello"),
    "1002 a compressed": "tests/protocol/test_deflate.py",
    "1003 an event view has no": lambda: fed(frame(0x82, b"\0"), name="texts"),
    "1005 never": codeless,
    "1006 never": dropped,
    "1006 the peer shows no": "tests/connection/test_liveness.py::test_silence_ends",
    "1006 the peer reads none": "tests/functional/test_limits.py::test_send_timeout",
    "1007 text is not": lambda: fed(frame(0x81, b"\xff")),
    "1008 the refusal comes": lambda: connect("late").close_code,
    "1008 an operator closes": "tests/monitoring/test_actions.py::test_close_one",
    "1009 a message is larger": lambda: fed(TEXT, WEBSOCKET_MAX_MESSAGE_SIZE=4),
    "1009 a frame is larger": lambda: fed(TEXT, WEBSOCKET_MAX_FRAME_SIZE=4),
    "1009 a message has more": lambda: fed(
        frame(0x01, b"a"), frame(0x00, b"b"), frame(0x80, b"c"), WEBSOCKET_MAX_FRAGMENTS=2
    ),
    "1011 the view raises": lambda: connect("broken").close_code,
    "1012 the process is": restarted,
    "1012 it has moved": "tests/handlers/test_moving.py::test_failing",
    "1012 another process": "tests/functional/test_handover.py::test_new_code",
    "1012 an operator closes": "tests/monitoring/test_actions.py::test_close_one",
    "1013 the peer exceeds": lambda: fed(TEXT * 3, WEBSOCKET_MAX_MESSAGES_PER_SECOND=1),
    "1013 the peer, or its": "tests/functional/test_limits.py::test_slow_member",
    "1013 the first message": one_too_many,
    "1013 its user or session": "tests/groups/test_closings.py::test_limit",
    "4401 its session ends": disconnected,
    "4401 an operator signs": "tests/monitoring/test_actions.py::test_sign_out",
    "4401 it has moved": "tests/handlers/test_moving.py::test_user_ends",
    "4401 no first message": too_late,
    "4401 the first message": lambda: fed(TEXT, name="first"),
    "4401 the page was made": "tests/handlers/test_realtime.py::test_other",
    "4900 its client has": "tests/handlers/test_realtime.py::test_replaced",
}


def line_for(beginning: str, rows: list[list[str]]) -> list[str]:
    """Return the row of a table that begins with this text."""
    (row,) = (row for row in rows if f"{row[0]} {row[1]}".startswith(beginning))
    return row


def counted(name: str, before: dict[str, int]) -> bool:
    """Return whether the row names no counter, or its counter has increased."""
    return name == "-" or counters[name] > before[name]


def is_shown(test: str, word: str) -> bool:
    """Return whether a test, or a module of tests, contains the word."""
    module, _, function = test.partition("::")
    text = (ROOT / module).read_text()
    if not function:
        return word in text
    tree = ast.parse(text)
    (found,) = (
        each
        for each in ast.walk(tree)
        if isinstance(each, ast.FunctionDef) and each.name == function
    )
    return word in ast.unparse(found)


def test_every_close_code() -> None:
    """The table has every code of the package, and this module every row."""
    rows = table("codes.rst", "code")
    known = {value for name, value in vars(CloseCode).items() if name.isupper()}
    assert {int(row[0]) for row in rows} == known | {SIGNED_OUT, REPLACED}
    assert [line_for(beginning, rows) for beginning in CLOSES] == rows
    assert {row[2] for row in rows} - {"-"} <= COUNTERS.keys()


@pytest.mark.django_db
@pytest.mark.parametrize("beginning", CLOSES)
def test_close(beginning: str) -> None:
    """The close code and the counter of a row are right."""
    row = line_for(beginning, table("codes.rst", "code"))
    how = CLOSES[beginning]
    if isinstance(how, str):
        assert is_shown(how, row[0]) or is_shown(how, row[2]), how
    else:
        before = dict(counters)
        assert how() == int(row[0])
        assert counted(row[2], before)


# Handshakes


def refused(
    *arguments: Any, name: str = "echo", settings: dict[str, Any] | None = None, **extra: Any
) -> int:
    """Return the status of a refused handshake."""
    with override_settings(**(settings or {})), pytest.raises(HandshakeRefused) as error:
        WebSocketClient(raise_request_exception=False).websocket(f"/{name}/", *arguments, **extra)
    return int(error.value.response.status_code)


def one_more(setting: str, client: WebSocketClient) -> int:
    """Return the status of a second handshake when the limit is one socket."""
    with override_settings(**{setting: 1}):
        connect("echo", client)
        with pytest.raises(HandshakeRefused) as error:
            connect("echo", client)
    return int(error.value.response.status_code)


def ending() -> int:
    """Return the status of a handshake while the process stops."""
    registry.refuse_handshakes()
    try:
        return refused()
    finally:
        registry.stopping.clear()


REFUSALS: dict[str, Callable[[], int] | str] = {
    "400 it is no": lambda: refused(headers={"Sec-WebSocket-Key": "short"}),
    "400 Host": lambda: refused(
        HTTP_HOST="evil.example", settings={"ALLOWED_HOSTS": ["site.example"]}
    ),
    "401, 403 a ticket": lambda: refused(["bearer", "guess"], name="bearer"),
    "403 it comes": lambda: refused(origin="https://evil.example"),
    "405 it is not": lambda: refused(REQUEST_METHOD="POST"),
    "408 our worker": "tests/functional/test_limits.py::test_handshake_timeout",
    "426 its version": lambda: refused(headers={"Sec-WebSocket-Version": "8"}),
    "426 a plain request": "tests/functional/test_workers.py::test_sockets_only",
    "429 WEBSOCKET_MAX_SOCKETS_PER_A": lambda: one_more(
        "WEBSOCKET_MAX_SOCKETS_PER_ADDRESS", WebSocketClient()
    ),
    "429 WEBSOCKET_MAX_SOCKETS_PER_U": lambda: one_more(
        "WEBSOCKET_MAX_SOCKETS_PER_USER", signed_in()
    ),
    "501 this server's": "tests/functional/test_workers.py::test_blocking_workers",
    "503 WEBSOCKET_MAX_SOCKETS is": lambda: one_more("WEBSOCKET_MAX_SOCKETS", WebSocketClient()),
    "503 the process": ending,
}


def test_every_refusal() -> None:
    """This module has every row of the table."""
    rows = table("codes.rst", "status")
    assert [line_for(beginning, rows) for beginning in REFUSALS] == rows
    assert {row[2] for row in rows} - {"-"} == {
        name
        for name in COUNTERS
        if name.startswith("refused_") or name in ("authentication_failed", "handshake_timed_out")
    }


@pytest.mark.django_db
@pytest.mark.parametrize("beginning", REFUSALS)
def test_refusal(beginning: str) -> None:
    """The status and the counter of a row are right."""
    row = line_for(beginning, table("codes.rst", "status"))
    how = REFUSALS[beginning]
    if isinstance(how, str):
        assert is_shown(how, row[0]), how
    else:
        before = dict(counters)
        assert str(how()) in row[0]
        assert counted(row[2], before)


# Signals, checks, log

MODULES = {module: ast.parse(module.read_text()) for module in sorted(PACKAGE.rglob("*.py"))}


def test_signals() -> None:
    """The table has each signal with its arguments."""
    sent: dict[str, list[str]] = {}
    for tree in MODULES.values():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            function = ast.unparse(node.func)
            name = function.removesuffix(".send_robust")
            if function == "notify":
                name = ast.unparse(node.args[0])
            if name in signals.__all__:
                given = [str(keyword.arg) for keyword in node.keywords]
                assert sent.setdefault(name, given) == given
    rows = table("signals.rst", "signal")
    assert sorted(row[0] for row in rows) == signals.__all__
    for name, arguments, _ in rows:
        assert arguments.split(", ") == sent[name]


def test_checks() -> None:
    """The table has each check of the code, with its level."""
    levels: dict[str, str] = {}
    names = ("checks.py", "view_checks.py", "history/checks.py")
    modules = [MODULES[PACKAGE / name] for name in names]
    for node in chain.from_iterable(map(ast.walk, modules)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Error", "Warning"):
            found = re.findall(r"'django_wsmux\.(\w+)'", ast.unparse(node))
            levels |= dict.fromkeys(found, ast.unparse(node.func))
    rows = table("signals.rst", "django_wsmux.")
    assert {row[0]: {"E": "Error", "W": "Warning"}[row[0][0]] for row in rows} == levels
    summary = re.sub(r"\n +", " ", (checks.__doc__ or "").replace("``", ""))
    for name, what in rows:
        assert re.search(rf"^{name} +{re.escape(what)}$", summary, re.MULTILINE)


#: Loggers of other packages; the page lists them below the table.
OTHERS = {"gunicorn.access", "django.server"}

LEVELS = {"info": "INFO", "warning": "WARNING", "error": "ERROR", "exception": "ERROR"}


def logged() -> Iterator[tuple[str, str, str]]:
    """Yield logger, level and line for each logging call of the package."""
    for module, tree in MODULES.items():
        loggers = dict(
            re.findall(
                r'^(\w+) = (?:logging\.getL|get_l)ogger\("(.+)"\)$',
                module.read_text(),
                re.MULTILINE,
            )
        )
        loggers |= {"self.log": "gunicorn.error", "self._log": "gunicorn.error"}
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            name = loggers.get(ast.unparse(node.func.value))
            if name in OTHERS or name is None or node.func.attr not in LEVELS:
                continue
            assert isinstance(node.args[0], ast.Constant), f"{module}: {ast.unparse(node)}"
            yield name, LEVELS[node.func.attr], str(node.args[0].value)


def test_log() -> None:
    """The table has each line that the package logs, and no other."""
    rows = table("signals.rst", "logger")
    expected = [(name, level, re.sub(r"%[.\d]*\w", "...", line)) for name, level, line in logged()]
    expected = [
        (name, level, line.replace("......", "...").replace("\n", " "))
        for name, level, line in expected
    ]
    for name, level, line in rows:
        # Take the closest match: a line may begin like another.
        fits = [each for each in expected if each[:2] == (name, level) and same(line, each[2])]
        assert fits, line
        expected.remove(min(fits, key=lambda each: len(each[2])))
    # The same text in two modules is one row.
    told = {(name, level, line) for name, level, line in rows}
    assert set(expected) <= told


def same(told: str, line: str) -> bool:
    """Return whether a row is this line or its beginning."""
    return told == line or (told.endswith(" ...") and line.startswith(told.removesuffix("...")))


def test_loggers_are_importable() -> None:
    """Every logger of the table exists once its module is imported."""
    names = {name for name, _, _ in table("signals.rst", "logger")}
    for module in MODULES:
        for name in re.findall(r'get_?[Ll]ogger\("(.+)"\)', module.read_text()):
            assert name in names | OTHERS
            dotted = ".".join(module.relative_to(PACKAGE.parent).with_suffix("").parts)
            assert importlib.import_module(dotted).logger.name == name
