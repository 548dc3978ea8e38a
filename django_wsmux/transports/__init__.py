"""Private: transports, which carry a socket's bytes: on gevent's hub or in a thread."""

__all__: list[str] = []
