"""Spans of OpenTelemetry for messages: the tracer of ``WEBSOCKET_TRACING``.

The spans follow OpenTelemetry's conventions for messaging:

* A message of a client is a CONSUMER span, ``receive``, or ``receive say`` if the view declares the
  type ``say``. It begins a trace, since a span as long as the socket would be of no use, and links
  to the span that was active during the handshake.
* A message to a group is a PRODUCER span, ``publish room.*`` or ``publish``. The names of groups
  are not bounded, so the name of the span has the pattern of ``WEBSOCKET_HISTORY``. The message
  carries the context of the span.
* If an event view has ``group_receive()``, each call is a CONSUMER span, the child of the PRODUCER
  span. So one decision of a sampler applies to a message on its whole way. The span also links to
  the PRODUCER span, as the conventions ask for, and to the handshake.

The tracer, samplers and processors are other people's code: what they raise is logged and counted,
and the message is handled without a span.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from django.core.signals import setting_changed
from greenlet import GreenletExit
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from .. import __version__, conf
from ..connection import tracing
from ..connection.counters import count
from ..connection.link import messages
from ..exceptions import ConnectionClosed
from ..logs import LogLimit, get_logger
from ..protocol.prepared import PreparedMessage

__all__ = ["OpenTelemetry", "install"]

logger = get_logger("django_wsmux.tracing")

_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

_SYSTEM: Final = {"messaging.system": "django_wsmux"}

_RECEIVE: Final = {
    **_SYSTEM,
    "messaging.operation.name": "receive",
    "messaging.operation.type": "process",
}

#: The end of the description of a sampler ``ParentBased`` that does as the parent says.
_BY_PARENT: Final = (
    ",remoteParentSampled:AlwaysOnSampler,remoteParentNotSampled:AlwaysOffSampler"
    ",localParentSampled:AlwaysOnSampler,localParentNotSampled:AlwaysOffSampler}"
)

_failed: Final = LogLimit()

Links = Sequence[Link]

#: A span that has begun, and the token of what was active before it. Not a class of its own: one is
#: made for each message.
Open = tuple[Span, Any]


class _Sender(NamedTuple):
    """The sender of a message: its span, and a link to it."""

    span: Span
    link: Link


class _Destination(NamedTuple):
    """What spans have that concern a group."""

    publish: str
    receive: str
    attributes: dict[str, str]


class _Conversation:
    """The code of a function view, or a helper, while it runs.

    Attributes:
        links: the handshake.
        span: the message that is handled.
        left_at: when the view left its loop, in nanoseconds; ``None`` while it is in there.
    """

    __slots__ = ("left_at", "links", "span")

    def __init__(self, links: Links) -> None:
        self.links = links
        self.span: Span | None = None
        self.left_at: int | None = None

    def end(self, websocket: Any, error: BaseException | None = None) -> None:
        """End the span of the last message."""
        span, self.span = self.span, None
        if span is not None:
            if error is not None and not _is_normal(websocket, error):
                _record(span, error)
            _end(span, self.left_at)
        self.left_at = None


_NO_CONVERSATION: Final = _Conversation(())

_conversation: Final = ContextVar("django_wsmux_conversation", default=_NO_CONVERSATION)

#: The span of the message that an event view handles.
_message: Final[ContextVar[Span | None]] = ContextVar("django_wsmux_message", default=None)


class OpenTelemetry:
    """Implements ``connection.tracing.Tracer``."""

    def __init__(self) -> None:
        # A tracer of OpenTelemetry's that looks for the real one in each call, until there is one.
        self._start = trace.get_tracer("django_wsmux", __version__).start_span
        self._is_real = False
        # Whether the sampler drops each child of a span that it has dropped.
        self._drops_children = False
        # Links to the handshake.
        self._links: WeakKeyDictionary[Any, Links] = WeakKeyDictionary()

    # Sockets

    def opens(self, websocket: Any) -> None:
        """Keep a link to the span that is active in a handshake."""
        try:
            found = trace.get_current_span().get_span_context()
            if found.is_valid:
                self._links[websocket] = (Link(found),)
        except Exception:
            _report()

    def state(self, websocket: Any) -> str:
        """Return the link to the handshake as text, for another process."""
        links = self._links.get(websocket)
        return _traceparent(links[0].context) if links else ""

    def restore(self, websocket: Any, state: str) -> None:
        """Keep the link to the handshake of a socket that comes from another process."""
        sender = _sender(state)
        if sender is not None:
            self._links[websocket] = (sender.link,)

    # Messages

    def receive(
        self, websocket: Any, handle: Callable[[Any], object], message: str | bytes | None
    ) -> object:
        """Call ``handle(message)`` in a CONSUMER span."""
        links = self._links.get(websocket, ())
        owner = getattr(handle, "__self__", None)
        if owner is None:
            attributes = _of_function(websocket)
        else:
            attributes = _of_view(_class_of(owner), "receive")
        opened = self._begin("receive", None, SpanKind.CONSUMER, attributes, links)
        if opened is None:
            return handle(message)
        # The context of an event view ends with the message.
        return _handled(websocket, handle, message, opened, is_kept=owner is None)

    def group_receive(
        self,
        websocket: Any,
        handle: Callable[[Any], object],
        prepared: PreparedMessage,
        message: str | bytes,
    ) -> object:
        """Call ``handle(message)`` in a CONSUMER span, the child of the sender's span."""
        links: Links = self._links.get(websocket, ())
        context = None
        traceparent = prepared.traceparent
        sender = _sender(traceparent) if traceparent else None
        if sender is not None:
            context = set_span_in_context(sender.span, contexts.get_current())
            links = (sender.link, *links)
        owner = getattr(handle, "__self__", websocket.hooks.view)
        name, attributes = _of_group(prepared.group, _class_of(owner))
        opened = self._begin(name, context, SpanKind.CONSUMER, attributes, links)
        if opened is None:
            return handle(message)
        return _handled(websocket, handle, message, opened, is_kept=False)

    def name(self, kind: str) -> None:
        """Add a type that the view declares to the name of the span."""
        span = _message.get()
        try:
            if span is not None and span.is_recording():
                span.update_name(f"receive {kind}")
        except Exception:
            _report()

    def messages(self, websocket: Any) -> Iterator[str | bytes]:
        """Yield the messages of a function view, each in a span until the next one is taken."""
        conversation = _conversation.get()
        is_in_request = conversation is _NO_CONVERSATION
        if is_in_request:
            # A view without a decorator: what it raises ends the request.
            conversation = _Conversation(self._links.get(websocket, ()))
        conversation.end(websocket)
        attributes, links = _of_function(websocket), conversation.links
        for message in messages(websocket):
            before = contexts.get_current()
            # Not a child of the request's span: it may be active until the socket closes.
            root = set_span_in_context(INVALID_SPAN, before)
            opened = self._begin("receive", root, SpanKind.CONSUMER, attributes, links)
            if opened is None:
                yield message
                continue
            span, _ = opened
            conversation.span = span
            try:
                yield message
            except GeneratorExit:
                # Perhaps because of an error, which will end the conversation.
                conversation.left_at = time.time_ns()
                raise
            finally:
                # Not detach(): a generator may be closed in another context.
                if trace.get_current_span() is span:
                    contexts.attach(before)
                if is_in_request or conversation.left_at is None:
                    conversation.end(websocket)

    def converse(self, websocket: Any, function: Callable[..., object], *args: object) -> object:
        """Call other code of a view, whose spans link to the handshake if they begin a trace."""
        conversation = _Conversation(self._links.get(websocket, ()))
        token = _conversation.set(conversation)
        try:
            result = function(*args)
        except BaseException as error:
            conversation.end(websocket, error)
            raise
        finally:
            _conversation.reset(token)
        conversation.end(websocket)
        return result

    # Groups

    def publisher(
        self, name: str, send: Callable[[bool, str], None], *, is_stored: bool = False
    ) -> Callable[[bool], None]:
        """Return a function that sends a message in a PRODUCER span, the child of this moment's."""
        context = contexts.get_current()
        links = _conversation.get().links
        if links and trace.get_current_span(context).get_span_context().is_valid:
            links = ()
        return partial(self._publish, name, send, context, links, is_stored)

    def _publish(
        self,
        name: str,
        send: Callable[[bool, str], None],
        context: contexts.Context,
        links: Links,
        is_stored: bool,
        fail_silently: bool,
    ) -> None:
        title, attributes = _of_publish(name, is_stored)
        opened = self._begin(title, context, SpanKind.PRODUCER, attributes, links)
        if opened is None:
            send(fail_silently, "")
            return
        span, token = opened
        try:
            send(fail_silently, _traceparent(span.get_span_context()))
        except BaseException as error:
            contexts.detach(token)
            _end_with(span, None, error)
            raise
        contexts.detach(token)
        _end(span)

    def fail(self, error: BaseException) -> None:
        """Record an error on the span of the message that is sent."""
        _record(trace.get_current_span(), error)

    def _begin(
        self,
        name: str,
        context: contexts.Context | None,
        kind: SpanKind,
        attributes: Mapping[str, str],
        links: Links,
    ) -> Open | None:
        """Begin a span and make it active; return ``None`` if that fails."""
        try:
            if context is None:
                context = contexts.get_current()
            if not self._is_real:
                self._find()
            if self._drops_children:
                parent = trace.get_current_span(context)
                if type(parent) is NonRecordingSpan and _is_dropped(parent.get_span_context()):
                    # A span of its own would not be exported either: it only takes time.
                    return parent, contexts.attach(context)
            span = self._start(name, context, kind, attributes, links)
            return span, contexts.attach(set_span_in_context(span, context))
        except Exception:
            _report()
            return None

    def _find(self) -> None:
        """Use the real tracer, once the project has set its provider."""
        if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            tracer = trace.get_tracer("django_wsmux", __version__)
            self._start = tracer.start_span
            self._is_real = True
            self._drops_children = _drops_children(tracer)


