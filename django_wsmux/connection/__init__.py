"""Private: one socket, independent of its transport. No I/O library and no Django."""

__all__: list[str] = []
