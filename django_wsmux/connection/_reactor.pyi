from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from greenlet import greenlet

from .link import _Link
from .turns import _Pool, _ViewHooks

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

def serve(
    delivery: Any,
    seconds: float,
    step: int,
    following: tuple[Any, ...] = (),
    joined: bytes = b"",
    /,
) -> bool:
    """See ``fanout.py``."""

class Link(_Link):
    """See ``link.py``."""

class Reactor:
    """Watches all connections of a process: see ``transports/reactor.py``."""

    def __init__(self) -> None: ...
    def add(self, link: Link, descriptor: int, /) -> None: ...
    def remove(self, link: Link, /) -> None: ...
    def disown(self) -> None: ...
    def fileno(self) -> int: ...
    def run(self) -> None: ...

class ViewHooks(_ViewHooks):
    """See ``turns.py``."""

class Pool(_Pool):
    """See ``turns.py``."""