def install(*, is_wanted: bool = True) -> None:
    """Make OpenTelemetry the tracer of this process, or stop it.

    Args:
        is_wanted: whether to trace.
    """
    if is_wanted:
        tracing.tracer = OpenTelemetry()
    elif isinstance(tracing.tracer, OpenTelemetry):
        tracing.tracer = None


def _handled(
    websocket: Any,
    handle: Callable[[Any], object],
    message: Any,
    opened: Open,
    *,
    is_kept: bool,
) -> object:
    """Call ``handle(message)``, and end its span.

    Args:
        websocket: the socket.
        handle: handles the message.
        message: the message.
        opened: its span.
        is_kept: whether the current context is that of the next message, too.
    """
    span, token = opened
    _message.set(span)
    try:
        result = handle(message)
    except BaseException as error:
        # It stays active: what is logged about the error belongs to it.
        _end_with(span, websocket, error)
        raise
    if is_kept:
        contexts.detach(token)
    _end(span)
    return result


def _drops_children(tracer: trace.Tracer) -> bool:
    """Return whether a tracer's sampler is known to drop the children of dropped spans."""
    sampler: Any = getattr(tracer, "sampler", None)  # the API knows no samplers
    if sampler is None:
        return False
    # OpenTelemetry specifies this text, but no other way to ask.
    text: str = sampler.get_description()
    return text.startswith("ParentBased{") and text.endswith(_BY_PARENT)


