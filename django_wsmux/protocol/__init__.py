"""Turns bytes into messages and back: no socket, no gevent, no Django."""

__all__: list[str] = []
