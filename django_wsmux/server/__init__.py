"""Sockets: from the WSGI server to the messages of a view. No Django."""

__all__: list[str] = []
