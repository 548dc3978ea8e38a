"""Private: the WSGI server, and what belongs to the whole process. No Django."""

__all__: list[str] = []
