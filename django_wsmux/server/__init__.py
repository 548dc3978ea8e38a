"""Sockets: from the WSGI server's hands to a message in a view. No Django."""

__all__: list[str] = []
