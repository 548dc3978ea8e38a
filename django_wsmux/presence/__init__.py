"""Private: stores who is present in groups, for all processes."""

__all__: list[str] = []
