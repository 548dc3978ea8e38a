"""Class-based views for WebSockets, which need no greenlet while the socket is idle.

A function view has a greenlet for as long as its socket is open. A class-based view has one only
while it handles a message: the message borrows it from a pool of ``WEBSOCKET_HANDLER_GREENLETS``.
Messages of one socket are handled one at a time and in order, those of different sockets
concurrently. For database connections each message counts as a request.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, cast

from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db.models import Model
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import classonlymethod
from django.utils.functional import SimpleLazyObject, cached_property
from django.views.generic.base import View

from .auth.authenticators import authentication
from .connection import tracing
from .connection.group_receive import intercept
from .connection.habits import advise, is_missing
from .connection.websocket import WebSocket
from .groups.group import Group
from .handlers.callables import (
    explain,
    name_of,
    require_arguments,
    require_done,
    require_plain,
)
from .handlers.handler import upgrade_required
from .handlers.json_forms import is_valid
from .handlers.refusing import check_refusals
from .handlers.socket import DjangoHooks
from .protocol.frames import CloseCode
from .requests import ERRORS, Request, current, handle, parse, send_errors
from .responses import SwitchingProtocols

__all__ = ["FormWebSocketView", "JSONWebSocketView", "WebSocketView"]


class _NoRequest:
    """Stands for a request that was dropped; access to its attributes raises an error."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"request.{name}: this view has keep_request = False, so the request is dropped once "
            f"the socket is open; read what you need in connect(), or set keep_request = True"
        )

    def __repr__(self) -> str:
        return "<request, not kept>"


_NO_REQUEST: Final = cast(HttpRequest, _NoRequest())

#: Attributes of a view that do not move to another process: ``setup()`` and ``as_view()`` set them,
#: and the new process sets its own.
_NOT_CARRIED: Final = frozenset({"_options", "args", "head", "kwargs", "request", "websocket"})

#: Key of the attributes that are the request's user in the state of a view.
_USER: Final = "request.user"


#: Attributes of consumers of Django Channels, with what to use instead.
_HABITS: Final = {
    "accept": "return None from connect() to accept; the attribute subprotocols lists names",
    "channel_layer": "use django_wsmux.groups.Group(name).join(self.websocket) and .send(message)",
    "channel_name": "use Group.for_user(user), Group.for_session(key) or a group of its own",
    "group_add": "write Group(name).join(self.websocket)",
    "group_discard": "write Group(name).leave(self.websocket)",
    "group_send": "write Group(name).send(message)",
    "recv": "define receive(self, message), which is called for each message",
    "scope": "use self.request and self.kwargs",
    "session": "use self.request.session",
    "user": "use self.request.user",
}

#: The arguments of the methods that a project may define.
_ARGUMENTS: Final = {
    "connect": ("request",),
    "disconnect": ("code", "reason"),
    "group_receive": ("message",),
    "handover_state": (),
    "receive": ("message",),
    "receive_bytes": ("data",),
    "receive_json": ("value",),
    "receive_text": ("text",),
    "restore_handover": ("state",),
    "form_invalid": ("form",),
    "form_valid": ("form",),
}


def _as_refusal(result: Any, connect: Callable[..., Any]) -> HttpResponseBase:
    """Return what ``connect()`` has returned, if it is a response."""
    if isinstance(result, HttpResponseBase):
        return result
    require_done(result, connect)
    raise TypeError(
        f"{name_of(connect)} returned {result!r}: return None to accept, or an HttpResponse to "
        f"refuse"
    )


