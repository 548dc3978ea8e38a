"""Turns of event views: what C does with a message is what Python does."""

from __future__ import annotations

import random

import pytest

from django_wsmux.connection import turns
from tests.implementations import run_alone

WHY = "there was no compiler when the package was installed"


def test_histogram() -> None:
    """C counts a call in the same bucket as Python."""
    compiled = pytest.importorskip("django_wsmux.connection._reactor", reason=WHY)
    bounds = turns.HANDLER_BOUNDS
    seconds = [*bounds, *(each * 1.001 for each in bounds), 0.0, 1e9]
    seconds += [10 ** random.uniform(-4, 2) for _ in range(100)]
    for name, handled, handler_calls in (
        ("C", compiled.handled, compiled.handler_calls),
        ("Python", turns._handled, turns._handler_calls),
    ):
        before, earlier = handler_calls()
        for each in seconds:
            handled(each)
        after, later = handler_calls()
        grown = [new - old for old, new in zip(before, after, strict=True)]
        within = [sum(each <= bound for each in seconds) for bound in bounds]
        assert [sum(grown[: n + 1]) for n in range(len(bounds))] == within, name
        assert sum(grown) == len(seconds), name
        assert later - earlier == pytest.approx(sum(seconds)), name


#: Hooks that log what reaches Python, in a greenlet whose contexts are prepared.
HOOKS = """
import contextvars
import gevent
from greenlet import getcurrent
from django_wsmux.connection import link, tracing
from django_wsmux.connection.interfaces import MARK
from django_wsmux.connection.turns import CONTEXTS, ViewHooks, handler_calls

log = []
variable = contextvars.ContextVar("variable")

class Hooks(ViewHooks):
    __slots__ = ()

    def _handle(self, websocket, message):
        log.append(("handle", websocket, message))

    def _finish(self, websocket, function, result, error, context):
        assert function == (None if error else self.view.receive)
        log.append(("finish", websocket, result, repr(error), context.get(variable)))

class View:
    def receive(self, message):
        log.append((message, variable.get(None)))
        variable.set(message)
        if message == "crash":
            raise ValueError("it broke")
        if message == "mark":
            setattr(getcurrent(), MARK, True)
        return 5 if message == "five" else None

class Session:
    modified = False

class Around:
    is_default = False

around = Around()
hooks = Hooks()
hooks.view, hooks.request_context = View(), around

def took(message):
    log.clear()
    assert hooks.receive("socket", message) is None
    return log

def prepare():
    prepared = contextvars.Context()
    prepared.run(variable.set, "prepared")
    setattr(getcurrent(), CONTEXTS, {around: prepared})

prepare()
PYTHON = [("handle", "socket", "hi")]
assert took("hi") == PYTHON  # before adopt()
link.adopt(gevent.get_hub(), bytearray(10), MARK, None)
"""


def run(program: str) -> None:
    """Run a program in a process of its own."""
    assert not run_alone(HOOKS + program)


@pytest.fixture
def _compiled() -> None:
    pytest.importorskip("django_wsmux.connection._reactor", reason=WHY)


@pytest.mark.usefixtures("_compiled")
def test_common() -> None:
    """C calls the view in a copy of the prepared context, or in a new one, and counts it."""
    run("""
before = sum(handler_calls()[0])
assert took("hi") == [("hi", "prepared")]
assert took("hi again") == [("hi again", "prepared")]
assert variable.get(None) is None
assert sum(handler_calls()[0]) == before + 2
hooks.session = Session()
assert took("hi") == [("hi", "prepared")]
around.is_default = True
assert took("hi") == [("hi", None)]
assert took("hi") == [("hi", None)]
""")


@pytest.mark.usefixtures("_compiled")
def test_before() -> None:
    """Python handles a message that needs something first."""
    run("""
del getcurrent().__dict__[CONTEXTS]
assert took("hi") == PYTHON
prepare()
for other in (Around(), object(), None):
    hooks.request_context = other
    assert took("hi") == PYTHON
hooks.request_context = around
tracing.tracer = object()
assert took("hi") == PYTHON
tracing.tracer = None
setattr(getcurrent(), MARK, True)
assert took("hi") == PYTHON
delattr(getcurrent(), MARK)
assert took("hi") == [("hi", "prepared")]
gevent.spawn(lambda: log.append(took("hi") == PYTHON)).join()
assert log[-1] is True
""")


@pytest.mark.usefixtures("_compiled")
def test_after() -> None:
    """Python does what is left to do afterwards."""
    run("""
assert took("five") == [("five", "prepared"), ("finish", "socket", 5, "None", "five")]
error = "ValueError('it broke')"
assert took("crash") == [("crash", "prepared"), ("finish", "socket", None, error, "crash")]
assert took("mark")[1:] == [("finish", "socket", None, "None", "mark")]
delattr(getcurrent(), MARK)
hooks.session = Session()
hooks.session.modified = True
assert took("hi")[1:] == [("finish", "socket", None, "None", "hi")]

class Broken:
    @property
    def modified(self):
        raise ValueError("a session's bug")

hooks.session = Broken()
assert took("hi")[1:] == [("finish", "socket", None, "None", "hi")]
""")


@pytest.mark.usefixtures("_compiled")
def test_during() -> None:
    """The view may wait, end the conversation, and handle another message meanwhile."""
    run("""
class Waiting(View):
    def receive(self, message):
        hooks.view = hooks.session = hooks.request_context = None
        getcurrent().__dict__.clear()
        gevent.sleep(0.01)
        log.append(message)

hooks.view = Waiting()
assert took("hi") == ["hi"]

class Nested(View):
    def receive(self, message):
        super().receive(message)
        if message == "outer":
            hooks.receive("socket", "inner")
            super().receive("outer")

prepare()
hooks.view, hooks.request_context = Nested(), around
assert took("outer") == [("outer", "prepared"), ("inner", "prepared"), ("outer", "outer")]
""")


def test_arguments() -> None:
    """Wrong arguments of C's functions are errors."""
    compiled = pytest.importorskip("django_wsmux.connection._reactor", reason=WHY)

    class Unready(turns.Pool):
        def _grow(self) -> bool:
            return False

    with pytest.raises(TypeError):
        compiled.ViewHooks().receive("socket")
    with pytest.raises(TypeError):
        compiled.adopt_pool(5)
    with pytest.raises(TypeError):
        compiled.adopt_views("name", object())
    with pytest.raises(TypeError):
        compiled.Pool(object(), [], 1)
    for kind in (compiled.Pool, Unready):
        with pytest.raises(AttributeError):
            kind.__new__(kind).start(print)
