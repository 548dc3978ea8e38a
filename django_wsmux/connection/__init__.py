"""Private: one socket, whatever carries it. No I/O library and no Django."""

__all__: list[str] = []
