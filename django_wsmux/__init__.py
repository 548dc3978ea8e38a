"""WebSockets for synchronous Django: same port, same process, same code."""

__all__ = ["__version__"]

__version__ = "0.1.0"
