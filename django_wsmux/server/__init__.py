"""Private: WSGI servers and state of the whole process. No Django."""

__all__: list[str] = []