class WebSocketView(View):
    """A class-based view: each socket has an instance, which lives as long as the socket.

    Override the methods that you need::

        class Echo(LoginRequiredMixin, WebSocketView):
            def connect(self, request, room):
                self.room = get_object_or_404(Room, slug=room)

            def receive(self, message):
                self.send(message)

        urlpatterns = [path("echo/<slug:room>/", Echo.as_view(), name="echo")]

    Attributes:
        request: the handshake; see ``keep_request``.
        args, kwargs: values captured by the URL pattern.
        websocket: the socket, with ``latency``, ``subprotocol``, ``ping()`` and so on.
        subprotocols: names in order of preference; the first that the client offers is chosen.
        compression: ``False`` declines what clients offer even if ``WEBSOCKET_COMPRESSION`` is on;
            ``connect()`` may set it.
        realtime: ``False`` declines the subprotocol ``wsmux.v1``, which is otherwise accepted if
            the view has no ``subprotocols`` of its own.
        groups: names of groups to join; see also ``get_groups()``.
        authenticators: authenticators to ask before ``dispatch()``, in addition to cookies; see
            ``django_wsmux.auth.authenticators``.
        group_receive: ``None``, or a method that handles the messages of groups: ``str`` for
            text, ``bytes`` for binary.
        refusals: ``"close"`` shows browsers a refusal as a close code, ``"http"`` as a response;
            ``None`` uses ``WEBSOCKET_REFUSALS``.
        sends: dataclasses that describe the messages that clients get, by their ``type``.
            ``manage.py websocketschema`` writes types for clients from them, and tests check what
            is sent; a server does not. ``None`` declares nothing.
        keep_request: whether to keep ``self.request`` after ``connect()``. ``False`` saves some KiB
            per socket; only what ``connect()`` stored on ``self`` is available then.
        handover: whether the open socket may move to another process, when this one ends because
            of a deploy, say; see ``handover_state()``. ``False`` closes it with 1012.
    """

    websocket: WebSocket
    subprotocols: Sequence[str] = ()
    compression = True
    realtime = True
    groups: Sequence[str] = ()
    authenticators: Sequence[Any] = ()
    refusals: str | None = None
    sends: ClassVar[Mapping[str, type[Any]] | None] = None
    keep_request = True
    handover = True

    #: Define ``group_receive(self, message)`` to handle the messages of groups: the view is then
    #: called for each of them, as for ``receive()``, and the client gets only what the view sends.
    #: Without it the bytes go straight to the client, which is far cheaper.
    group_receive: Any = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if options:
            # The new process has its own, perhaps changed ones.
            self._options = options

    @classonlymethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., HttpResponseBase]:
        """Return the view for a URL pattern; it asks ``authenticators`` first.

        Raises:
            TypeError: a method is async, has ``yield`` in it or takes other arguments; a string or
                function is given where a list is expected; ``handover`` is not a bool; a dataclass
                in ``forms`` or ``sends`` has a type hint that is not supported; a form or dataclass
                has a field ``ref``; ``templates`` has a type that ``forms`` has not.
            ValueError: ``refusals`` is neither ``"http"`` nor ``"close"`` nor ``None``; or
                ``limits`` has a rate that is not one, or a type that ``forms`` lacks.
        """
        _check(cls, initkwargs)
        check_refusals(initkwargs.get("refusals", cls.refusals))
        view: Callable[..., HttpResponseBase] = super().as_view(**initkwargs)
        authenticators = initkwargs.get("authenticators", cls.authenticators)
        return authentication(*authenticators)(view) if authenticators else view

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Store request, socket and arguments, before ``dispatch()``."""
        super().setup(request, *args, **kwargs)
        # A plain request has no socket; dispatch() answers it.
        self.websocket = getattr(request, "websocket", None)  # type: ignore[assignment]

    @cached_property
    def request(self) -> HttpRequest:  # type: ignore[override]
        """The handshake; once the socket has moved to another process, made again at first use."""
        hooks = self.websocket.hooks
        assert isinstance(hooks, DjangoHooks)
        return hooks.make_request(self.websocket)

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer the handshake; mixins such as ``LoginRequiredMixin`` run before."""
        if self.websocket is None:
            return upgrade_required(request)
        hooks = self.websocket.hooks
        assert isinstance(hooks, DjangoHooks)
        if self.group_receive is not None:
            intercept(self.websocket)
        names = self.get_groups()
        if names is None or isinstance(names, str):
            raise TypeError(
                f"{type(self).__qualname__}.get_groups() returned {names!r}: return a list of names"
            )
        for name in names:
            Group(name).join(self.websocket)
        # What it sends meanwhile waits for the 101.
        hooks.view = self
        try:
            refusal = self.connect(request, *args, **kwargs)
        except TypeError as error:
            explain(error)
            raise
        if refusal is not None:
            return _as_refusal(refusal, self.connect)
        response = SwitchingProtocols(
            subprotocols=self.subprotocols,
            compression=self.compression,
            realtime=self.realtime,
        )
        if hooks.request is not None:
            hooks.request.accepted = response
        hooks.request_context = response.request_context
        return response

    def missed(self, group: Group) -> None:
        """Handle a gap: the client will never get some messages of a group.

        Called once the socket is open if the client returned too late, and whenever the history of
        the group is lost or forgotten. It may run at the same time as ``receive()``. A client with
        ``wsmux.v1`` is always told of the gap, so this method does nothing; override it for other
        clients::

            def missed(self, group):
                self.send_json({"type": "reload"})
        """

    # Sockets need no greenlet for it.
    missed.does_nothing = True  # type: ignore[attr-defined]

    def release_request(self) -> None:
        """Drop the request, since ``keep_request`` is ``False``."""
        self.request = _NO_REQUEST

    # Methods to override

    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase | None:
        """Accept or refuse the handshake, before the 101 is sent.

        Messages sent here, and those sent to the view's groups meanwhile, go out right after the
        101.

        Args:
            request: the handshake, after the project's middleware.
            args, kwargs: values captured by the URL pattern.

        Returns:
            ``None`` to accept, or a response to refuse. Exceptions that a view may raise, such as
            ``Http404`` or ``PermissionDenied``, also refuse.
        """
        return None

    def receive(self, message: str | bytes) -> None:
        """Handle one message; by default, call ``receive_text()`` or ``receive_bytes()``.

        Args:
            message: ``str`` for text, ``bytes`` for binary; may be empty.
        """
        if isinstance(message, str):
            self.receive_text(message)
        else:
            self.receive_bytes(message)

    def receive_text(self, text: str) -> None:
        """Handle a text message; by default, close the socket with 1003."""
        self.close(CloseCode.UNSUPPORTED_DATA, "text is not expected here")

    def receive_bytes(self, data: bytes) -> None:
        """Handle a binary message; by default, close the socket with 1003."""
        self.close(CloseCode.UNSUPPORTED_DATA, "binary data is not expected here")

    def disconnect(self, code: int, reason: str) -> None:
        """Clean up after the socket has closed: called once for each accepting ``connect()``.

        Messages sent to the socket are ignored now.

        Args:
            code: close code of the side that closed first; 1006 if the connection was lost
                (RFC 6455 section 7.1.5), also if that was before the 101 arrived.
            reason: the reason sent with it, or ``""``.
        """

    def get_groups(self) -> Sequence[str]:
        """Return the names of the groups to join; by default, ``groups``.

        Example::

            def get_groups(self):
                return [f"room.{self.kwargs['room']}"]
        """
        return self.groups

    def handover_state(self) -> Any:
        """Return what this view remembers, for a new view of its class in another process.

        By default, the attributes of the view, except ``request``, ``args``, ``kwargs`` and
        ``websocket``. They can be ``None``, ``bool``, ``int``, ``float``, ``str``, ``bytes``,
        ``list``, ``tuple``, ``set``, ``dict``, ``datetime``, ``date``, ``time``, ``timedelta``,
        ``Decimal``, ``UUID``, ``Group``, ``request.user``, and instances of models, which are read
        again from the database. If there is a value of another type, the socket is closed with
        1012.

        This method must not wait, so it must not use the database, say.

        Returns:
            Any value of these types.

        Example::

            def handover_state(self):
                return {"room": self.room.pk, "unsaved": self.draft.text}

            def restore_handover(self, state):
                self.room = Room.objects.get(pk=state["room"])
                self.draft = Draft(state["unsaved"])
        """
        options = vars(self).get("_options", {})
        state = {
            name: value
            for name, value in vars(self).items()
            if name not in _NOT_CARRIED and not (name in options and options[name] is value)
        }
        user = getattr(vars(self).get("request"), "user", None)
        names = [name for name, value in state.items() if _is_request_user(value, user)]
        if names:
            state = {name: state[name] for name in state.keys() - set(names)}
            state[_USER] = names
        return state

    def restore_handover(self, state: Any) -> None:
        """Go on in a new process, instead of ``connect()``; by default, set the attributes.

        Groups, the client's id and the user have moved with the socket. ``self.request`` is made
        again when it is used: the project's middleware runs for it a second time.

        Args:
            state: what ``handover_state()`` has returned in the old process. Its code may have been
                older than this.

        Raises:
            Exception: any error closes the socket with 1012.
        """
        if not isinstance(state, dict):
            raise TypeError(
                f"{type(self).__qualname__}.handover_state() returned {type(state).__name__}: "
                f"define restore_handover(state), too"
            )
        names = state.get(_USER, ())
        vars(self).update((name, value) for name, value in state.items() if name != _USER)
        for name in names:
            setattr(self, name, _RequestUser(lambda: self.request.user))

    # Methods to call

    def send(self, message: str | bytes) -> None:
        """Send one message; see ``WebSocket.send()``."""
        self.websocket.send(message)

    def send_json(self, value: Any, **options: Any) -> None:
        """Send a value as JSON text; see ``WebSocket.send_json()``."""
        self.websocket.send_json(value, **options)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the socket; see ``WebSocket.close()``. Unhandled messages are dropped."""
        self.websocket.close(code, reason)


advise(WebSocketView, _HABITS)


class _RequestUser(SimpleLazyObject):  # type: ignore[type-arg]
    """Stands for ``request.user`` in an attribute of a moved view, until it is used."""


def _is_request_user(value: Any, user: Any) -> bool:
    """Return whether a value is the request's user: one who is anonymous, or was not read yet.

    Args:
        value: an attribute of a view.
        user: ``request.user``; ``None`` if the request was not made again yet.
    """
    kind = type(value)
    if kind is _RequestUser:
        return True
    if user is None or issubclass(type(user), Model):
        return False
    return value is user or (issubclass(kind, SimpleLazyObject) and vars(value)["_wrapped"] is user)


def _check(view_class: type[Any], options: dict[str, Any]) -> None:
    """Raise for attributes and methods that would not do what they seem to.

    Raises:
        TypeError: see ``WebSocketView.as_view()``.
    """
    bare = object.__new__(view_class)  # for methods without self
    bare.__dict__.update(options)
    for name in ("authenticators", "groups", "subprotocols"):
        value = _attribute(bare, name)
        if isinstance(value, str) or callable(value):
            one = repr(value) if isinstance(value, str) else "..."
            raise TypeError(f"{view_class.__qualname__}.{name} = {value!r}: write {name} = [{one}]")
    handover = options.get("handover", getattr(view_class, "handover", True))
    if not isinstance(handover, bool):
        raise TypeError(f"{view_class.__qualname__}.handover = {handover!r}: write True or False")
    hooks = {
        name
        for base in view_class.__mro__
        if base.__module__ == __name__
        for name, value in vars(base).items()
        if not is_missing(value)
    }
    kinds = options.get("forms", getattr(view_class, "forms", {}))
    forms = {f"{kind}_{outcome}" for kind in kinds for outcome in ("valid", "invalid")}
    for name in sorted(hooks | forms):
        method = None if name.startswith("__") else _attribute(bare, name)
        if not callable(method):
            continue
        require_plain(method)
        arguments = ("form",) if name in forms else _ARGUMENTS.get(name)
        if arguments is not None:
            require_arguments(method, *arguments, more=name == "connect")
    _check_limits(view_class, options.get("limits", getattr(view_class, "limits", {})), kinds)
    for kind in options.get("templates", getattr(view_class, "templates", {})):
        if kind not in kinds:
            raise TypeError(f"{view_class.__qualname__}.templates[{kind!r}]: forms has no {kind!r}")
    _check_messages(view_class, "forms", kinds)
    _check_messages(view_class, "sends", options.get("sends", view_class.sends) or {})


def _check_limits(view_class: type[Any], limits: Any, kinds: Mapping[str, Any]) -> None:
    if not limits:
        return
    from .handlers.rates import parse_rate

    if not isinstance(limits, Mapping):
        raise TypeError(f'{view_class.__qualname__}.limits = {limits!r}: write {{"say": "10/m"}}')
    for kind, rate in limits.items():
        place = f"{view_class.__qualname__}.limits[{kind!r}]"
        if kinds and kind not in kinds:
            raise ValueError(f"{place}: forms has no such type")
        try:
            parse_rate(rate)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None


def _check_messages(view_class: type[Any], name: str, kinds: Mapping[str, Any]) -> None:
    for kind, described in kinds.items():
        place = f"{view_class.__qualname__}.{name}[{kind!r}]"
        if name == "forms" and isinstance(described, type) and issubclass(described, BaseForm):
            if "ref" in getattr(described, "base_fields", ()) and not described.prefix:
                raise TypeError(
                    f"{place}: {described.__qualname__}.ref: messages have a key ref: rename it"
                )
            continue
        from .handlers.dataclass_forms import require_message

        require_message(described, kind, place, is_input=name == "forms")


def _attribute(bare: Any, name: str) -> Any:
    """Return an attribute of a view without a socket; ``None`` for a property, which needs one."""
    found = inspect.getattr_static(bare, name, None)
    is_property = isinstance(found, (property, cached_property, functools.cached_property))
    return None if is_property else getattr(bare, name, None)


class JSONWebSocketView(WebSocketView):
    """A view whose messages are JSON texts.

    Example::

        class Clock(JSONWebSocketView):
            def receive_json(self, value):
                self.send_json({"asked": value, "now": timezone.now()})

    If a message is an object with ``ref``, the return value of ``receive_json()`` is the reply to
    it; see ``django_wsmux.requests``.

    Attributes:
        once: whether a message that is sent again with the same ``ref`` is answered without being
            handled again, within five minutes. Needs a cache that all workers share.
        limits: how many messages of a type each socket may send: ``{"say": "10/m"}``. As many may
            come at once. Further ones are not handled, but answered with an error that has the code
            ``rate_limited``, and ``retry_after`` beside it, in seconds.
    """

    once = False
    limits: ClassVar[Mapping[str, str]] = {}

    def receive_text(self, text: str) -> None:
        """Parse a message and call ``receive_json()`` with its value."""
        try:
            value = parse(text)
        except (ValueError, RecursionError) as error:
            self.invalid_json(error)
            return
        if type(value) is dict and "ref" in value:
            self._handle_request(Request(self.websocket, value), text)
            return
        try:
            result = self._receive(value)
        except ValidationError as error:
            kind = value.get("type") if isinstance(value, dict) else None
            more = {"type": kind} if isinstance(kind, str) else {}
            send_errors(self.websocket, error, **more)
            return
        if result is not None:
            require_done(result, self.receive_json)

    def _handle_request(self, request: Request, text: str) -> None:
        if request.ref is None:
            request.refuse("invalid_ref")
        elif self.once:
            from .handlers.once import run

            run(request, text, type(self), self._answer)
        else:
            self._answer(request)

    def _answer(self, request: Request) -> None:
        handle(request, self._receive_request)

    def _receive_request(self, data: dict[str, Any]) -> Any:
        return require_done(self._receive(data), self.receive_json)

    def _receive(self, value: Any) -> Any:
        """Handle a message, unless there were too many."""
        if self.limits:
            from .handlers.rates import parse_rate, take

            kind = self._type_of(value)
            if isinstance(kind, str) and kind in self.limits:
                if tracing.tracer is not None:
                    tracing.tracer.name(kind)
                take(vars(self).setdefault("_buckets", {}), kind, parse_rate(self.limits[kind]))
        return self.receive_json(value)

    def _type_of(self, value: Any) -> Any:
        """Return the type of a message for ``limits``."""
        return value.get("type") if isinstance(value, dict) else None

    def receive_json(self, value: Any) -> Any:
        """Handle the value of a message; override it.

        Returns:
            The reply, if the value is an object with ``ref``. Otherwise the result is ignored.

        Raises:
            ValidationError: sent to the peer as ``errors``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define receive_json(value)")

    def invalid_json(self, error: Exception) -> None:
        """Handle a message that is not JSON; by default, send an error to the peer.

        Args:
            error: the error of the parser.
        """
        self._refuse("invalid_json")

    def send_error(self, code: str, message: str) -> None:
        """Send an error in the format of ``form.errors.get_json_data()``.

        In a method that handles a message with ``ref``, it is the answer to the message.
        """
        request = current(self.websocket)
        if request is None:
            send_errors(self.websocket, message, code)
        else:
            request.error(message, code)

    def _refuse(self, code: str) -> None:
        self.send_error(code, ERRORS[code])


