"""Private: bytes to messages and back. No socket, no gevent, no Django."""

__all__: list[str] = []