def _is_dropped(found: SpanContext) -> bool:
    return found.is_valid and not found.trace_flags & TraceFlags.SAMPLED


def _end(span: Span, moment: int | None = None) -> None:
    try:
        span.end(moment)
    except Exception:
        _report()


def _end_with(span: Span, websocket: Any, error: BaseException) -> None:
    """End the span of a message whose handling has raised."""
    if not _is_normal(websocket, error):
        _record(span, error)
    _end(span)


def _is_normal(websocket: Any, error: BaseException) -> bool:
    """Return whether an exception is no failure: the peer has left, or the greenlet ends."""
    if isinstance(error, ConnectionClosed):
        return websocket is not None and websocket.closed
    return isinstance(error, GreenletExit)


def _record(span: Span, error: BaseException) -> None:
    kind = type(error)
    try:
        if span.is_recording():
            span.set_attribute("error.type", f"{kind.__module__}.{kind.__qualname__}")
            span.record_exception(error)
            span.set_status(Status(StatusCode.ERROR, f"{kind.__qualname__}: {error}"))
    except Exception:
        _report()


def _report() -> None:
    """Count and log the exception that is being handled."""
    count("tracing_failed")
    suffix = _failed.suffix()
    if suffix is not None:
        logger.exception("OpenTelemetry failed, and a span is missing%s", suffix)


# Contexts as text


def _traceparent(found: SpanContext) -> str:
    """Return a context as the header of W3C Trace Context; ``""`` if there is none."""
    if not found.is_valid:
        return ""
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags & 0xFF:02x}"


# One message may go to many sockets.
@lru_cache(maxsize=256)
def _sender(traceparent: str) -> _Sender | None:
    """Return the context of a sender; ``None`` if the text is damaged."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    if not context.is_valid:
        return None
    return _Sender(NonRecordingSpan(context), Link(context))


# Names and attributes


@lru_cache(maxsize=1024)
def _destination(name: str) -> _Destination:
    """Return what spans of a group have."""
    pattern = None
    if conf.has_history():
        from ..history.patterns import pattern_of

        pattern = pattern_of(name)
    if pattern is None:
        return _Destination("publish", "receive", {"messaging.destination.name": name})
    return _Destination(
        f"publish {pattern}",
        f"receive {pattern}",
        {"messaging.destination.name": name, "messaging.destination.template": pattern},
    )


@lru_cache(maxsize=1024)
def _of_publish(name: str, is_stored: bool) -> tuple[str, dict[str, str]]:
    found = _destination(name)
    kind = "create" if is_stored else "send"
    operation = {"messaging.operation.name": "publish", "messaging.operation.type": kind}
    return found.publish, {**_SYSTEM, **operation, **found.attributes}


@lru_cache(maxsize=1024)
def _of_group(name: str, view_class: Any) -> tuple[str, dict[str, str]]:
    found = _destination(name)
    return found.receive, {**_of_view(view_class, "group_receive"), **found.attributes}


@lru_cache(maxsize=1024)
def _of_view(view_class: Any, method: str) -> dict[str, str]:
    return _of_name(f"{view_class.__module__}.{view_class.__qualname__}.{method}")


def _class_of(view: Any) -> Any:
    """Return the class of an event view, which may not be restored yet after a move."""
    kind = type(view)
    return view.restored_class if hasattr(kind, "restored_class") else kind


def _of_function(websocket: Any) -> dict[str, str]:
    match = getattr(websocket.hooks.request, "resolver_match", None)
    return _of_name(getattr(match, "_func_path", ""))


@lru_cache(maxsize=1024)
def _of_name(name: str) -> dict[str, str]:
    return {**_RECEIVE, "code.function.name": name} if name else _RECEIVE


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "WEBSOCKET_HISTORY":
        _destination.cache_clear()
        _of_publish.cache_clear()
        _of_group.cache_clear()


setting_changed.connect(_forget, dispatch_uid="django_wsmux.monitoring.tracing")
