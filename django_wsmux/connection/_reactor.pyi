from collections import deque
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from greenlet import greenlet

def adopt(hub: greenlet, buffer: bytearray, mark: str, plain: object, /) -> None:
    """Serve the connections of this thread.

    Args:
        hub: gevent's hub.
        buffer: the buffer that all connections read into.
        mark: see ``interfaces.MARK``.
        plain: the framing of sockets that send messages as they are.
    """

def forget() -> None:
    """Forget the thread of ``adopt()``, in a forked child."""

def readable(link: Link, /) -> None:
    """Read once from a connection, and pass on what arrives."""

def receive(function: Callable[..., Any], /) -> Callable[..., Any]:
    """Wrap ``receive()`` of a connection; the wrapper calls it for all that is not common."""

def send(function: Callable[..., Any], /) -> Callable[..., Any]:
    """Wrap ``send()`` of a connection; the wrapper calls it for all that is not common."""

def messages(link: Link, /) -> Iterator[str | bytes]:
    """Return an iterator over ``receive()`` until the socket is closed."""

def adopt_pool(pool: Pool, /) -> None:
    """Let event views handle messages in a pool's greenlets."""

def adopt_views(contexts: str, tracing: ModuleType, /) -> None:
    """Call event views in the contexts of greenlets.

    Args:
        contexts: see ``turns.CONTEXTS``.
        tracing: the module ``tracing``.
    """

def handled(seconds: float, /) -> None:
    """Record how long a handler of an event view took."""

def handler_calls() -> tuple[list[int], float]:
    """Return the number of calls in each bucket, and their time in seconds."""

def owe(members: list[Any], start: int, number: int, /) -> None:
    """See ``fanout.py``."""

def serve(delivery: Any, seconds: float, step: int, /) -> bool:
    """See ``fanout.py``."""

class Link:
    """The members of a connection that C uses: see ``link.py``."""

    codec: Any
    hooks: Any
    options: Any
    _transport: Any
    _framing: Any
    _inbox: Any
    _held: Any
    _readiness: Any
    _waiter: Any
    _messages_in: int
    _bytes_in: int
    _messages_out: int
    _bytes_out: int
    _owed: int
    _given: int
    _descriptor: int
    _direct: int
    _state: int
    _is_alive: bool
    _is_busy: bool
    is_event_driven: bool
    _is_intercepting: bool
    _is_paused: bool
    _is_watched: bool

class Reactor:
    """Watches all connections of a process: see ``transports/reactor.py``."""

    def __init__(self) -> None: ...
    def add(self, link: Link, descriptor: int, /) -> None: ...
    def remove(self, link: Link, /) -> None: ...
    def disown(self) -> None: ...
    def fileno(self) -> int: ...
    def run(self) -> None: ...

class ViewHooks:
    """The members of the hooks that C uses: see ``turns.py``."""

    view: Any
    request_context: Any
    session: Any

    def receive(self, websocket: Any, message: str | bytes, /) -> None: ...

class Pool:
    """The part of a pool that each message uses: see ``turns.py``."""

    _hub: Any
    _jobs: deque[Callable[..., bool]]
    _size: int
    _is_ticking: bool

    def __init__(self, hub: greenlet, jobs: deque[Callable[..., bool]], size: int, /) -> None: ...
    @property
    def _parked_count(self) -> int: ...
    def start(self, job: Callable[..., bool], subject: Any = None, /) -> bool: ...
    def work(self) -> None: ...
    def is_parked(self, worker: greenlet, /) -> bool: ...
    def end_idle(self) -> None: ...
    def forget_parked(self) -> None: ...
