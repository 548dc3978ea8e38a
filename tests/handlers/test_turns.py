"""Messages to event views, through C and through Python."""

from __future__ import annotations

from tests.implementations import run_in_each

#: A process in which an event view handles messages of a real socket; ``hooks`` are its hooks, and
#: ``talk()`` returns what the view and the log say to a message.
TURNS = """
from gevent import monkey
monkey.patch_all()
import contextvars, logging
import django, gevent
from django.conf import settings
from django.utils import translation
from gevent import socket
from greenlet import GreenletExit, getcurrent

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    ROOT_URLCONF="django_wsmux.urls",
    SECRET_KEY="secret",
    USE_TZ=True,
)
django.setup()

from django.db import connection as database
from django.test import RequestFactory
from django_wsmux.connection import link, tracing
from django_wsmux.connection.counters import handler_snapshot
from django_wsmux.connection.interfaces import MARK
from django_wsmux.handlers import context
from django_wsmux.handlers.socket import DjangoHooks
from django_wsmux.protocol.options import Options
from django_wsmux.transports.gevent import transport_for
from django_wsmux.transports.streams import detach
from django_wsmux.websocket import WebSocket
from tests.support import frame

log, used = [], set()
variable = contextvars.ContextVar("variable", default=None)

class Handler(logging.Handler):
    def emit(self, record):
        log.append(f"{record.levelname}: {record.getMessage()}")
        if record.exc_info:
            error, calls, traceback = record.exc_info[1], 0, record.exc_info[2]
            while traceback:
                name = traceback.tb_frame.f_code.co_name
                calls, traceback = calls + 1, traceback.tb_next
            log.append(f"{error!r} in {name}()")

logging.getLogger().addHandler(Handler())
logging.getLogger("django.request").addHandler(Handler())

class View:
    keep_request = handover = True
    subprotocols, compression, missed = (), False, None

    def receive(self, message):
        used.add(id(getcurrent()))  # a reference would stop its reuse
        log.append(f"{message} {variable.get()} {translation.get_language()}")
        variable.set("set by a view")
        translation.activate("fr")
        return getattr(self, message, str)() or None

    def disconnect(self, code, reason):
        log.append(f"left {code}")

    def answers(self):
        websocket.send("answer")

    def crashes(self):
        raise ValueError("it broke")

    def exits(self):
        raise GreenletExit

    def returns(self):
        return {"lost": True}

    def yields(self):
        return (each for each in "ab")

    def waits(self):
        gevent.sleep(0.01)
        log.append("waited")

    def connects(self):
        with database.cursor() as cursor:
            cursor.execute("SELECT 1")
        log.append(getattr(getcurrent(), MARK))

    def closes(self):
        websocket.close(4000, "enough")

def opened():
    global websocket, hooks, peer
    hooks = DjangoHooks(RequestFactory().get("/socket/"))
    hooks.view, hooks.address, hooks.opened_at = View(), "", 0.0
    with translation.override("de"):
        hooks.request_context = context.named()
    options = Options(blocked_warning=0, close_timeout=1)
    websocket = WebSocket({"PATH_INFO": "/socket/"}, options, hooks)
    ours, peer = socket.socketpair()
    websocket.opened(transport_for(detach(ours), websocket), b"", b"")
    websocket.serve()

def settle():
    for _ in range(10):
        gevent.sleep(0)
    while websocket._is_busy and not websocket.closed:
        gevent.sleep(0.001)

def talk(message):
    log.clear()
    peer.sendall(frame(0x81, message.encode()))
    while not log:
        gevent.sleep(0.001)
    settle()
    return log

opened()
"""


def test_turns() -> None:
    """C and Python call an event view alike, and do the same before and after."""
    program = """
first = handler_snapshot()["handler_calls"]
for message in ("hi", "hi", "hi"):
    assert talk(message) == ["hi None de"], log
assert len(used) == 1
assert handler_snapshot()["handler_calls"] == first + 3
assert websocket.traffic.messages_in == 3

assert talk("answers") == ["answers None de"], log
assert peer.recv(100) == b"\\x81\\x06answer"
assert talk("waits") == ["waits None de", "waited"], log

warning = (
    "WARNING: __main__.View.receive returned a value of type dict, which is not sent: call send() "
    "or send_json(), or close() to end the socket"
)
assert talk("returns") == ["returns None de", warning], log
assert not websocket.closed

assert talk("connects") == ["connects None de", True], log
for message in ("hi", "hi"):
    assert talk(message) == ["hi None de"], log

class Tracer:
    def receive(self, websocket, handle, message):
        log.append(f"traced {variable.get()}")
        return handle(message)

tracing.tracer = Tracer()
assert talk("hi") == ["traced None", "hi None de"], log
tracing.tracer = None

class Session:
    modified = True
hooks.session = Session()
talk("hi")
assert log[0] == "hi None de" and log[1].startswith("WARNING: "), log
hooks.session = None

for message, error, place in (
    ("crashes", "ValueError('it broke')", "crashes()"),
    ("exits", "GreenletExit()", "receive()"),
    ("yields", None, None),
):
    talk(message)
    assert log[0] == f"{message} None de", log
    assert log[1] == "ERROR: Internal Server Error: /socket/", log
    assert error is None or log[2].startswith(f"{error} in "), log
    assert websocket.close_code == 1011
    peer.close()
    opened()

with translation.override(settings.LANGUAGE_CODE):
    hooks.request_context = context.named()
assert hooks.request_context.is_default
for message in ("hi", "hi"):
    assert talk(message) == ["hi None en-us"], log

assert talk("closes") == ["closes None en-us", "left 4000"], log
assert hooks.view is None
peer.close()
"""
    run_in_each(TURNS + program, ("C", "Python"))
