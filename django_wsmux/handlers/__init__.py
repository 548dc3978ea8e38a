"""Private: Django's side of handshakes and of open sockets."""

__all__: list[str] = []
