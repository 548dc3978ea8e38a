"""Counters, an overview of all processes, and the pages that show them."""

__all__: list[str] = []
