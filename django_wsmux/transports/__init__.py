"""Private: what carries the bytes of a socket: gevent's hub, or a thread."""

__all__: list[str] = []
