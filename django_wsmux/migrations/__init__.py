"""The tables: one, which only the PostgreSQL backend uses."""

__all__: list[str] = []
