"""Counters, an overview of all processes, and where they are shown."""

__all__: list[str] = []