def _fields_in(message: dict[str, Any]) -> Any:
    """Return the fields of a message of htmx; ``None`` for any other message."""
    from .handlers.htmx import fields_of

    return fields_of(message)


class FormWebSocketView(JSONWebSocketView):
    """A view that validates JSON objects with forms or dataclasses, chosen by the key ``type``.

    Several features share one socket, each with its own form::

        class Chat(FormWebSocketView):
            forms = {"say": SayForm, "rename": RenameForm}

            def say_valid(self, form):
                self.room.send_json({"type": "said", "text": form.cleaned_data["text"]})

            def rename_valid(self, form):
                self.name = form.cleaned_data["name"]

    ``{"type": "say", "text": "hello"}`` goes to ``SayForm`` and, if valid, to ``say_valid()``. A
    form with errors goes to ``say_invalid()`` or ``form_invalid()``, which answers the peer with
    ``{"type": "say", "errors": {"text": [{"message": ..., "code": ...}]}}``.

    In the place of a form there may be a dataclass, which is checked by its type hints.
    ``say_valid()`` is then called with an instance of it.

    The return value of ``say_valid()`` is the reply to a message with ``ref``, and a
    ``ValidationError`` that it raises is sent as ``errors``.

    A message that htmx has made of an HTML form, which needs a field ``type``, is validated like
    any other. If ``templates`` has a template for it, an invalid form is answered with HTML instead
    of ``errors``: the template, rendered with the variables ``form`` and ``view``::

        class Chat(FormWebSocketView):
            forms = {"say": SayForm}
            templates = {"say": "chat/say_form.html"}

    ``say_valid()`` may call ``self.send_form("say")``, which sends an empty form.

    Attributes:
        forms: form classes, or dataclasses, by the ``type`` of the messages that they validate.
        templates: names of the templates of forms, by the same keys.
    """

    forms: ClassVar[Mapping[str, type[Any]]] = {}
    templates: ClassVar[Mapping[str, str]] = {}

    def receive_json(self, value: Any) -> Any:
        """Validate a message with its form, and return the reply."""
        if not isinstance(value, dict):
            self._refuse("invalid_message")
            return None
        fields = None
        if "headers" in value or "HEADERS" in value:
            fields = _fields_in(value)
            value = value if fields is None else fields
        kind = value.get("type")
        if not isinstance(kind, str) or kind not in self.forms:
            self.unknown_type(kind, value)
            if current(self.websocket) is not None:
                self._refuse("unknown_type")
            return None
        if tracing.tracer is not None:
            tracing.tracer.name(kind)
        form = self.get_form(kind, value)
        if fields is not None:
            form.htmx_version = fields.version
        if is_valid(form):
            try:
                reply = self._valid(kind, form)
            except ValidationError as error:
                if fields is None or kind not in self.templates:
                    raise
                form.add_error(None, error)
            else:
                if reply is not None and (request := current(self.websocket)) is not None:
                    # An overriding method may not return it.
                    request.reply(reply)
                return reply
        hook = getattr(self, f"{kind}_invalid", None) or self.form_invalid
        require_done(hook(form), hook)
        if (request := current(self.websocket)) is not None:
            request.error(form.errors)
        return None

    def _type_of(self, value: Any) -> Any:
        # The type may be among the fields of a message of htmx.
        fields = _fields_in(value) if isinstance(value, dict) else None
        return super()._type_of(value if fields is None else fields)

    def _valid(self, kind: str, form: Any) -> Any:
        """Have the view handle a valid form; return the reply."""
        hook = getattr(self, f"{kind}_valid", None)
        if hook is None:
            reply = self.form_valid(form)
        else:
            reply = hook(form if isinstance(form, BaseForm) else form.value)
        if reply is not None:
            require_done(reply, hook or self.form_valid)
        return reply

    def get_form(self, kind: str, data: dict[str, Any]) -> Any:
        """Return the form for a message; for a dataclass, an object with the methods of a form.

        Args:
            kind: the message's ``type``, a key of ``forms``.
            data: the whole message.
        """
        form_class = self.forms[kind]
        if not issubclass(form_class, BaseForm):
            from .handlers.dataclass_forms import DataclassForm

            # Of htmx, the message as it was sent.
            return DataclassForm(form_class, getattr(data, "message", data), kind)
        form = form_class(**self.get_form_kwargs(kind, data))
        # form_valid() and form_invalid() tell forms apart by it.
        form.message_type = kind  # type: ignore[attr-defined]
        return form

    def get_form_kwargs(self, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of the form; add an ``instance`` for a ``ModelForm``, say."""
        return {"data": data}

    def form_valid(self, form: Any) -> Any:
        """Handle a valid message for which there is no ``<type>_valid()``.

        Returns:
            The reply, if the message has a ``ref``.

        Raises:
            ValidationError: sent to the peer as ``errors``.
        """
        raise ImproperlyConfigured(
            f"{type(self).__name__} must define {form.message_type}_valid(form) or form_valid(form)"
        )

    def form_invalid(self, form: Any) -> None:
        """Handle an invalid message without ``<type>_invalid()``; by default, send its errors.

        The errors of a message of htmx are sent with ``send_form()`` if there is a template for it.
        If an overriding method does not answer a message with ``ref``, the errors are sent.
        """
        if form.message_type in self.templates and hasattr(form, "htmx_version"):
            self.send_form(form.message_type, form)
            return
        request = current(self.websocket)
        if request is None:
            send_errors(self.websocket, form.errors, type=form.message_type)
        else:
            request.error(form.errors)

    def send_form(self, kind: str, form: Any = None) -> None:
        """Render the template of a form and send the HTML to this socket.

        In a method that handles a message with ``ref``, it is the answer to the message.

        Args:
            kind: the message's ``type``, a key of ``templates``.
            form: the form; by default, one without data. The template has it as ``form``, and this
                view as ``view``.

        Raises:
            TemplateDoesNotExist: there is no such template.
            ConnectionClosed: the socket is closed.

        Example::

            def say_valid(self, form):
                form.save()
                self.send_form("say")
        """
        from .handlers.htmx import send_form

        if form is None:
            form = self.forms[kind](**{**self.get_form_kwargs(kind, {}), "data": None})
        send_form(self.websocket, self.templates[kind], {"form": form, "view": self})

    def unknown_type(self, kind: Any, data: dict[str, Any]) -> None:
        """Handle a message of an unknown type; by default, send an error to the peer.

        If an overriding method does not answer a message with ``ref``, the error is sent.
        """
        self._refuse("unknown_type")
