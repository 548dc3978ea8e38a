"""Private: handshakes and open sockets, on the side of Django."""

__all__: list[str] = []
